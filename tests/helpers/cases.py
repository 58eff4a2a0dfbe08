"""Problems of windowed_attention that together use every feature; one list for all backends."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lckernels import Layout, Score


def _nothing(case: "AttentionCase") -> Layout:
    return Layout()


def _plain(case: "AttentionCase", dtype: torch.dtype) -> Score:
    return Score()


@dataclass(frozen=True)
class AttentionCase:
    name: str
    window_size: tuple[int, int] = (-1, -1)
    batch: int = 2
    seqlen_q: int = 13
    seqlen_k: int = 13
    num_heads: int = 2
    num_kv_heads: int = 2
    head_dim: int = 8
    head_dim_v: int = 8
    layout: Callable[["AttentionCase"], Layout] = _nothing
    score: Callable[["AttentionCase", torch.dtype], Score] = _plain
    dropout_p: float = 0.0

    def tensors(self, dtype: torch.dtype, requires_grad: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Fresh random q, k, v."""
        shapes = (
            (self.batch, self.seqlen_q, self.num_heads, self.head_dim),
            (self.batch, self.seqlen_k, self.num_kv_heads, self.head_dim),
            (self.batch, self.seqlen_k, self.num_kv_heads, self.head_dim_v),
        )
        q, k, v = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes)
        return tuple(x.requires_grad_(requires_grad) for x in (q, k, v))


def _ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _kv_mask(case: AttentionCase) -> Layout:
    mask = torch.ones(case.batch, case.seqlen_k, dtype=torch.bool)
    mask[0, 3:5] = False
    mask[1, 0] = False
    return Layout(kv_mask=mask)


def _late_padding(case: AttentionCase) -> Layout:
    return Layout(kv_start=_ints(61), kv_end=_ints(127), sink_tokens=3)


def _packed(case: AttentionCase) -> Layout:
    return Layout(cu_seqlens_q=_ints(0, 1, 1, 7, 13), cu_seqlens_k=_ints(0, 3, 4, 10, 17))


def _segment_ids(case: AttentionCase) -> Layout:
    ids = torch.zeros(case.batch, case.seqlen_k, dtype=torch.int64)
    ids[0, 5:] = 1
    ids[1, 2:9] = 4
    ids[1, 9:] = 7
    return Layout(segment_ids=ids)


def _bias(case: AttentionCase, dtype: torch.dtype) -> Score:
    return Score(rel_bias=torch.randn(case.num_heads, 9, dtype=dtype), bias_center=5)


def _transposed_bias(case: AttentionCase, dtype: torch.dtype) -> Score:
    return Score(rel_bias=torch.randn(9, case.num_heads, dtype=dtype).t(), bias_center=5)


def _minus_inf_bias(case: AttentionCase, dtype: torch.dtype) -> Score:
    """-inf for every distance except one: the first row sees only keys with score -inf."""
    bias = torch.full((case.num_heads, 3), -torch.inf, dtype=dtype)
    bias[:, 0] = 0.5
    return Score(rel_bias=bias, bias_center=1)


def _sinks(case: AttentionCase, dtype: torch.dtype) -> Score:
    return Score(sink_logits=torch.randn(case.num_heads, dtype=dtype))


def _all_scores(case: AttentionCase, dtype: torch.dtype) -> Score:
    return Score(
        softcap=2.0,
        rel_bias=torch.randn(case.num_heads, 7, dtype=dtype),
        bias_center=6,
        sink_logits=torch.randn(case.num_heads, dtype=dtype),
    )


