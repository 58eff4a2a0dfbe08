"""The op merge_attention_states."""

from typing import Any

import torch
from torch import Tensor

from lckernels.backends.registry import Problem, choose
from lckernels.dtypes import compute_dtype
from lckernels.ops.registration import first_order, register


def _states_problem(outs: list[Tensor]) -> Problem:
    shapes = tuple(x.shape for x in outs)
    return Problem("merge_attention_states", outs[0].device.type, outs[0].dtype, shapes)


def _merge_attention_states(
    outs: list[Tensor], lses: list[Tensor], backend: str | None
) -> tuple[Tensor, Tensor]:
    return choose(_states_problem(outs), backend).ops["merge_attention_states"](outs, lses)


def _merge_attention_states_fake(
    outs: list[Tensor], lses: list[Tensor], backend: str | None
) -> tuple[Tensor, Tensor]:
    lse = lses[0].new_empty(lses[0].shape, dtype=compute_dtype(outs[0].dtype))
    return outs[0].new_empty(outs[0].shape), lse


def _merge_attention_states_backward(
    dout: Tensor | None,
    dlse: Tensor | None,
    outs: list[Tensor],
    lses: list[Tensor],
    out: Tensor,
    lse: Tensor,
    backend: str | None,
) -> tuple[list[Tensor], list[Tensor]]:
    chosen = choose(_states_problem(outs), backend)
    return chosen.ops["merge_attention_states_backward"](dout, dlse, outs, lses, out, lse)


def _merge_attention_states_backward_fake(
    dout: Any, dlse: Any, outs: list[Tensor], lses: list[Tensor], *_: Any
) -> tuple[list[Tensor], list[Tensor]]:
    return [x.new_empty(x.shape) for x in outs], [x.new_empty(x.shape) for x in lses]


class _MergeAttentionStates(torch.autograd.Function):
    """The gradient of merge_attention_states."""

    @staticmethod
    def forward(ctx: Any, num_states: int, backend: str | None, *states: Tensor) -> tuple[Tensor, Tensor]:
        outs, lses = list(states[:num_states]), list(states[num_states:])
        with torch._C._AutoDispatchBelowAutograd():
            out, lse = merge_attention_states(outs, lses, backend)
        ctx.num_states, ctx.backend = num_states, backend
        ctx.save_for_backward(out, lse, *states)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @first_order("merge_attention_states")
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
        out, lse, *states = ctx.saved_tensors
        outs, lses = states[: ctx.num_states], states[ctx.num_states :]
        args = (dout, dlse, outs, lses, out, lse, ctx.backend)
        douts, dlses = merge_attention_states_backward(*args)
        return None, None, *douts, *dlses


merge_attention_states = register(
    "merge_attention_states",
    "(Tensor[] outs, Tensor[] lses, str? backend) -> (Tensor out, Tensor lse)",
    _merge_attention_states,
    _merge_attention_states_fake,
    apply=lambda outs, lses, backend: _MergeAttentionStates.apply(len(outs), backend, *outs, *lses),
)
merge_attention_states_backward = register(
    "merge_attention_states_backward",
    "(Tensor? dout, Tensor? dlse, Tensor[] outs, Tensor[] lses, Tensor out, Tensor lse, str? backend) "
    "-> (Tensor[], Tensor[])",
    _merge_attention_states_backward,
    _merge_attention_states_backward_fake,
)
