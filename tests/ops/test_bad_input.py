"""Bad input to the ops: one error that names the argument, its value and what is expected."""

import re

import pytest
import torch

import lckernels
from lckernels import Layout, Score, plan_chunks
from lckernels import windowed_attention as attend
from lckernels.backends import registry

ATTENTION = {
    "rank": (lambda q, k, v: attend(q[0], k, v), r"q: got shape \(6, 4, 8\); expected 4 dimen"),
    "type": (lambda q, k, v: attend(q, k, None), r"v: got NoneType; expected a torch.Tensor"),
    "dtype": (lambda q, k, v: attend(q.int(), k, v), r"q: got dtype torch.int32; allowed are"),
    "dtypes": (lambda q, k, v: attend(q, k.double(), v), r"k: got dtype torch.float64; q has"),
    "device": (lambda q, k, v: attend(q, k.to("meta"), v), r"k: got device meta; q is on cpu"),
    "batch": (lambda q, k, v: attend(q, k[:1], v[:1]), r"k: got batch 1; q has batch 2"),
    "heads": (lambda q, k, v: attend(q[:, :, :3], k, v), r"q: got 3 heads; .* multiple of k's 2"),
    "head_dim": (lambda q, k, v: attend(q[..., :4], k, v), r"k: got head_dim 8; q has head_dim 4"),
    "kv": (lambda q, k, v: attend(q, k, v[:, :3]), r"v: got shape .*; k has shape"),
    "window": (
        lambda q, k, v: attend(q, k, v, window_size=(-2, 0)),
        r"window_size left: got -2; expected an int >= -1",
    ),
    "window_huge": (
        lambda q, k, v: attend(q, k, v, window_size=(2**63 - 1, 0)),
        r"window_size left: got 9223372036854775807; expected an int >= -1 and below 2\^31",
    ),
    "scale": (
        lambda q, k, v: attend(q, k, v, softmax_scale=float("nan")),
        r"softmax_scale: got nan; expected a finite number",
    ),
    "softcap_type": (
        lambda q, k, v: attend(q, k, v, score=Score(softcap=None)),
        r"score.softcap: got None; expected a number",
    ),
    "chunk_origin": (
        lambda q, k, v: attend(q, k, v, layout=Layout(chunk=4, chunk_origin=None)),
        r"layout.chunk_origin: got None; expected an int >= -2147483647 or an integer tensor",
    ),
    "window_pair": (lambda q, k, v: attend(q, k, v, window_size=5), r"window_size: got 5; expected \(left"),
    "dropout": (lambda q, k, v: attend(q, k, v, dropout_p=1.0), r"dropout_p: got 1.0; expected 0 <="),
    "backend": (lambda q, k, v: attend(q, k, v, backend="x"), r"backend: got 'x'; allowed are"),
    "backend_type": (
        lambda q, k, v: attend(q, k, v, backend=5),
        r"backend: got 5; expected None or the name of a backend$",
    ),
    "layout_dict": (
        lambda q, k, v: attend(q, k, v, layout={"sink_tokens": 4}),
        r"layout: got dict; expected a lckernels.Layout$",
    ),
    "layout_empty": (lambda q, k, v: attend(q, k, v, layout={}), r"layout: got dict; expected a lckernels"),
    "layout_score": (lambda q, k, v: attend(q, k, v, layout=Score()), r"layout: got Score; expected a lcker"),
    "score_dict": (
        lambda q, k, v: attend(q, k, v, score={"softcap": 30.0}),
        r"score: got dict; expected a lckernels.Score$",
    ),
    "func_grad": (
        lambda q, k, v: torch.func.grad(lambda x: attend(x, k, v).sum())(q),
        r"lckernels.windowed_attention: got a transform of torch.func .*; expected Tensor.backward\(\) or",
    ),
    "kv_start": (
        lambda q, k, v: attend(q, k, v, layout=Layout(kv_start=torch.tensor([1]))),
        r"layout.kv_start: got shape \(1,\); expected \(2,\)",
    ),
    "kv_mask": (
        lambda q, k, v: attend(q, k, v, layout=Layout(kv_mask=torch.ones(2, 6))),
        r"layout.kv_mask: got dtype torch.float32; expected a bool tensor",
    ),
    "cu_seqlens": (
        lambda q, k, v: attend(q, k, v, layout=Layout(cu_seqlens_q=torch.tensor([0, 6]))),
        r"layout.cu_seqlens: got one of",
    ),
    "cu_seqlens_batch": (
        lambda q, k, v: attend(
            q, k, v, layout=Layout(cu_seqlens_q=torch.tensor([0, 6]), cu_seqlens_k=torch.tensor([0, 6]))
        ),
        r"q: got batch 2; packed input \(cu_seqlens\) has batch 1",
    ),
    "cu_seqlens_end": (
        lambda q, k, v: attend(
            q[:1],
            k[:1],
            v[:1],
            layout=Layout(cu_seqlens_q=torch.tensor([0, 5]), cu_seqlens_k=torch.tensor([0, 6])),
        ),
        r"layout.cu_seqlens_q: got \[0, 5\]; expected bounds that start at 0, never fall and end at 6",
    ),
    "offset": (lambda q, k, v: attend(q, k, v, layout=Layout(offset=1.5)), r"layout.offset: got 1.5"),
    "sink_tokens": (
        lambda q, k, v: attend(q, k, v, layout=Layout(sink_tokens=-1)),
        r"layout.sink_tokens: got -1; expected an int >= 0",
    ),
    "softcap": (lambda q, k, v: attend(q, k, v, score=Score(softcap=-1.0)), r"score.softcap: got -1.0"),
    "rel_bias": (
        lambda q, k, v: attend(q, k, v, score=Score(rel_bias=torch.zeros(3, 5))),
        r"score.rel_bias: got shape \(3, 5\); expected \(4, 5\)",
    ),
    "sink_logits": (
        lambda q, k, v: attend(q, k, v, score=Score(sink_logits=torch.zeros(2))),
        r"score.sink_logits: got shape \(2,\); expected \(4,\)",
    ),
}


