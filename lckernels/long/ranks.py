"""Ranks that hold shards of one model run it equally often: FSDP gathers weights in each run.

A row of one rank may have more chunks than that of another; without further runs of the other rank the
collectives of the two would not match.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from lckernels.long.encoder import LongEncoder

_TOKENS = 8  # of the row of a further run


class Ranks:
    """The process groups of a model whose weights are sharded.

    Args:
        model: the model, which may be sharded later.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._groups: list[tuple[Any, str]] = []  # with the type of their device
        self._thread = local()

    def __reduce__(self) -> tuple:
        return Ranks, (self.model,)  # groups are of this process

    def find(self) -> bool:
        """Whether several ranks hold shards of the model; called before the model runs."""
        distributed = torch.distributed
        if (
            not (distributed.is_available() and distributed.is_initialized())
            or distributed.get_world_size() == 1
        ):
            if self._groups:
                self._groups = []
            return False
        # torch.compile cannot trace the state of a thread.
        if torch.compiler.is_compiling() or not getattr(self._thread, "is_found", False):
            found, is_sharded = _groups(self.model)
            if found or not is_sharded:  # else weights may be gathered now
                self._groups = found
        return bool(self._groups)

    @contextmanager
    def found(self) -> Iterator[None]:
        """The part of a call after `find`, which returns the same in this thread and reads no module."""
        self._thread.is_found = True
        try:
            yield
        finally:
            self._thread.is_found = False

    def most(self, runs: int) -> int:
        """The largest number of runs on any rank of those that `find` found; each calls this."""
        for group, device in self._groups:
            number = torch.tensor(runs, device=device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group)
            runs = int(number)
        return runs


def _groups(model: nn.Module) -> tuple[list[tuple[Any, str]], bool]:
    """The groups of several ranks over which weights are sharded now; whether FSDP2 shards a module."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    found, meshes, is_sharded = {}, set(), False
    for module in model.modules():
        if isinstance(module, FullyShardedDataParallel):
            found[id(module.process_group)] = module.process_group, module.compute_device.type
        is_sharded = is_sharded or isinstance(module, FSDPModule)
        meshes.update(p.device_mesh for p in module._parameters.values() if isinstance(p, DTensor))
    for mesh in meshes if is_sharded else ():
        found.update((id(group), (group, mesh.device_type)) for group in mesh.get_all_groups())
    return [(group, device) for group, device in found.values() if group.size() > 1], is_sharded


class Runs:
    """The runs of a model in one call: further ones follow, to be as many as on any other rank.

    Args:
        encoder: whose model runs.
        first_tokens: number -> the model's arguments for at most so many tokens of one row of the call.
        runs: how often the call runs the model.
    """

    def __init__(
        self, encoder: "LongEncoder", first_tokens: Callable[[int], dict[str, Tensor]], runs: int
    ) -> None:
        self.encoder, self.first_tokens = encoder, first_tokens
        self.more = encoder.ranks.most(runs) - runs

    def finish(self, states: list[Tensor]) -> list[Tensor]:
        """The states with the further runs in their graph, whose gradients are zero."""
        if not self.more:
            return states
        zero = self._zero()
        return [state + zero.to(state) for state in states]

    def finish_output(self, output: Any) -> Any:
        """An output of the model, as `finish`."""
        if not self.more:
            return output
        zero = self._zero()

        def joined(x: Any) -> Any:
            return x + zero.to(x) if isinstance(x, Tensor) and x.is_floating_point() else x

        if isinstance(output, tuple):
            return tuple(joined(x) for x in output)
        for name, x in output.items():
            output[name] = joined(x)
        return output

    def _zero(self) -> Tensor:
        trial = self.encoder.trial
        width = (trial and trial.row_tokens) or _TOKENS
        row = {name: x.to(self.encoder.device) for name, x in self.first_tokens(width).items()}

        def run(row: dict[str, Tensor]) -> Tensor:
            return self.encoder._call(**row, return_dict=True).last_hidden_state.float().mean()

        total = torch.zeros((), device=self.encoder.device)
        for _ in range(self.more):
            if self.encoder.recompute and torch.is_grad_enabled():
                total = total + checkpoint(run, row, use_reentrant=False)
            else:
                total = total + run(row)
        return total * 0
