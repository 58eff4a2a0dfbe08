"""Merging and splitting in plain torch, with every table built beforehand."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases.overlap import OverlapCase
from lckernels import reference
from lckernels.plan import Plan
from lckernels.segments import Column

Run = Callable[[Tensor], Tensor]


def merge_weights(plan: Plan, weights: str, dtype: torch.dtype) -> Tensor:
    """(num_chunks, chunk_len): the normalized merge weights; 0 outside segments."""
    weight = torch.zeros(plan.num_chunks, plan.chunk_len, dtype=torch.float64)
    weight_sum = torch.zeros(plan.total_len, dtype=torch.float64)
    rows = plan.segments.tolist()
    for row in rows:
        weight_sum[row[Column.START] :][: row[Column.LENGTH]] += reference.segment_weights(
            row, weights, torch.float64
        )
    for row in rows:
        chunk, col, start, length = row[:4]
        a = reference.segment_weights(row, weights, torch.float64)
        weight[chunk, col : col + length] = a / weight_sum[start : start + length]
    return weight.to(dtype)


def positions(plan: Plan) -> Tensor:
    """(num_chunks, chunk_len) int64: output positions of a plan whose segments are whole rows."""
    starts = plan.segments[plan.segments[:, Column.ROW].argsort(), Column.START].long()
    return starts[:, None] + torch.arange(plan.chunk_len)


def merge_by_index_add(case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """index_add_ with the division folded into the weights beforehand."""
    index = positions(case.plan).flatten().to(device)
    weight = merge_weights(case.plan, case.weights, case.dtype).to(device)[..., None]

    def run(chunks: Tensor) -> Tensor:
        out = chunks.new_zeros(case.total_len, case.dim)
        return out.index_add_(0, index, (chunks * weight).flatten(0, 1))

    return run


def merge_by_fold(case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """F.fold over channel-major chunks: it sums every column, so the strides must be equal."""
    weight = merge_weights(case.plan, case.weights, case.dtype).to(device)[..., None]

    def run(chunks: Tensor) -> Tensor:
        columns = (chunks * weight).permute(2, 1, 0).reshape(1, case.dim * case.chunk_len, case.num_chunks)
        folded = F.fold(columns, (case.total_len, 1), (case.chunk_len, 1), stride=(case.stride, 1))
        return folded.view(case.dim, case.total_len).t().contiguous()

    return run


def merge_by_gather(case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """The chunk rows of each position, gathered and summed; torch compiles it to one kernel."""
    index, weight = (x.to(device) for x in gather_table(case))
    weight = weight[..., None]

    def run(chunks: Tensor) -> Tensor:
        return (chunks.flatten(0, 1)[index] * weight).sum(1)

    torch.compiler.reset()  # otherwise the ninth case exceeds torch's limit of recompilations
    return torch.compile(run, dynamic=False, fullgraph=True)


def gather_table(case: OverlapCase) -> tuple[Tensor, Tensor]:
    """(total_len, most) int64, the chunk rows of each position; their weights, 0 where there are fewer."""
    position = positions(case.plan).flatten()
    part = merge_weights(case.plan, case.weights, case.dtype).flatten()
    order = position.argsort(stable=True)
    place = position[order]
    rank = torch.arange(len(place)) - torch.searchsorted(place, place)
    index = torch.zeros(case.total_len, int(rank.max()) + 1, dtype=torch.int64)
    parts = torch.zeros(index.shape, dtype=case.dtype)
    index[place, rank], parts[place, rank] = order, part[order]
    return index, parts


def merge_by_loop(case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """A Python loop over the chunks."""
    weight = merge_weights(case.plan, case.weights, case.dtype).to(device)[..., None]
    starts = positions(case.plan)[:, 0].tolist()

    def run(chunks: Tensor) -> Tensor:
        out = chunks.new_zeros(case.total_len, case.dim)
        for i, start in enumerate(starts):
            out[start : start + case.chunk_len] += chunks[i] * weight[i]
        return out

    return run


def split_by_index(case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """Advanced indexing: one gathered row per chunk column."""
    index = positions(case.plan).to(device)
    return lambda sequence: sequence[index]


def split_by_unfold(case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """An unfolded view, copied."""
    return lambda sequence: sequence.unfold(0, case.chunk_len, case.stride).transpose(1, 2).contiguous()


def split_by_loop(case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """A Python loop over the chunks, stacked."""
    starts = positions(case.plan)[:, 0].tolist()
    return lambda sequence: torch.stack([sequence[start : start + case.chunk_len] for start in starts])


OVERLAP_PEERS: dict[str, dict[str, Callable[..., Run]]] = {
    "overlap_merge": {"index_add": merge_by_index_add, "fold": merge_by_fold, "loop": merge_by_loop},
    "overlap_split": {"index": split_by_index, "unfold": split_by_unfold, "loop": split_by_loop},
}
# Under autograd each slice of a Python loop copies the whole tensor: far slower than the others.
FORWARD_ONLY = ("loop",)


def overlap_peers(op: str, direction: str) -> dict[str, Callable[..., Run]]:
    """The peers of an op and direction; the first is the baseline of the checks."""
    peers = OVERLAP_PEERS[op]
    return {
        name: build for name, build in peers.items() if direction == "forward" or name not in FORWARD_ONLY
    }
