"""The costs of attention, as `lckernels explain` prints them."""

from typing import TYPE_CHECKING

from lckernels.flops import format_bytes, format_flops

if TYPE_CHECKING:
    from lckernels.hf.costs import Costs


def lines(costs: "Costs") -> list[str]:
    """The report's table, then the figures."""
    reach = ["all tokens" if side is None else f"{side:,} tokens" for side in costs.reach]
    beside = (
        ", beside the sink tokens" if any("sink tokens" in row.verdict for row in costs.report.rows) else ""
    )
    share = costs.flops_patched / costs.flops if costs.flops else 1.0
    return [
        *str(costs.report).splitlines(),
        "",
        f"for a text of {costs.seqlen:,} tokens:",
        f"masks       {format_bytes(costs.mask_bytes)} under sdpa; "
        f"patched {format_bytes(costs.mask_bytes_patched)}",
        f"attention   {format_flops(costs.flops)} under sdpa; patched {format_flops(costs.flops_patched)}, "
        f"{100 * share:.1f} %",
        f"reach       {reach[0]} before a token, {reach[1]} behind it, through all layers{beside}",
    ]