RAGGED = [torch.tensor(bounds) for bounds in ([0, 6, 4, 6], [1, 3, 6, 6], [0, 3, 6, 9], [0, -2, 6, 6])]
LAYOUTS = {
    "offset_huge": (Layout(offset=2**31), r"layout.offset: got 2147483648; expected an int >= -2147483647"),
    "offset_shape": (
        Layout(offset=torch.ones(3).long()),
        r"layout.offset: got shape \(3,\); expected \(\) or",
    ),
    "offset_dtype": (
        Layout(offset=torch.ones(())),
        r"layout.offset: got dtype torch.float32; expected an int",
    ),
    "origin_shape": (
        Layout(chunk_origin=torch.ones(2, 1).long()),
        r"layout.chunk_origin: got shape \(2, 1\)",
    ),
    "kv_start_type": (Layout(kv_start=3), r"layout.kv_start: got int; expected an integer tensor"),
    "kv_end_dtype": (
        Layout(kv_end=torch.ones(2)),
        r"layout.kv_end: got dtype torch.float32; expected an int",
    ),
    "kv_mask_shape": (
        Layout(kv_mask=torch.ones(2, 5, dtype=torch.bool)),
        r"layout.kv_mask: got shape \(2, 5\); expected \(2, 6\)",
    ),
    "segment_ids": (
        Layout(segment_ids=torch.ones(2, 6, 1).long()),
        r"layout.segment_ids: got shape \(2, 6, 1\); expected \(2, 6\)",
    ),
    "chunk": (Layout(chunk=-1), r"layout.chunk: got -1; expected an int >= 0"),
    "sink_tokens_bool": (Layout(sink_tokens=True), r"layout.sink_tokens: got True; expected an int >= 0"),
    "max_seqlen": (Layout(max_seqlen_q=-1), r"layout.max_seqlen_q: got -1; expected an int >= 0"),
}
SCORES = {
    "softcap_inf": (Score(softcap=float("inf")), r"score.softcap: got inf; expected a finite number >= 0"),
    "rel_bias_empty": (Score(rel_bias=torch.zeros(4, 0)), r"score.rel_bias: got shape \(4, 0\); expected L"),
    "rel_bias_rank": (Score(rel_bias=torch.zeros(4)), r"score.rel_bias: got shape \(4,\); expected 2 dim"),
    "rel_bias_dtype": (Score(rel_bias=torch.zeros(4, 3).int()), r"score.rel_bias: got dtype torch.int32"),
    "bias_center without a bias": (Score(bias_center=3), r"score.bias_center: got 3; it has no effect"),
    "bias_center": (Score(bias_center=2**31), r"score.bias_center: got 2147483648; expected an int"),
    "sink_logits": (Score(sink_logits=[0.0] * 4), r"score.sink_logits: got list; expected a floating tensor"),
}


