"""windowed_attention: inputs, expected results and calls."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases.attention import AttentionCase
from bench.harness.check import Tensors, truth_dtype
from bench.harness.comparison import Subject
from bench.harness.rows import dtype_name
from bench.harness.timing import Call
from bench.peers.attention import Attention, is_visible
from lckernels import Layout, reference, windowed_attention

CHECKED_PAIRS = 2**25  # (query, key) pairs above which the truth is computed for fewer heads, at least one
_BLOCK_SCORES = 2**24  # scores stored at a time

# q, k, v and the key position of the first query -> out.
Piece = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def own_attention(case: AttentionCase, backend: str | None = None) -> Attention:
    """The public op."""
    return lambda q, k, v: windowed_attention(q, k, v, window_size=case.window_size, backend=backend)


def make_inputs(case: AttentionCase) -> Tensors:
    """q, k, v and dout as (batch, seqlen, heads, head_dim), normally distributed."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (case.seqlen_q, case.num_heads), (case.seqlen, case.num_kv_heads)
    shapes = [(case.batch, *rows, case.head_dim) for rows in (queries, keys, keys, queries)]
    return tuple(torch.randn(shape, generator=generator).to(case.dtype) for shape in shapes)


def by_head(tensors: Tensors) -> Tensors:
    """Between (batch, seqlen, heads, head_dim) and SDPA's (batch, heads, seqlen, head_dim), copied."""
    return tuple(x.transpose(1, 2).contiguous() for x in tensors)


def checked_heads(case: AttentionCase) -> list[int]:
    """The key heads whose truth is computed: all, or some for large cases; heads are independent."""
    number = min(case.num_kv_heads, max(1, CHECKED_PAIRS // _blocked_pairs(case)))
    return [i * case.num_kv_heads // number for i in range(number)]


def _blocked_pairs(case: AttentionCase) -> int:
    """Scores computed for one key head."""
    left, right = case.window_size
    span = case.seqlen if min(left, right) < 0 else min(case.seqlen, left + right + _block_rows(case))
    return case.batch * case.num_heads // case.num_kv_heads * case.seqlen_q * span


def of_heads(case: AttentionCase, tensors: Tensors, heads: Sequence[int]) -> Tensors:
    """The selected key heads; of tensors with query heads, those in the groups of these key heads."""
    if len(heads) == case.num_kv_heads:
        return tensors
    group = case.num_heads // case.num_kv_heads
    queries = [h * group + i for h in heads for i in range(group)]
    return tuple(x[:, :, queries if x.shape[2] == case.num_heads else list(heads)] for x in tensors)


def truth(case: AttentionCase, direction: str, inputs: Tensors) -> Tensors:
    """The reference in higher precision: (out,), or (dq, dk, dv)."""

    def piece(q: Tensor, k: Tensor, v: Tensor, position: int) -> Tensor:
        return reference.windowed_attention(
            q, k, v, window_size=case.window_size, layout=Layout(offset=position)
        )[0]

    return by_blocks(case, piece, direction, inputs, truth_dtype(case.dtype))


def baseline(case: AttentionCase, direction: str, inputs: Tensors) -> Tensors:
    """Plain torch in the case's dtype: SDPA with a mask, a block of queries at a time."""

    def piece(q: Tensor, k: Tensor, v: Tensor, position: int) -> Tensor:
        rows, keys = (torch.arange(x.shape[1], device=q.device) for x in (q, k))
        mask, group = is_visible(case.window_size, position + rows[:, None], keys), q.shape[2] // k.shape[2]
        k, v = (x.repeat_interleave(group, dim=2).transpose(1, 2) for x in (k, v))
        return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask).transpose(1, 2)

    return by_blocks(case, piece, direction, inputs, case.dtype)


def by_blocks(
    case: AttentionCase, piece: Piece, direction: str, inputs: Tensors, dtype: torch.dtype
) -> Tensors:
    """Runs `piece` on each block of queries and its visible keys, in `dtype`.

    Key gradients are accumulated in higher precision. The inputs may have any number of heads.
    """
    q, k, v, dout = inputs
    left, right = case.window_size
    backward = direction == "backward"
    outs: list[Tensor] = []
    dk, dv = (torch.zeros_like(x, dtype=truth_dtype(case.dtype)) if backward else None for x in (k, v))
    step = _block_rows(case)
    for begin in range(0, q.shape[1], step):
        rows = slice(begin, min(begin + step, q.shape[1]))
        first, end = rows.start + case.offset, rows.stop + case.offset
        keys = slice(
            max(0, first - left) if left >= 0 else 0,
            min(case.seqlen, end + right) if right >= 0 else case.seqlen,
        )
        leaves = [x.to(dtype).detach().requires_grad_(backward) for x in (q[:, rows], k[:, keys], v[:, keys])]
        out = piece(*leaves, first - keys.start)
        if backward:
            dq, dk_part, dv_part = torch.autograd.grad(out, leaves, dout[:, rows].to(dtype))
            dk[:, keys] += dk_part
            dv[:, keys] += dv_part
        outs.append(dq if backward else out)
    joined = torch.cat(outs, dim=1)
    return (joined, dk.to(dtype), dv.to(dtype)) if backward else (joined,)


def _block_rows(case: AttentionCase) -> int:
    """Queries in a block, limited by the scores of a full window."""
    span = case.seqlen if min(case.window_size) < 0 else min(case.seqlen, sum(case.window_size) + 512)
    return max(16, min(512, _BLOCK_SCORES // (case.batch * case.num_heads * span)))


def as_call(attend: Attention, direction: str, inputs: Tensors) -> Call:
    """The forward, or only the backward of a forward that runs here once; returns a tuple."""
    q, k, v, dout = inputs
    if direction != "backward":
        return lambda: (attend(q, k, v),)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)


def whole_pass(attend: Attention, direction: str, inputs: Tensors) -> Callable[[], Tensors]:
    """The forward, or forward and backward; returns every tensor that it makes."""
    q, k, v, dout = inputs
    if direction != "backward":
        return lambda: (attend(q, k, v),)

    def run() -> Tensors:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = attend(*leaves)
        return (*torch.autograd.grad(out, leaves, dout), out.detach())

    return run


def subject_of(suite: str, direction: str, case: AttentionCase, backend: str, device: str = "cpu") -> Subject:
    """The fields that all rows of one case share.

    The work is the FLOPs of the visible pairs, in decoding the bytes of the visible keys and values.
    """
    decoding = direction == "decode"
    return Subject(
        suite=suite,
        op="windowed_attention",
        direction=direction,
        shape=case.shape(),
        dtype=dtype_name(case.dtype),
        work=case.visible_bytes if decoding else case.flops(direction),
        unit="GB/s" if decoding else "GFLOP/s",
        backend=backend,
        device=device,
    )
