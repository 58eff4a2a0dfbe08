"""The classes of a text: what `classify` and `watch` return, and how scores follow from a head's logits."""

import reprlib
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from lckernels.checks import bad, number
from lckernels.tasks.results import Curve

_OF_PROBLEM_TYPES = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}
KINDS = tuple(_OF_PROBLEM_TYPES.values())


@dataclass(frozen=True)
class Label:
    """A class of the model.

    Attributes:
        label: its name, from `config.id2label`.
        score: its probability; for kind "regression" the number that the head returns for it.
    """

    label: str
    score: float


@dataclass(frozen=True)
class Classes:
    """The classes of one text.

    Attributes:
        kind: "single": one class of several, the scores sum to 1; "multi": each class on its own;
            "regression".
        labels: all classes, the highest score first; of equal scores the model's first.
        chosen: the class with the highest score; for "multi" those of at least `threshold`, which may be
            none; empty for "regression".
        value: for "regression" of one number that number, else None.
        coverage: the share of the text's characters, white space left out, that are in a token which the
            model read. Below 1.0 with `limit`, or where the tokenizer has dropped characters.
        num_tokens: tokens of the text that were read, special tokens left out.
        curve: along the text, the score that the first of `labels` has for the part of a single chunk; None
            where the head reads more than the first states, and for results of `watch`.
    """

    kind: str
    labels: list[Label]
    chosen: list[str]
    value: float | None
    coverage: float
    num_tokens: int
    curve: Curve | None = None


@dataclass(frozen=True)
class ClassRule:
    """How classes follow from logits.

    Attributes:
        kind: one of KINDS.
        names: of the classes.
        threshold: least score of a chosen class, for "multi".
    """

    kind: str
    names: tuple[str, ...]
    threshold: float

    @classmethod
    def of(cls, config: Any, kind: str, threshold: float) -> Self:
        """The rule for a model's config; "auto" reads its problem_type, then the number of its labels.

        Raises:
            ValueError: an unknown kind, "single" for one label, or a threshold outside [0, 1].
        """
        number("threshold", threshold, 0)
        if threshold > 1:
            raise bad("threshold", threshold, "expected a number from 0 to 1")
        if kind != "auto" and kind not in KINDS:
            raise bad("kind", reprlib.repr(kind), f"allowed are 'auto', {', '.join(map(repr, KINDS))}")
        count = config.num_labels
        if kind == "auto":
            default = "regression" if count == 1 else "single"
            kind = _OF_PROBLEM_TYPES.get(getattr(config, "problem_type", None), default)
        if kind == "single" and count == 1:
            raise bad("kind", "'single' for a model of one label", "expected 'multi' or 'regression'")
        known = getattr(config, "id2label", None) or {}
        return cls(kind, tuple(str(known.get(i, f"LABEL_{i}")) for i in range(count)), threshold)

    def scores(self, logits: Tensor) -> Tensor:
        """(..., num_labels) float64 on the CPU, for logits of this shape."""
        logits = logits.detach().double().cpu()
        if self.kind == "regression":
            return logits
        return logits.softmax(-1) if self.kind == "single" else logits.sigmoid()

    def top(self, logits: Tensor) -> int:
        """The class with the highest score, for logits (num_labels,)."""
        return int(self.scores(logits).argmax())

    def classes(
        self, logits: Tensor, coverage: float, num_tokens: int, curve: Curve | None = None
    ) -> Classes:
        """The result for logits (num_labels,)."""
        scores = self.scores(logits)
        order = scores.argsort(descending=True, stable=True).tolist()
        labels = [Label(self.names[i], float(scores[i])) for i in order]
        chosen = {
            "single": [labels[0].label],
            "multi": [label.label for label in labels if label.score >= self.threshold],
            "regression": [],
        }[self.kind]
        single = self.kind == "regression" and len(labels) == 1
        value = labels[0].score if single else None
        return Classes(self.kind, labels, chosen, value, coverage, num_tokens, curve)
