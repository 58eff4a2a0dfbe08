"""Replicas of a model as DataParallel makes them, on the CPU: torch's code with another copy of tensors."""

import sys
from collections.abc import Callable
from unittest.mock import patch

from torch import Tensor, nn
from torch.nn.parallel import replicate


def replicas_of(model: nn.Module, *copies: Callable[[Tensor], Tensor]) -> list[nn.Module]:
    """One replica for each of `copies`, which maps a tensor of the model to that of the replica.

    They have no parameters: their weights are plain tensors.
    """

    def broadcast(tensors: list[Tensor], devices: list[int], detach: bool = False) -> list[list[Tensor]]:
        return [[copy(tensor) for tensor in tensors] for copy in copies]

    # The function has the name of its module.
    module = sys.modules[replicate.__module__]
    with patch.object(module, "_broadcast_coalesced_reshape", broadcast):
        found = replicate(model, list(range(len(copies))))
    assert not any(list(replica.parameters()) for replica in found)
    return found
