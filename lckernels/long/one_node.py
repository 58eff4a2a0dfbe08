"""recompute=True on a CPU: a micro-batch is one node of autograd's graph, and not one for each of its ops.

The nodes of a first run are small and live until the backward. glibc puts them between large blocks that are
freed, which then fit no block of the next micro-batch: the heap grows with the length of a document.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")  # a tensor, or a list of tensors

_REENTRANT = "CheckpointFunctionBackward"  # gradient checkpointing that torch.autograd.grad raises for


class FirstRun:
    """What is to be as in the first run when the backward runs a micro-batch again; made before that run."""

    def __init__(self) -> None:
        self.random = torch.get_rng_state()
        self.start = torch.empty(0, device="cpu", requires_grad=True).view(0).grad_fn._sequence_nr()

    @staticmethod
    def is_supported(device: torch.device) -> bool:
        """Whether micro-batches on the device may be one node: on a CPU, in one process, without autocast.

        FSDP and others that shard weights have hooks in the graph of each run. Autocast casts a weight once
        for all runs, and their gradients are added in its dtype.
        """
        distributed = torch.distributed
        return (
            device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and not (distributed.is_available() and distributed.is_initialized())
        )

    def as_one_node(
        self, states: Result, model: nn.Module, again: Callable[..., tuple[Tensor | None, ...]]
    ) -> Result:
        """The states of the run, with a node whose backward calls `again(then=function of the states)`.

        The states themselves if their graph begins elsewhere than at parameters of the model, or at one with
        a hook, which would run for each micro-batch; and under reentrant gradient checkpointing.
        """
        listed = [states] if isinstance(states, Tensor) else list(states)
        leaves = list(self._leaves(x.grad_fn for x in listed))
        parameters = {id(p) for p in model.parameters() if type(p) is nn.Parameter}
        if not all(id(x) in parameters for x in leaves) or _hooked(leaves):
            return states
        if not leaves or not all(x.requires_grad for x in listed):
            return states
        found = _Again.apply(_Values(listed), self, again, *leaves)
        return found[0] if isinstance(states, Tensor) else list(found)

    def _leaves(self, nodes: Iterable[Any]) -> Iterator[Tensor | None]:
        """The leaves of the graph of these nodes; a None for what the node of the run cannot include."""
        found, following = set(), [node for node in nodes if node is not None]
        while following:
            node = following.pop()
            if node in found:
                continue
            found.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None:
                yield leaf
            elif node._sequence_nr() < self.start or node.name() == _REENTRANT:
                yield None
            following += [source for source, _ in node.next_functions if source is not None]


class _Values:
    """Tensors without their graph; taken once."""

    def __init__(self, states: list[Tensor]) -> None:
        self.states = [x.detach() for x in states]

    def take(self) -> tuple[Tensor, ...]:
        states, self.states = self.states, []
        return tuple(states)


class _Again(torch.autograd.Function):
    """States of the leaves; the backward computes them again."""

    @staticmethod
    def forward(
        ctx: Any, values: _Values, first: FirstRun, again: Callable[..., Any], *leaves: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.first, ctx.again, ctx.leaves = first, again, leaves
        ctx.set_materialize_grads(False)
        return values.take()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        if _hooked(ctx.leaves):
            got = "a hook of a parameter that was added after the forward"
            raise RuntimeError(f"recompute: got {got}; add it before, or it runs for each micro-batch")

        second_order = torch.is_grad_enabled()  # create_graph=True

        def gradients(states: Any) -> tuple[Tensor | None, ...]:
            states = [states] if isinstance(states, Tensor) else states
            pairs = [(x, grad) for x, grad in zip(states, grads, strict=True) if grad is not None]
            if not pairs:
                return (None,) * len(ctx.leaves)
            outputs, of_outputs = zip(*pairs, strict=True)
            return torch.autograd.grad(
                outputs, ctx.leaves, of_outputs, allow_unused=True, create_graph=second_order
            )

        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False), torch.enable_grad():
            torch.set_rng_state(ctx.first.random)
            return None, None, None, *ctx.again(then=gradients)


def _hooked(leaves: Iterable[Tensor]) -> bool:
    return any(x._backward_hooks for x in leaves)
