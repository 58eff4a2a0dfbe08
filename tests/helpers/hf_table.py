"""The table of docs/huggingface_support.md, which the parity sweep writes."""

import textwrap
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from helpers.hf_checks import CHECKS, checks_of
from helpers.hf_models import MODELS, NOT_SWEPT, has

import lckernels
from lckernels.hf.report import LATER

NAMES = "Architectures that pass: "  # how the list begins
FAILED, REFUSED = "**no**", "unsupported"
BAD = {FAILED, REFUSED}


@dataclass
class Table:
    """The results of the checks; `results[name][check]`: "yes", "no" or why it was not possible."""

    results: dict[str, dict[str, str]] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def write(self, docs: Path) -> None:
        """The page with the table, at `docs`."""
        docs.write_text(self.markdown())

    def passed(self) -> list[str]:
        """The architectures that pass every check that eager attention passes."""
        return [name for name, results in self.results.items() if not {*map(_mark, results.values())} & BAD]

    def markdown(self) -> str:
        versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
        head = ["model", "layers on lckernels", *CHECKS]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for name, results in self.results.items():
            marks = [_mark(results.get(check, "")) for check in CHECKS]
            lines.append(f"| {' | '.join([name, self.layers.get(name, ''), *marks])} |")
        text = (
            f"{len(self.passed())} of {len(self.results)} architectures pass every check that eager attention"
            f" passes ({versions}). A dash: not possible under eager attention either, or not applicable."
            " Unsupported: an error names the reason."
        )
        refused = [f"| {name} | {why} |" for name, why in self.refused.items()]
        if refused:
            lines += ["", "| raises in `lckernels.patch` | reason |", "|---|---|", *refused]
        lines += ["", "| not tested | reason |", "|---|---|"]
        lines += [f"| {name} | {why} |" for name, why in NOT_SWEPT.items()]
        title = "# Supported architectures of transformers"
        command = "pytest tests/hf/test_hf_parity.py -m hf --hf-table docs/huggingface_support.md"
        head = f"Written by `{command}`; [huggingface.md](huggingface.md#checks) describes the checks."
        names = textwrap.fill(f"{NAMES}{', '.join(self.passed())}.", 118, break_on_hyphens=False)
        return "\n".join([title, "", head, "", text, "", names, "", *lines, ""])


def missing_cases(ran: Collection[tuple[str, str]]) -> list[str]:
    """The architectures that the page requires and that (architecture, check) of a run lack."""
    cases = {name: [(name, check) for check in checks_of(name)] for name in MODELS if has(name)}
    return [name for name, needed in cases.items() if not {*needed} <= {*ran}]


def _mark(result: str) -> str:
    if result.startswith("lckernels does not support"):
        return REFUSED
    return {"yes": "yes", "no": FAILED, "": ""}.get(result, "-")


def describe(report: lckernels.hf.Report) -> str:
    """The kinds of the patched layers, and the number of the others."""
    taken: dict[str, int] = {}
    for row in report.taken:
        window = f" {row.window[0]},{row.window[1]}" if "window" in row.kind else ""
        taken[f"{row.kind}{window}"] = taken.get(f"{row.kind}{window}", 0) + 1
    later = sum(row.verdict == LATER for row in report.rows)
    left = len(report.rows) - len(report.taken) - later
    rest = {LATER: later, "left": left}
    return "; ".join(f"{count} {kind}" for kind, count in (*taken.items(), *rest.items()) if count)
