"""States as `lckernels encode` stores them, random."""

import torch

from lckernels.search.saved_states import FORMAT, States


def some_states(rows=6, **metadata):
    offsets = torch.arange(2 * rows).view(rows, 2)
    return States(torch.randn(rows, 4).bfloat16(), offsets, {"format": FORMAT, "overlap": "4", **metadata})
