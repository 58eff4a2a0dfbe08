"""Ranks that hold shards of one model run it equally often: FSDP gathers weights in each run.

A row of one rank may have more chunks than that of another; without further runs of the other rank the
collectives of the two would not match.
"""

from collections.abc import Callable
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

    def __reduce__(self) -> tuple:
        return Ranks, (self.model,)  # groups are of this process

    @property
    def share(self) -> bool:
        """Whether several ranks hold shards of the model."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return False
        if distributed.get_world_size() == 1:
            return False
        self._groups = _groups(self.model) or (self._groups if _is_sharded(self.model) else [])
        return bool(self._groups)

    def most(self, runs: int) -> int:
        """The largest number of runs on any rank; each calls this."""
        for group, device in self._groups:
            number = torch.tensor(runs, device=device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group)
            runs = int(number)
        return runs


def _is_sharded(model: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def _groups(model: nn.Module) -> list[tuple[Any, str]]:
    """The groups of several ranks over which weights within the model are sharded now."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    found = {}
    if _is_sharded(model):
        meshes = {p.device_mesh for p in model.parameters() if isinstance(p, DTensor)}
        for mesh in meshes:
            found.update((id(group), (group, mesh.device_type)) for group in mesh.get_all_groups())
    for module in model.modules():
        if isinstance(module, FullyShardedDataParallel):
            found[id(module.process_group)] = module.process_group, module.compute_device.type
    return [(group, device) for group, device in found.values() if group.size() > 1]


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
        self.more = encoder.ranks.most(runs) - runs if encoder.ranks.share else 0

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