@pytest.mark.parametrize("name", [*LAYOUTS, *SCORES])
def test_attention_options(name):
    layout, message = LAYOUTS.get(name, (None, None))
    score, message = SCORES.get(name, (None, message))
    q, k = torch.randn(2, 6, 4, 8), torch.randn(2, 6, 2, 8)
    with pytest.raises((ValueError, TypeError), match=message):
        attend(q, k, k, layout=layout, score=score)


@pytest.mark.parametrize("backend", [name for name, why in registry.availability().items() if not why])
@pytest.mark.parametrize("side", ("cu_seqlens_q", "cu_seqlens_k"))
@pytest.mark.parametrize("bounds", RAGGED, ids=lambda bounds: str(bounds.tolist()))
def test_bounds_that_do_not_fit(bounds, side, backend):
    both = {"cu_seqlens_q": torch.tensor([0, 2, 4, 6]), "cu_seqlens_k": torch.tensor([0, 2, 4, 6])}
    layout = Layout(**{**both, side: bounds})
    q = torch.randn(1, 6, 4, 8)
    message = rf"layout.{side}: got {re.escape(str(bounds.tolist()))}; expected bounds that start at 0, never"
    with pytest.raises(ValueError, match=message):
        attend(q, q, q, layout=layout, backend=backend)


@pytest.mark.parametrize("name", ATTENTION)
def test_windowed_attention(name):
    call, message = ATTENTION[name]
    q = torch.randn(2, 6, 4, 8)
    k, v = torch.randn(2, 6, 2, 8), torch.randn(2, 6, 2, 8)
    error = NotImplementedError if name == "func_grad" else (ValueError, TypeError)
    with pytest.raises(error, match=message):
        call(q, k, v)


