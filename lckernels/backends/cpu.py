"""C++ on the CPU: the private ops of _C.so (csrc/cpu), with their outputs allocated here."""

from pathlib import Path

import torch
from torch import Tensor

from lckernels.checks import weights_error
from lckernels.options import AttentionOptions, ExtraTokens
from lckernels.reference import compute_dtype, packed_bounds
from lckernels.dispatch import Problem, settings
from lckernels.plan import PlanArgs

_LIBRARY = Path(__file__).resolve().parent.parent / "_C.so"
_OPS = (
    "overlap_merge",
    "overlap_split",
    "windowed_attention",
    "merge_attention_states",
    "chunked_attention",
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _load() -> str:
    """Loads _C.so once; why it cannot be used, or empty."""
    if not _LIBRARY.exists():
        return "lckernels/_C.so was not built (installing lckernels with a C++ compiler builds it)"
    torch.ops.load_library(_LIBRARY)
    isa = settings().get("isa")
    if isa is not None:
        torch.ops.lckernels_cpu.set_isa(isa)
    return ""


_UNAVAILABLE = _load()


def unavailable() -> str:
    """Why this backend cannot run here; empty when it can."""
    return _UNAVAILABLE


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem; empty when it can."""
    if _UNAVAILABLE:
        return [_UNAVAILABLE]
    found = []
    if problem.device_type != "cpu":
        found.append(f"it serves tensors on the CPU, not on {problem.device_type}")
    if problem.op not in _OPS:
        found.append(f"it has no kernel for {problem.op}")
    if problem.dtype not in _DTYPES:
        found.append(f"it has no kernel for {problem.dtype}")
    return found


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    mode, table = _weights(weights)
    out = chunks.new_empty(plan.total_len, chunks.shape[2])
    bad = torch.ops.lckernels_cpu.overlap_gather(
        _rows(chunks), table, plan.segments, plan.tile_segments, mode, True, out
    )
    if bad >= 0 and table is not None:
        raise weights_error(bad)
    return out


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    mode, table = _weights(weights)
    dout = _rows(dout)
    dchunks = _scatter(dout, table, plan, mode)
    if chunks is None:
        return dchunks, None
    dweights = torch.zeros_like(table)
    torch.ops.lckernels_cpu.overlap_weight_grad(
        dout, _rows(chunks), table, plan.segments, plan.tile_segments, dweights
    )
    return dchunks, dweights


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    return _scatter(_rows(sequence), None, plan, "add")


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    out = dchunks.new_empty(plan.total_len, dchunks.shape[2])
    torch.ops.lckernels_cpu.overlap_gather(
        _rows(dchunks), None, plan.segments, plan.tile_segments, "add", True, out
    )
    return out


def _scatter(sequence: Tensor, table: Tensor | None, plan: PlanArgs, mode: str) -> Tensor:
    out = sequence.new_empty(plan.num_chunks, plan.chunk_len, sequence.shape[1])
    torch.ops.lckernels_cpu.overlap_scatter(
        sequence, table, plan.segments, plan.tile_segments, mode, True, out
    )
    return out


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    acc = compute_dtype(q.dtype)
    out = q.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=acc)
    arguments = _attention_arguments(options, acc, q.shape[1], k.shape[1])
    torch.ops.lckernels_cpu.attention_forward(_rows(q), _rows(k), _rows(v), *arguments, out, lse)
    return out, lse


def windowed_attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    options: AttentionOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv, drel_bias, dsink_logits; the last two None where the score has no such part."""
    acc, score = compute_dtype(q.dtype), options.score
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    delta = torch.empty_like(lse)
    dbias, dsink = (
        None if x is None else x.new_empty(x.shape, dtype=acc) for x in (score.rel_bias, score.sink_logits)
    )
    inputs = (_rows(q), _rows(k), _rows(v), _rows(out), lse.contiguous())
    arguments = _attention_arguments(options, acc, q.shape[1], k.shape[1])
    torch.ops.lckernels_cpu.attention_backward(
        _rows(dout), None if dlse is None else dlse.contiguous(), *inputs, *arguments, *grads, delta, dbias, dsink
    )
    dbias, dsink = (
        None if grad is None else grad.to(x.dtype)
        for grad, x in ((dbias, score.rel_bias), (dsink, score.sink_logits))
    )
    return *grads, dbias, dsink


def merge_attention_states(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    out, lse = outs[0].new_empty(outs[0].shape), lses[0].new_empty(lses[0].shape)
    torch.ops.lckernels_cpu.merge_states([_rows(x) for x in outs], lses, True, out, lse)
    return out, lse


def merge_attention_states_backward(
    dout: Tensor | None, dlse: Tensor | None, outs: list[Tensor], lses: list[Tensor], out: Tensor, lse: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """douts and dlses; a gradient that is not there is zeros that lie in one row."""
    dout = out.new_zeros(out.shape[-1]).expand(out.shape) if dout is None else _rows(dout)
    dlse = lse.new_zeros(()).expand(lse.shape) if dlse is None else dlse
    douts, dlses = ([x.new_empty(x.shape) for x in xs] for xs in (outs, lses))
    states = ([_rows(x) for x in outs], lses, _rows(out), lse)
    torch.ops.lckernels_cpu.merge_states_backward(dout, dlse, *states, True, douts, dlses)
    return douts, dlses


def _attention_arguments(options: AttentionOptions, acc: torch.dtype, total_q: int, total_k: int) -> tuple:
    """The options as the C++ ops take them: tables in int64, score tensors in the accumulator's dtype."""
    (left, right), scale, layout, score, dropout_p, seed = options
    packed_bounds(layout, total_q, total_k)
    offset, origin = layout.offset, layout.chunk_origin
    offsets = offset if isinstance(offset, Tensor) else None
    origins = origin if isinstance(origin, Tensor) else None
    return (
        left, right, scale, None if offsets is not None else offset, _table(offsets), _table(layout.kv_start),
        _table(layout.kv_end), _table(layout.kv_mask, torch.bool), _table(layout.cu_seqlens_q),
        _table(layout.cu_seqlens_k), _table(layout.segment_ids), layout.sink_tokens, layout.chunk,
        0 if origins is not None else origin, _table(origins), score.softcap, _table(score.rel_bias, acc),
        score.bias_center, _table(score.sink_logits, acc), dropout_p, seed,
    )  # fmt: skip


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
) -> tuple[Tensor, Tensor | None]:
    """out, and extra_out where there are extra tokens."""
    shares = _shares(weights, plan, compute_dtype(q.dtype))
    out = q.new_empty(*q.shape[:2], v.shape[2])
    extra_out = None if extra is None else q.new_empty(*extra.q.shape[:3], v.shape[2])
    inputs = (_rows(q), _rows(k), _rows(v), *_extra_rows(extra))
    torch.ops.lckernels_cpu.chunked_forward(*inputs, plan.segments, shares, softmax_scale, out, extra_out)
    return out, extra_out


def chunked_attention_backward(
    dout: Tensor,
    dextra_out: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, ExtraTokens | None, Tensor | None]:
    """dq, dk, dv, dextra, dweights; the last two None where there are none."""
    shares = _shares(weights, plan, compute_dtype(q.dtype))
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    dextra = [None] * 3 if extra is None else [x.new_zeros(x.shape) for x in extra.tensors()]
    explicit = isinstance(weights, Tensor)
    row_dots = torch.empty_like(shares) if explicit else None
    inputs = (_rows(q), _rows(k), _rows(v), *_extra_rows(extra))
    dextra_out = None if dextra_out is None else _rows(dextra_out)
    torch.ops.lckernels_cpu.chunked_backward(
        _rows(dout), dextra_out, *inputs, plan.segments, shares, softmax_scale, *grads, *dextra, row_dots
    )
    dweights = None
    if explicit:
        # The gradient of merging row_dots by these weights, whose sum over heads and dims <dout, out_c> is.
        ones = shares.new_ones(plan.total_len, 1)
        dweights = overlap_merge_backward(ones, row_dots[:, :, None], weights, plan)[1]
    return *grads, None if extra is None else ExtraTokens(*dextra), dweights


def _shares(weights: str | Tensor, plan: PlanArgs, dtype: torch.dtype) -> Tensor:
    """(num_chunks, chunk_len): the part of a position's output that each chunk column makes."""
    if isinstance(weights, Tensor):  # raises if they cannot be used
        overlap_merge(weights.new_zeros(plan.num_chunks, plan.chunk_len, 1, dtype=dtype), weights, plan)
    ones = torch.ones(plan.total_len, 1, dtype=dtype)
    return overlap_merge_backward(ones, None, weights, plan)[0][:, :, 0].contiguous()


def _extra_rows(extra: ExtraTokens | None) -> tuple[Tensor | None, ...]:
    return (None, None, None) if extra is None else tuple(_rows(x) for x in extra.tensors())


def _table(x: Tensor | None, dtype: torch.dtype = torch.int64) -> Tensor | None:
    return None if x is None else x.to(dtype).contiguous()


def _weights(weights: str | Tensor) -> tuple[str, Tensor | None]:
    return ("explicit", weights.contiguous()) if isinstance(weights, Tensor) else (weights, None)


def _rows(x: Tensor) -> Tensor:
    """x with a contiguous last dim; copied once if it has none."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
