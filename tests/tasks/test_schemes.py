"""Schemes read off labels: which sequences are allowed, the entities of each, labels that are no scheme."""

from itertools import pairwise, product

import pytest
import torch
from helpers.plain_tags import is_allowed

from lckernels.tasks.tagging.schemes import NEVER, OUTSIDE, read_scheme

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]


def read(labels, scheme="auto"):
    return read_scheme(dict(enumerate(labels)), scheme)


def score(scheme, sequence):
    """0 for an allowed sequence of labels, else -inf."""
    steps = sum(scheme.transitions[a, b].item() for a, b in pairwise(sequence))
    return steps + scheme.begin[sequence[0]].item() + scheme.end[sequence[-1]].item()


@pytest.mark.parametrize("labels, name", [(BIO, "BIO"), (BIOES, "BIOES")])
def test_every_short_sequence(labels, name):
    scheme = read(labels)
    assert scheme.name == name and scheme.types == ("PER", "LOC")
    for length in (1, 2, 3):
        for sequence in product(range(len(labels)), repeat=length):
            names = [labels[i] for i in sequence]
            assert (score(scheme, sequence) == 0) == is_allowed(names, name == "BIOES"), names


@pytest.mark.parametrize(
    "letters, separator", [("BIES", "_"), ("BILU", "-"), ("BMES", "-"), ("BILU", "_"), ("BMES", "_")]
)
def test_other_letters_and_separators(letters, separator):
    own = dict(zip("BIES", letters, strict=True))
    if letters == "BILU":
        own = {"B": "B", "I": "I", "E": "L", "S": "U"}
    labels = ["O"] + [own[label[0]] + separator + label[2:] for label in BIOES[1:]]
    scheme, expected = read(labels), read(BIOES)
    assert scheme.name == "BIOES" and scheme.types == expected.types
    for field in ("type_of", "begins", "ends", "transitions", "begin", "end"):
        assert torch.equal(getattr(scheme, field), getattr(expected, field))


def test_labels_of_any_order():
    order = [3, 0, 4, 2, 1]
    scheme, expected = read([BIO[i] for i in order]), read(BIO)
    assert torch.equal(scheme.transitions, expected.transitions[order][:, order])
    assert scheme.types == ("LOC", "PER")


def allowed(labels, *names, scheme="auto"):
    return score(read(labels, scheme), [labels.index(name) for name in names]) == 0


def test_types_without_some_labels():
    """As in CLUENER models: types with B, I and S, or with S alone; a type without B begins with I."""
    labels = ["O", "B-A", "I-A", "S-A", "S-B", "I-C"]
    assert read(labels).name == "BIOES"
    assert (
        allowed(labels, "B-A", "O") and allowed(labels, "B-A", "I-A") and allowed(labels, "I-C", "I-C", "O")
    )
    assert (
        allowed(labels, "S-B", "S-B")
        and not allowed(labels, "O", "I-A")
        and not allowed(labels, "S-A", "I-A")
    )
    no_single = ["O", "B-A", "I-A", "E-A"]
    assert allowed(no_single, "B-A", "O") and not allowed(no_single, "B-A", "I-A", "O")


def test_iob1_lets_i_begin():
    assert allowed(BIO, "O", "I-PER", "I-LOC", scheme="IOB1") and not allowed(BIO, "O", "I-PER")
    assert read(BIO, "IOB1").name == "IOB1"


@pytest.mark.parametrize("labels", (["O", "PER", "LOC"], ["O", "I-PER", "I-LOC"], ["PER", "O", "E-MAIL"]))
def test_io(labels):
    scheme = read(labels)
    assert scheme.name == "IO" and not scheme.transitions.any() and not scheme.begin.any()
    assert scheme.type_of[labels.index("O")] == OUTSIDE and not (scheme.begins | scheme.ends).any()


def test_io_on_request():
    assert read(["LABEL_0", "LABEL_1"], "IO").types == ("LABEL_0", "LABEL_1")
    assert read(BIO, "IO").type_of.tolist() == [OUTSIDE, 0, 0, 1, 1]
    assert read(["O", "NOUN", "B-PER"], "IO").types == ("NOUN", "B-PER")


def test_labels_of_special_tokens_are_never_predicted():
    labels = [*BIO, "[PAD]", "<s>", "X"]
    scheme = read(labels)
    assert scheme.name == "BIO" and scheme.type_of[5:].tolist() == [NEVER] * 3
    assert torch.isinf(scheme.begin[5:]).all() and torch.isinf(scheme.transitions[:, 5:]).all()


def test_labels_without_types_and_without_outside():
    assert read(["B", "I", "O"]).types == ("ENTITY",)
    assert read(["B", "M", "E", "S"]).name == "BIOES"


@pytest.mark.parametrize("labels", (["O", "b-per", "i-per", "b-loc", "i-loc"], ["o", "B-a", "i-a"]))
def test_small_letters(labels):
    scheme = read(labels)
    assert scheme.name == "BIO" and scheme.types == (("a",) if len(labels) == 3 else ("per", "loc"))
    assert scheme.begins.tolist() == [label[0] in "bB" for label in labels]
    assert scheme.type_of[0] == OUTSIDE and not allowed(labels, labels[0], labels[2])


@pytest.mark.parametrize(
    "labels",
    (["PER-B", "PER-I", "O"], ["O", "Begin", "Inside"], ["O", "begin_PER", "inside_PER"], ["O", "B-A", "A"]),
)
def test_marks_of_a_place_that_are_no_scheme(labels):
    with pytest.raises(ValueError, match=r"of no scheme.*with scheme='IO' every label but O is a type"):
        read(labels)
    assert read(labels, "IO").name == "IO"


@pytest.mark.parametrize(
    "labels",
    [
        ["LABEL_0", "LABEL_1"], ["O", "LABEL_1"], ["NOUN", "VERB"], ["O"], ["[PAD]"], ["O", "I-A", "E-A"],
        ["O", "B-A", "I-A", "DATE"], ["O", "B-A", "L-A", "S-A"], ["O", "S-A"],
    ],
)  # fmt: skip
def test_labels_of_no_scheme(labels):
    with pytest.raises(
        ValueError, match=f"model: got labels {labels[0].replace('[', '.')}.*of no scheme; expec"
    ):
        read(labels)


@pytest.mark.parametrize(
    "labels, scheme, message",
    [
        (
            BIOES,
            "BIO",
            "scheme: got 'BIO' for the labels O, B-PER, I-PER, .*; expected labels as O, B-PER, I-PER",
        ),
        (["O", "PER"], "IOB1", "scheme: got 'IOB1' for the labels O, PER"),
        (["O", "PER"], "BIOES", "scheme: got 'BIOES' for the labels O, PER; .* E-PER, S-PER"),
        (BIO, "BILOU", "scheme: got 'BILOU'; allowed are 'auto', 'BIO', 'IOB1', 'BIOES', 'IO'"),
        (BIO, None, "scheme: got None; allowed"),
    ],
)
def test_another_scheme_than_that_of_the_labels(labels, scheme, message):
    with pytest.raises(ValueError, match=message):
        read(labels, scheme)


def test_missing_labels():
    with pytest.raises(ValueError, match="model: got id2label without label 1"):
        read_scheme({0: "O", 2: "B-PER"})
