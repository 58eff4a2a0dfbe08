"""A plan's segments by their chunks, for kernels on a device."""

import torch
from torch import Tensor

from lckernels.plan import PlanArgs
from lckernels.segments import Column


def segments_by_chunk(plan: PlanArgs) -> tuple[Tensor, Tensor]:
    """Numbers of segments in the order of their chunks, and where each chunk's begin among them.

    (num_segments,) and (num_chunks + 1,) int64: sorted on the device, for which nothing waits.
    """
    row = plan.segments[:, Column.ROW].long()
    ordered, by_chunk = row.sort(stable=True)
    bounds = torch.arange(plan.num_chunks + 1, device=row.device)
    return by_chunk, torch.searchsorted(ordered, bounds)