CASES = (
    AttentionCase("full"),
    AttentionCase("causal", (-1, 0)),
    AttentionCase("window", (3, 0)),
    AttentionCase("two_sided", (2, 4)),
    AttentionCase("right_only", (-1, 2)),
    AttentionCase("left_only", (2, -1)),
    AttentionCase("self_only", (0, 0)),
    AttentionCase("wider_than_the_text", (100, 100)),
    AttentionCase("one_token", (4, 0), seqlen_q=1, seqlen_k=1),
    AttentionCase("decode", (5, 0), seqlen_q=1, seqlen_k=13),
    AttentionCase("more_queries_than_keys", (3, 0), seqlen_q=13, seqlen_k=5),
    AttentionCase("no_keys", (3, 0), seqlen_q=4, seqlen_k=0),
    AttentionCase("no_queries", (3, 0), seqlen_q=0, seqlen_k=4),
    AttentionCase("empty_batch", (3, 0), batch=0),
    AttentionCase("below_a_tile", (20, 3), batch=1, seqlen_q=63, seqlen_k=47, head_dim=10, head_dim_v=10),
    AttentionCase("above_a_tile", (50, 0), batch=1, seqlen_q=65, seqlen_k=97, num_kv_heads=1, head_dim=16),
    AttentionCase("above_two_tiles", (31, 33), batch=1, seqlen_q=129, seqlen_k=129, num_kv_heads=1),
    AttentionCase("primes", (17, 5), batch=1, seqlen_q=101, seqlen_k=131, layout=_late_padding),
    AttentionCase("gqa", (4, 1), num_heads=6, num_kv_heads=2),
    AttentionCase("mqa", (4, 1), num_heads=3, num_kv_heads=1),
    AttentionCase("head_dims_differ", (4, 0), head_dim=6, head_dim_v=10),
    AttentionCase("offset", (4, 0), seqlen_k=20, layout=lambda c: Layout(offset=3)),
    AttentionCase("negative_offset", (4, 0), layout=lambda c: Layout(offset=-4)),
    AttentionCase("offset_0d", (4, 0), layout=lambda c: Layout(offset=torch.tensor(2))),
    AttentionCase("offset_per_row", (4, 1), seqlen_k=20, layout=lambda c: Layout(offset=_ints(7, -2))),
    AttentionCase("left_padding", (4, 0), layout=lambda c: Layout(kv_start=_ints(0, 5))),
    AttentionCase("right_padding", (4, 2), layout=lambda c: Layout(kv_end=_ints(9, 13))),
    AttentionCase(
        "nothing_valid", (4, 2), layout=lambda c: Layout(kv_start=_ints(6, 0), kv_end=_ints(6, 13))
    ),
    AttentionCase("padding_in_the_middle", (4, 2), layout=_kv_mask),
    AttentionCase("packed", (3, 1), batch=1, seqlen_k=17, layout=_packed),
    AttentionCase("segment_ids", (6, 3), layout=_segment_ids),
    AttentionCase("sink_tokens", (3, 0), layout=lambda c: Layout(sink_tokens=2, kv_start=_ints(0, 3))),
    AttentionCase(
        "sink_tokens_packed",
        (1, 0),
        batch=1,
        seqlen_k=17,
        layout=lambda c: replace(_packed(c), sink_tokens=1),
    ),
    AttentionCase("sink_tokens_segments", (1, 0), layout=lambda c: replace(_segment_ids(c), sink_tokens=2)),
    AttentionCase("chunk", (-1, 0), layout=lambda c: Layout(chunk=5)),
    AttentionCase("chunk_origin", (-1, 0), layout=lambda c: Layout(chunk=5, chunk_origin=_ints(2, 0))),
    AttentionCase("chunk_origin_0d", (3, 0), layout=lambda c: Layout(chunk=4, chunk_origin=torch.tensor(1))),
    AttentionCase(
        "chunk_packed",
        (-1, 0),
        batch=1,
        seqlen_k=17,
        num_heads=4,
        layout=lambda c: replace(_packed(c), chunk=3),
    ),
    AttentionCase(
        "chunk_sink_tokens", (1, 0), layout=lambda c: Layout(chunk=6, sink_tokens=2, kv_start=_ints(0, 1))
    ),
    AttentionCase(
        "masked_segments", (6, 3), layout=lambda c: replace(_segment_ids(c), kv_mask=_kv_mask(c).kv_mask)
    ),
    AttentionCase("softcap", (4, 0), score=lambda c, dtype: Score(softcap=1.5)),
    AttentionCase("rel_bias", (6, 2), score=_bias),
    AttentionCase("rel_bias_packed", (6, 2), batch=1, seqlen_k=17, layout=_packed, score=_bias),
    AttentionCase("rel_bias_transposed", (6, 2), score=_transposed_bias),
    AttentionCase("rel_bias_minus_inf", (1, 1), score=_minus_inf_bias),
    AttentionCase("sink_logits", (3, 0), seqlen_k=9, score=_sinks),
    AttentionCase("sink_logits_see_nothing", (3, 0), seqlen_q=7, seqlen_k=3, score=_sinks),
    AttentionCase("all_scores", (5, 2), num_heads=4, num_kv_heads=2, score=_all_scores),
    AttentionCase("dropout", (6, 2), seqlen_k=19, dropout_p=0.4),
    AttentionCase("dropout_all_scores", (6, 2), num_heads=4, score=_all_scores, dropout_p=0.3),
    AttentionCase("dropout_packed", (6, 2), batch=1, seqlen_k=17, layout=_packed, dropout_p=0.4),
)
SMALL_CASES = [
    case for case in CASES if case.name in ("gqa", "all_scores", "packed", "dropout", "left_padding")
]
