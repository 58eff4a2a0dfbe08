"""The table of docs/huggingface_support.md, which the parity sweep leaves."""

from dataclasses import dataclass, field

from hf_checks import CHECKS
from hf_models import NOT_SWEPT

import lckernels


@dataclass
class Table:
    """What became of the checks; `results[name][check]`: "yes", "no" or why it was not possible."""

    results: dict[str, dict[str, str]] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def markdown(self, versions: str) -> str:
        head = ["model", "layers on lckernels", *CHECKS]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for name, results in self.results.items():
            marks = [_mark(results.get(check, "")) for check in CHECKS]
            lines.append(f"| {' | '.join([name, self.layers.get(name, ''), *marks])} |")
        served = sum("no" not in results.values() for results in self.results.values())
        text = f"{served} of {len(self.results)} architectures pass every check that eager attention passes"
        text += (
            f" ({versions}). A dash: transformers itself cannot do it under eager, or it means nothing there."
        )
        refused = [f"| {name} | {why} |" for name, why in self.refused.items()]
        if refused:
            lines += ["", "| `lckernels.patch` refuses | because |", "|---|---|", *refused]
        lines += ["", "| not in the sweep | because |", "|---|---|"]
        lines += [f"| {name} | {why} |" for name, why in NOT_SWEPT.items()]
        title = "# What transformers' models do on lckernels"
        command = "pytest tests/test_hf_parity.py --hf-all --hf-table docs/huggingface_support.md"
        head = f"Written by `{command}`; [huggingface.md](huggingface.md) says what the checks are."
        return "\n".join([title, "", head, "", text, "", *lines, ""])


def _mark(result: str) -> str:
    if result.startswith("lckernels refuses"):
        return "refused"
    return {"yes": "yes", "no": "**no**", "": ""}.get(result, "-")


def describe(report: lckernels.hf.Report) -> str:
    """Kinds of the layers taken, and why others were left."""
    taken: dict[str, int] = {}
    for row in report.taken:
        window = f" {row.window[0]},{row.window[1]}" if "window" in row.kind else ""
        taken[f"{row.kind}{window}"] = taken.get(f"{row.kind}{window}", 0) + 1
    left = len(report.rows) - len(report.taken)
    parts = [f"{count} {kind}" for kind, count in taken.items()]
    return "; ".join([*parts, *([f"{left} left"] if left else [])])
