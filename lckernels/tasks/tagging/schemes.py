"""Schemes of labels for parts of a text: BIO, BIOES and IO, read off a model's labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.checks import bad

SCHEMES = ("auto", "BIO", "IOB1", "BIOES", "IO")
OUTSIDE, NEVER = -1, -2  # instead of a type: of the label O, and of labels that are never predicted
_PREFIXED = re.compile(r"([BIMELSU])(?:[-_](.+))?", re.IGNORECASE)
_MARK = (
    r"(?:[BIMELSU]|begin|beginning|start|in|inside|middle|end|last|single|unit)"  # of a place in an entity
)
_MARKED = re.compile(rf"{_MARK}|{_MARK}[-_.:/ ](?P<after>.+)|(?P<before>.+)[-_.:/ ]{_MARK}", re.IGNORECASE)
_SPECIAL = re.compile(r"\[.*\]|<.*>|X")  # [PAD], [CLS], <pad>; X of continuing pieces
_NAMELESS = re.compile(r"LABEL_\d+")
_ROLES = {"M": "I", "L": "E", "U": "S"}
_FITS = {"BIO": ("BIO",), "IOB1": ("BIO",), "BIOES": ("BIO", "BIOES")}  # given -> what labels may look like
_LETTERS = (frozenset("BIES"), frozenset("BILU"), frozenset("BMES"))
_ONE_TYPE = "ENTITY"  # the type of labels B and I without one


@dataclass(frozen=True, eq=False)
class Scheme:
    """What the labels of a model mean, and which of them may follow each other.

    Attributes:
        name: "BIO", "IOB1", "BIOES" or "IO".
        types: the types of entities, in the order of their first labels.
        type_of: (num_labels,) int64, the index in `types`; OUTSIDE and NEVER are below 0.
        begins: (num_labels,) bool, labels that always begin an entity.
        ends: (num_labels,) bool, labels that always end one.
        transitions: (num_labels, num_labels) float32, 0 where the label of the column may follow that of the
            row, -inf elsewhere.
        begin: (num_labels,) float32, 0 for labels that a text may begin with, -inf for others.
        end: (num_labels,) float32, the same for its end.
    """

    name: str
    types: tuple[str, ...]
    type_of: Tensor
    begins: Tensor
    ends: Tensor
    transitions: Tensor
    begin: Tensor
    end: Tensor


def check_scheme(scheme: object) -> None:
    """Raises ValueError for an unknown value of the argument `scheme`."""
    if scheme not in SCHEMES:
        raise bad("scheme", repr(scheme), f"allowed are {', '.join(map(repr, SCHEMES))}")


def read_scheme(id2label: Mapping[int, str], scheme: str = "auto") -> Scheme:
    """The scheme of a model's labels.

    Args:
        id2label: the labels 0, 1, ... of the model, as in its config. A label is O, or B-PER, B_PER, or B of
            labels without types. M is I, L is E, U is S; small letters are the same. [PAD],
            <pad> and X are never predicted.
        scheme: one of SCHEMES. "auto" reads BIO, BIOES and IO off the labels. IO has labels I-PER, or types
            alone, unless they differ by a mark of the place only, as PER-B and PER-I; with scheme="IO"
            prefixes do not count. "IOB1" has the labels of BIO, and I-PER begins an entity too.

    Raises:
        ValueError: labels of no scheme, or not of the given one.
    """
    check_scheme(scheme)
    missing = [i for i in range(len(id2label)) if i not in id2label]
    if missing:
        raise bad("model", f"id2label without label {missing[0]}", "expected the labels 0, 1, ...")
    labels = [str(id2label[i]) for i in range(len(id2label))]
    named = [label for label in labels if not _is_outside(label) and not _SPECIAL.fullmatch(label)]
    parsed = {label: _PREFIXED.fullmatch(label) for label in named}
    prefixed = bool(named) and all(parsed.values())
    letters = {match[1].upper() for match in parsed.values()} if prefixed else set()
    found = _scheme_of(letters) if prefixed else _plain(labels, named)
    if not named or (scheme == "auto" and found is None):
        raise bad("model", f"labels {_listed(labels)}, which are of no scheme",
                  "expected O with B-PER, I-PER (BIO; with E-, S- BIOES) or with PER (IO); "
                  "with scheme='IO' every label but O is a type")  # fmt: skip
    if found not in _FITS.get(scheme, (found,)):
        raise bad("scheme", f"{scheme!r} for the labels {_listed(labels)}", f"expected {_example(scheme)}")
    name = found if scheme == "auto" else scheme
    parts = {label: _part(label, match if prefixed else None, name) for label, match in parsed.items()}
    return _scheme(name, labels, parts)


def _scheme_of(letters: set[str]) -> str | None:
    """The scheme of labels that all have a prefix."""
    if letters == {"I"}:
        return "IO"
    if "B" not in letters:
        return None
    if letters <= {"B", "I"}:
        return "BIO"
    return "BIOES" if any(letters <= allowed for allowed in _LETTERS) else None


def _plain(labels: list[str], named: list[str]) -> str | None:
    """IO for types beside O; labels that differ by a mark of the place alone are of another scheme."""
    types = {_unmarked(label) for label in named}
    nameless = any(_NAMELESS.fullmatch(label) for label in named)
    has_outside = any(map(_is_outside, labels))
    return "IO" if has_outside and not nameless and len(types) == len(set(named)) else None


def _unmarked(label: str) -> str:
    """The label without a prefix or suffix as B or Begin, in small letters."""
    match = _MARKED.fullmatch(label)
    return label.lower() if match is None else (match["after"] or match["before"] or "").lower()


def _is_outside(label: str) -> bool:
    return label in ("O", "o")


def _part(label: str, match: re.Match | None, name: str) -> tuple[str, str]:
    """The type of a label and its place in an entity: one of B, I, E, S."""
    if match is None:
        return label, "I"
    role = "I" if name == "IO" else _ROLES.get(match[1].upper(), match[1].upper())
    return match[2] or _ONE_TYPE, role


def _scheme(name: str, labels: list[str], parts: dict[str, tuple[str, str]]) -> Scheme:
    types = tuple(dict.fromkeys(of_type for of_type, _ in parts.values()))
    known = set(parts.values())
    type_of, begins, ends, may_begin, may_end = [], [], [], [], []
    for label in labels:
        of_type, role = parts.get(label, ("", "O"))
        has = {other for other in "BIES" if (of_type, other) in known}
        inside = role in ("I", "E")
        type_of.append(types.index(of_type) if role != "O" else OUTSIDE if _is_outside(label) else NEVER)
        begins.append(role in ("B", "S"))
        ends.append(role in ("E", "S"))
        may_begin.append(type_of[-1] != NEVER and (not inside or "B" not in has or name == "IOB1"))
        goes_on = {"E", "S"} if role == "B" else {"E"}  # with these labels of its type it is not the last one
        may_end.append(role not in ("B", "I") or not goes_on <= has)
    flags = torch.tensor([begins, ends, may_begin, may_end], device="cpu")
    kind, (first, last, entered, left) = torch.tensor(type_of, device="cpu"), flags
    continues = (kind[:, None] == kind) & (kind >= 0) & ~first & ~last[:, None]
    allowed = continues | left[:, None] & entered
    scores = (_forbidden(allowed), _forbidden(entered), _forbidden(left))
    return Scheme(name, types, kind, first, last, *scores)


def _forbidden(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape, device="cpu").masked_fill(~allowed, -torch.inf)


def _example(scheme: str) -> str:
    labels = "O, B-PER, I-PER" if scheme != "BIOES" else "O, B-PER, I-PER, E-PER, S-PER"
    return f"labels as {labels}, or scheme='auto'"


def _listed(labels: list[str]) -> str:
    """The first labels."""
    return ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")
