"""The costs of attention, as `lckernels explain` prints them."""

from typing import TYPE_CHECKING

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
        f"masks       {_bytes(costs.mask_bytes)} under sdpa; patched {_bytes(costs.mask_bytes_patched)}",
        f"attention   {_flops(costs.flops)} under sdpa; patched {_flops(costs.flops_patched)}, "
        f"{100 * share:.1f} %",
        f"reach       {reach[0]} before a token, {reach[1]} behind it, through all layers{beside}",
    ]


def _bytes(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} byte{'' if size == 1 else 's'}"


def _flops(count: int) -> str:
    for unit, scale in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count:,} FLOP"