MERGE = {
    "rank": (
        lambda x, p: lckernels.overlap_merge(x[None], p),
        r"chunks: got shape \(1, 5, 16, 5\); expected 3 dimensions",
    ),
    "type": (lambda x, p: lckernels.overlap_merge([x], p), r"chunks: got list; expected a torch.Tensor"),
    "dtype": (
        lambda x, p: lckernels.overlap_merge(x.int(), p),
        r"chunks: got dtype torch.int32; allowed are",
    ),
    "plan": (
        lambda x, p: lckernels.overlap_merge(x, p.segments),
        r"plan: got Tensor; expected a lckernels.Plan",
    ),
    "shape": (
        lambda x, p: lckernels.overlap_merge(x[:, :8], p),
        r"chunks: got shape .*; the plan has .* \(5, 16\)",
    ),
    "device": (
        lambda x, p: lckernels.overlap_merge(x.to("meta"), p),
        r"plan: got device cpu; chunks is on meta",
    ),
    "weights": (
        lambda x, p: lckernels.overlap_merge(x, p, "box"),
        r"weights: got 'box'; allowed are uniform, triangular",
    ),
    "weights_list": (
        lambda x, p: lckernels.overlap_merge(x, p, [1.0] * 128),
        r"weights: got list; allowed are uniform, .* or a \(num_chunks, chunk_len\) tensor$",
    ),
    "weights_shape": (
        lambda x, p: lckernels.overlap_merge(x, p, torch.ones(4)),
        r"weights: got shape \(4,\); expected \(5, 16\)",
    ),
    "weights_dtype": (
        lambda x, p: lckernels.overlap_merge(x, p, torch.ones(5, 16).int()),
        r"weights: got dtype torch.int32",
    ),
    "weights_negative": (
        lambda x, p: lckernels.overlap_merge(x, p, -torch.ones(5, 16)),
        r"weights: got values negative, not finite or of sum zero at pos",
    ),
    "weights_zero": (
        lambda x, p: lckernels.overlap_merge(x, p, torch.zeros(5, 16)),
        r"weights: got values negative, not finite or of sum zero at pos",
    ),
    "weights_inf": (
        lambda x, p: lckernels.overlap_merge(x, p, torch.full((5, 16), torch.inf)),
        r"weights: got values negative, not finite or of sum zero at position 0",
    ),
    "weights_overflow": (
        lambda x, p: lckernels.overlap_merge(x, p, torch.full((5, 16), 3e38)),
        r"weights: got values negative, not finite or of sum zero at position 10",
    ),
    "weights_nan": (
        lambda x, p: lckernels.overlap_merge(x, p, torch.full((5, 16), torch.nan)),
        r"weights: got values negative, not finite or of sum",
    ),
    "sequence": (
        lambda x, p: lckernels.overlap_split(x[0], p),
        r"sequence: got shape \(16, 5\); the plan has total_len = 50",
    ),
    "backend": (
        lambda x, p: lckernels.overlap_merge(x, p, backend="tpu"),
        r"backend: got 'tpu'; allowed are cpu, triton, cuda, eager",
    ),
    "backend_type": (lambda x, p: lckernels.overlap_merge(x, p, backend=5), r"backend: got 5; expected None"),
    "backend_of_split": (
        lambda x, p: lckernels.overlap_split(torch.ones(50, 5), p, backend=5),
        r"backend: got 5; expected None",
    ),
    "backend_of_chunked": (
        lambda x, p: lckernels.chunked_attention(*[torch.ones(50, 1, 5)] * 3, p, backend=5),
        r"backend: got 5; expected None",
    ),
}


@pytest.mark.parametrize("name", MERGE)
def test_overlap_merge(name):
    call, message = MERGE[name]
    plan = plan_chunks([50], 16, 6)
    with pytest.raises((ValueError, TypeError), match=message):
        call(torch.randn(plan.num_chunks, 16, 5), plan)


STATES = {
    "none": (lambda outs, lses: ([], []), r"outs: got no states; expected at least one"),
    "not_a_sequence": (lambda outs, lses: (outs, None), r"lses: got NoneType; expected a sequence of tensor"),
    "outs_not_a_sequence": (lambda outs, lses: (3, lses), r"outs: got int; expected a sequence of tensors"),
    "count": (lambda outs, lses: (outs, lses[:1]), r"lses: got 1 states; outs has 3"),
    "rank": (
        lambda outs, lses: ([x[0] for x in outs], lses),
        r"outs\[0\]: got shape \(5, 3, 4\); expected 4",
    ),
    "shape": (
        lambda outs, lses: ([outs[0], outs[1][:1], outs[2]], lses),
        r"outs\[1\]: got shape \(1, 5, 3, 4\); outs\[0\] has shape",
    ),
    "dtype": (
        lambda outs, lses: ([outs[0], outs[1].half(), outs[2]], lses),
        r"outs\[1\]: got dtype torch.float16; outs\[0\] has",
    ),
    "lse_shape": (
        lambda outs, lses: (outs, [x.mT for x in lses]),
        r"lses\[0\]: got shape \(2, 5, 3\); expected \(2, 3, 5\)",
    ),
    "lse_dtype": (
        lambda outs, lses: (outs, [x.bfloat16() for x in lses]),
        r"lses\[0\]: got dtype torch.bfloat16; expected torch.float32",
    ),
}


def states():
    return [torch.randn(2, 5, 3, 4) for _ in range(3)], [torch.randn(2, 3, 5) for _ in range(3)]


@pytest.mark.parametrize("name", STATES)
def test_merge_attention_states(name):
    change, message = STATES[name]
    with pytest.raises((ValueError, TypeError), match=message):
        lckernels.merge_attention_states(*change(*states()))
