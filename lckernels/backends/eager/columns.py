"""The columns of a plan as index tensors, so that the number of torch calls does not grow with the chunks."""

from itertools import pairwise

import torch
from torch import Tensor

from lckernels.plan import PlanArgs
from lckernels.reference import weights_at
from lckernels.segments import Column


class Columns:
    """The columns that land in the output, num_columns of them, in layers whose segments share no position.

    A sum over chunks is one indexed addition per layer: its order is fixed, and no index occurs twice in it.

    Attributes:
        rows: the segments of the plan as lists, without those of length 0, layer by layer.
        source: (num_columns,) int64, the column in a chunks tensor (num_chunks * chunk_len, ...).
        target: (num_columns,) int64, its position in the output.
    """

    def __init__(self, plan: PlanArgs) -> None:
        table = plan.segments.cpu().long()
        table = table[table[:, Column.LENGTH] > 0]
        layers = _layers(table)
        table = table[layers.argsort(stable=True)]
        length = table[:, Column.LENGTH]
        stop = length.cumsum(0)
        segment = torch.arange(len(length), device="cpu").repeat_interleave(length)
        self._u = torch.arange(len(segment), device="cpu") - (stop - length)[segment]
        self._table, self._segment = table, segment
        source = table[:, Column.ROW] * plan.chunk_len + table[:, Column.COL]
        device = plan.segments.device
        self.rows: list[list[int]] = table.tolist()
        self.source = (source[segment] + self._u).to(device)
        self.target = (table[:, Column.START][segment] + self._u).to(device)
        widths = torch.zeros(int(layers.max()) + 1 if len(layers) else 0, dtype=torch.int64, device="cpu")
        widths.index_add_(0, layers.sort().values, length)
        self._bounds = [0, *widths.cumsum(0).tolist()]

    def weights(self, weights: str | Tensor, dtype: torch.dtype) -> Tensor:
        """The merge weights (num_columns,)."""
        if isinstance(weights, Tensor):
            return weights.flatten()[self.source].to(dtype)
        fields = (Column.LENGTH, Column.KEEP_START, Column.KEEP_END)
        flags = (Column.STARTS_DOCUMENT, Column.ENDS_DOCUMENT)
        columns = (self._table[:, field][self._segment] for field in (*fields, *flags))
        return weights_at(self._u.to(dtype), *columns, weights).to(self.source.device)

    def add(self, values: Tensor, out: Tensor) -> Tensor:
        """Adds values (num_columns, ...) to out (total_len, ...) at their positions; returns out."""
        for begin, end in pairwise(self._bounds):
            out[self.target[begin:end]] += values[begin:end]
        return out


def _layers(table: Tensor) -> Tensor:
    """The layer of each segment, (num_segments,) int64; the segments are sorted by their start."""
    found, ends = [], []
    for start, length in table[:, [Column.START, Column.LENGTH]].tolist():
        layer = next((i for i, end in enumerate(ends) if end <= start), len(ends))
        ends[layer : layer + 1] = [start + length]
        found.append(layer)
    return torch.tensor(found, dtype=torch.int64, device="cpu")
