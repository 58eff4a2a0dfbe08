"""The report of a patch: each attention layer as a row, and a table of them."""

import re
from dataclasses import dataclass
from typing import NoReturn

from lckernels.hf.linear_report import LinearReport

EXACT = "exact"
APPROXIMATE = "approximate"
LATER = "known at its first call"
BY_DEVICE = "by device"  # the backend of a layer of a model without weights


@dataclass(frozen=True)
class Row:
    """One attention layer.

    Attributes:
        layer: name of the module.
        kind: which keys it sees, in words.
        window: (left, right) keys of its window; None for dense attention or if it is not known.
        backend: that runs it; empty if the layer was left or is not known; "by device" for a model on the
            meta device: the first backend that supports the device on which its weights are loaded.
        verdict: "exact", "approximate: ...", "known at its first call" (with a window "approximate if full,
            known at its first call"), or why it was left to the model's own or to torch's dense attention.
    """

    layer: str
    kind: str
    window: tuple[int, int] | None
    backend: str
    verdict: str

    @property
    def taken(self) -> bool:
        """Whether lckernels runs the layer."""
        return bool(self.backend)


@dataclass(frozen=True)
class Report:
    """What a patch changed. `str()` is a table, where layers that differ only in their numbers share a line.

    Attributes:
        model: name of its class.
        rows: each attention layer in the order of the model's calls, then those that no call reached.
        unknown: why some layers are known only at their first call; empty if there are none.
        linear: with linear="packed", the linear layers; else None.
        notes: fields of the model's config with another effect than their names, and what windows do to
            PEFT's virtual tokens; a sentence for each.
        unread: the note that the model does not read the keys of its prefix tuning; empty if it may.
    """

    model: str
    rows: tuple[Row, ...]
    unknown: str = ""
    linear: LinearReport | None = None
    notes: tuple[str, ...] = ()
    unread: str = ""

    @property
    def taken(self) -> tuple[Row, ...]:
        """The layers that lckernels runs."""
        return tuple(row for row in self.rows if row.taken)

    @property
    def exact(self) -> bool:
        """Whether every layer that lckernels runs, now or from its first call, gives the same results."""
        return not any(row.verdict.startswith(APPROXIMATE) for row in self.rows)

    def __enter__(self) -> NoReturn:
        hint = "with lckernels.patched(model): ends the patch; now it lasts until lckernels.unpatch(model)"
        raise TypeError(f"patch: got the report of a patch in a with statement; {hint}")

    def __exit__(self, *error: object) -> None:
        """Never called: entering raises."""

    def __str__(self) -> str:
        lines = [("layer", "kind", "window", "backend", "result")]
        for (pattern, kind, window, backend, verdict), numbers in _grouped(self.rows).items():
            name = pattern.replace("*", _ranges(numbers), 1) if numbers else pattern
            lines.append((name, kind, "" if window is None else str(window), backend or "-", verdict))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ("  ".join(x.ljust(n) for x, n in zip(line, widths, strict=True)).rstrip() for line in lines)
        head = f"{self.model}: {len(self.taken)} of {len(self.rows)} attention layers on lckernels"
        if self.unknown:
            head += f" (some are known only at their first call: {self.unknown})"
        notes = (f"note: {note}" for note in self.notes)
        return "\n".join([head, *table, *notes, *([] if self.linear is None else [str(self.linear)])])


def _grouped(rows: tuple[Row, ...]) -> dict[tuple, list[int]]:
    """Rows without the first number of their layer's name, which is *, and these numbers."""
    found: dict[tuple, list[int]] = {}
    for row in rows:
        pattern, count = re.subn(r"(?<=\.)\d+(?=\.)", "*", row.layer, count=1)
        numbers = found.setdefault((pattern, row.kind, row.window, row.backend, row.verdict), [])
        if count:
            numbers.append(int(re.search(r"(?<=\.)\d+(?=\.)", row.layer)[0]))
    return found


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "[0-2,5]"; one number stays one."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return text if len(numbers) == 1 else f"[{text}]"
