"""merge_attention_states in CUDA."""

import torch
from torch import Tensor

from lckernels.backends.shared.tensor_rows import contiguous_rows

MAX_STATES = 24  # as kMaxStates in csrc/cuda/states/gpu_params.h


def merge_attention_states(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    out, lse = outs[0].new_empty(outs[0].shape), lses[0].new_empty(lses[0].shape)
    torch.ops.lckernels_cuda.merge_states([contiguous_rows(x) for x in outs], lses, out, lse)
    return out, lse


def merge_attention_states_backward(
    dout: Tensor | None, dlse: Tensor | None, outs: list[Tensor], lses: list[Tensor], out: Tensor, lse: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """douts and dlses."""
    dout = None if dout is None else contiguous_rows(dout)
    douts, dlses = ([x.new_empty(x.shape) for x in xs] for xs in (outs, lses))
    states = ([contiguous_rows(x) for x in outs], lses, contiguous_rows(out), lse)
    torch.ops.lckernels_cuda.merge_states_backward(dout, dlse, *states, douts, dlses)
    return douts, dlses
