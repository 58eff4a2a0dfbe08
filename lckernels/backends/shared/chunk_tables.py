"""A plan's segments sorted by chunk, for kernels on a device."""

import torch
from torch import Tensor

from lckernels.plan import PlanArgs
from lckernels.segments import Column


def segments_by_chunk(plan: PlanArgs) -> tuple[Tensor, Tensor]:
    """Segments sorted by chunk, on the device and without a synchronization.

    Returns:
        Indices of the segments in the order of their chunks, (num_segments,) int64, and the offset of each
        chunk's first one, (num_chunks + 1,) int64.
    """
    row = plan.segments[:, Column.ROW].long()
    ordered, by_chunk = row.sort(stable=True)
    bounds = torch.arange(plan.num_chunks + 1, device=row.device)
    return by_chunk, torch.searchsorted(ordered, bounds)
