"""The costs of attention, as `lckernels explain` prints them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lckernels.flops import format_bytes, format_flops

if TYPE_CHECKING:
    from lckernels.hf.costs import Costs


@dataclass(frozen=True)
class Explanation:
    """What a patch changes in a model.

    Attributes:
        costs: the report of the patch, and the costs for one text.
        positions: of the model; None without a limit.
        encoder: whether `LongEncoder` supports the model.
        window, sink_tokens: the options of the patch.
    """

    costs: "Costs"
    positions: int | None
    encoder: bool
    window: int | None
    sink_tokens: int | None

    @property
    def fits(self) -> bool:
        """Whether the model has a position for each token of the text."""
        return self.positions is None or self.costs.seqlen <= self.positions


def lines(found: Explanation) -> list[str]:
    """The report's table, then the figures."""
    costs = found.costs
    reach = ["all tokens" if side is None else f"{side:,} tokens" for side in costs.reach]
    beside = (
        ", beside the sink tokens" if any("sink tokens" in row.verdict for row in costs.report.rows) else ""
    )
    share = costs.flops_patched / costs.flops if costs.flops else 1.0
    return [
        *str(costs.report).splitlines(),
        "",
        f"for a text of {costs.seqlen:,} tokens:",
        *([] if found.fits else [f"positions   {_too_few_positions(found)}"]),
        f"masks       {format_bytes(costs.mask_bytes)} under sdpa; "
        f"patched {format_bytes(costs.mask_bytes_patched)}",
        f"attention   {format_flops(costs.flops)} under sdpa; patched {format_flops(costs.flops_patched)}, "
        f"{100 * share:.1f} %",
        f"reach       {reach[0]} before a token, {reach[1]} behind it, through all layers{beside}",
    ]


def _too_few_positions(found: Explanation) -> str:
    limit = f"{found.positions:,}"
    fewer = f"{found.costs.report.model} has only {limit}, patched or not; "
    if found.encoder:
        return f"{fewer}lckernels.LongEncoder reads longer texts in chunks of up to {limit} tokens"
    return f"{fewer}the figures below assume {found.costs.seqlen:,}"


def as_json(found: Explanation) -> dict[str, Any]:
    """The object that `explain --json` prints, without the picture."""
    costs, report = found.costs, found.costs.report
    layers = [
        {
            "layer": row.layer,
            "kind": row.kind,
            "window": row.window,
            "backend": row.backend or None,
            "result": row.verdict,
        }
        for row in report.rows
    ]
    return {
        "model": report.model,
        "seqlen": costs.seqlen,
        "window": found.window,
        "sink_tokens": found.sink_tokens,
        "positions": found.positions,
        "fits": found.fits,
        "exact": report.exact,
        "layers": layers,
        "notes": list(report.notes),
        "mask_bytes": costs.mask_bytes,
        "mask_bytes_patched": costs.mask_bytes_patched,
        "flops": costs.flops,
        "flops_patched": costs.flops_patched,
        "reach_before": costs.reach[0],
        "reach_after": costs.reach[1],
    }
