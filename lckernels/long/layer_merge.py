"""merge="layer": the model runs once over whole documents; each attention layer merges its chunks.

Embeddings, projections and feed-forward run once per token; attention is `chunked_attention`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.long.batches import Entries
from lckernels.long.layer_rows import PackedRow, PackedRows
from lckernels.long.outputs import Outputs
from lckernels.long.positions import chunk_positions
from lckernels.long.recompute import Recompute


def run_rows(
    model: nn.Module,
    call: Callable[..., Any],
    entries: Entries,
    rows: PackedRows,
    outputs: Outputs,
    weights: str | Tensor,
    device: torch.device | str,
    advance: Callable[[int], object],
    recompute: Recompute | None,
) -> list[Tensor]:
    """The states (total_len, dim) on `device`, in the order of `Outputs.states`.

    Requires lckernels' attention in the model, which `call` runs. `advance` receives the number of tokens
    read. With `recompute` the backward runs each row again.
    """
    positions = chunk_positions(model, rows.chunks.index, entries.sources.get("input_ids"))
    layers = getattr(model.config, "num_hidden_layers", 1)
    parts: list[list[Tensor]] = []

    def run(row: PackedRow, on_layer: Callable[[], None]) -> list[Tensor]:
        options = {"output_hidden_states": outputs.hidden_states, "return_dict": True}
        output = _run_row(call, type(model).__name__, entries, row, on_layer, **options)
        results = row.results.to(entries.device)
        states = outputs.states(output, (1, row.num_tokens))
        return [state[0].index_select(0, results) for state in states]

    read = run if recompute is None else recompute.of(run)
    for start, stop in rows.ranges:
        row = rows.pack(start, stop, weights, positions)
        done = [row.num_tokens * n // layers for n in range(layers + 1)]
        shares = (after - before for before, after in pairwise(done))
        states = read(row, lambda shares=shares: advance(next(shares, 0)))
        parts.append([state.to(device) for state in states])
    return [torch.cat(states) if len(states) > 1 else states[0] for states in zip(*parts, strict=True)]


def _run_row(
    call: Callable[..., Any],
    name: str,
    entries: Entries,
    row: PackedRow,
    on_layer: Callable[[], None],
    **options: Any,
) -> Any:
    """The output of the model `name` for one row; `on_layer` is called after each attention layer."""
    from lckernels.hf.masks.chunk_mask import ChunkMask

    mask = ChunkMask.of_shape(1, 1, row.num_tokens, row.num_tokens, device=entries.device)
    mask.plan, mask.num_extra = row.plan.to(entries.device), row.num_extra
    mask.weights = row.weights.to(entries.device) if isinstance(row.weights, Tensor) else row.weights
    calls = []
    mask.on_layer = lambda: calls.append(on_layer())
    output = call(
        **entries.gather(row.entries[None].to(entries.device), [row.num_tokens]),
        attention_mask=mask,
        position_ids=row.positions[None].to(entries.device),
        **options,
    )
    if not calls:
        raise TypeError(f"model: {name} ran without lckernels' attention; use merge='final'")
    return output
