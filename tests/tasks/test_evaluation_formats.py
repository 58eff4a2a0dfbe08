"""Files of examples: SQuAD, CMRC 2018, CoNLL, CLUENER, IFLYTEK; how a format is found; other files."""

import json

import pytest

from lckernels.errors import InputError
from lckernels.tasks.evaluation.examples import Classified, Question, Tagged
from lckernels.tasks.evaluation.formats import read_examples

SQUAD = {
    "version": "v2.0",
    "data": [{"title": "x", "paragraphs": [{"context": "The river is long.", "qas": [
        {"id": "1", "question": "What is long?", "is_impossible": False,
         "answers": [{"text": "The river", "answer_start": 0}, {"text": "river", "answer_start": 4}]},
        {"id": "2", "question": "Who?", "is_impossible": True, "answers": [],
         "plausible_answers": [{"text": "river", "answer_start": 4}]},
    ]}]}],
}  # fmt: skip
CMRC = [{"context_id": "1", "context_text": "他在北京。北京很大。", "qas": [
    {"query_id": "1", "query_text": "他在哪里\uff1f", "answers": ["北京", "在北京"]}]}]  # fmt: skip
CHINESE_SQUAD = {"data": [{"paragraphs": [{"context": "他在北京。北京很大。", "qas": [
    {"question": "哪里很大\uff1f", "answers": [{"text": "北京", "answer_start": 5}]}]}]}]}  # fmt: skip
CLUENER = (
    '{"text": "在北京的张三", "label": {"address": {"北京": [[1, 2]]}, "name": {"张三": [[4, 5]]}}}\n'
    '\n{"text": "没有", "label": {}}\n'
)
IFLYTEK = (
    '{"label": "110", "label_des": "社区超市", "sentence": "买菜"}\n{"label": "7", "sentence": "看书"}\n'
)
CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

London NNP B-NP B-LOC
"""
CHINESE_CONLL = "北 B-LOC\n京 I-LOC\n有 O\nIBM S-ORG\n\n张 B-PER\n三 E-PER\n"


def read(tmp_path, content, format="auto"):
    path = tmp_path / "file"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_examples(path, format)


def squad(context="a b", question="b", answer="a"):
    """A file with one question."""
    asked = {"question": question, "answers": [{"text": answer, "answer_start": 0}]}
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": [asked]}]}]})


@pytest.mark.parametrize("blank", ["\u2028", "\x85", "\u3000"])
def test_lines_end_at_line_feeds_alone(blank, tmp_path):
    line = json.dumps({"text": f"a{blank}b", "label": "x"}, ensure_ascii=False)
    assert read(tmp_path, line) == ("iflytek", [Classified(f"a{blank}b", ("x",))])
    (example,) = read(tmp_path, f"a O\n{blank}\tO\nb B-X\n")[1]
    start = example.text.index("b")
    assert blank in example.text and example.entities == {(start, start + 1, "X")}


def test_the_place_of_evidence_is_that_of_the_first_answer_with_a_text(tmp_path):
    answers = [{"text": "", "answer_start": 0}, {"text": "b", "answer_start": 2}]
    paragraph = {"context": "a b", "qas": [{"question": "c", "answers": answers}]}
    assert read(tmp_path, {"data": [{"paragraphs": [paragraph]}]})[1] == [Question("a b", "c", ("b",), 2)]


def test_squad(tmp_path):
    name, (first, second) = read(tmp_path, SQUAD)
    assert name == "squad"
    assert first == Question("The river is long.", "What is long?", ("The river", "river"), 0)
    assert second == Question("The river is long.", "Who?", (), None)


def test_cmrc_in_both_structures(tmp_path):
    expected = Question("他在北京。北京很大。", "他在哪里\uff1f", ("北京", "在北京"), 2)
    assert read(tmp_path, CMRC) == ("cmrc", [expected])
    name, (example,) = read(tmp_path, CHINESE_SQUAD)
    assert (name, example.start, example.answers) == ("cmrc", 5, ("北京",))
    assert read(tmp_path, CHINESE_SQUAD, "squad")[0] == "squad"


def test_cluener_ends_are_the_last_character(tmp_path):
    name, (first, second) = read(tmp_path, CLUENER)
    assert name == "cluener"
    assert first == Tagged("在北京的张三", frozenset({(1, 3, "address"), (4, 6, "name")}))
    assert second.entities == frozenset()
    assert [first.text[start:end] for start, end, _ in sorted(first.entities)] == ["北京", "张三"]


def test_iflytek(tmp_path):
    assert read(tmp_path, IFLYTEK) == (
        "iflytek",
        [Classified("买菜", ("社区超市", "110")), Classified("看书", ("7",))],
    )


def test_conll_documents_begin_with_docstart(tmp_path):
    name, (first, second) = read(tmp_path, CONLL)
    assert name == "conll" and first.text == "EU rejects German\nPeter Blackburn"
    found = {(first.text[start:end], label) for start, end, label in first.entities}
    assert found == {("EU", "ORG"), ("German", "MISC"), ("Peter Blackburn", "PER")}
    assert second == Tagged("London", frozenset({(0, 6, "LOC")}))


def test_conll_without_docstart_has_a_document_per_sentence(tmp_path):
    _, (first, second) = read(tmp_path, CHINESE_CONLL)
    assert first == Tagged("北京有 IBM", frozenset({(0, 2, "LOC"), (4, 7, "ORG")}))
    assert second == Tagged("张三", frozenset({(0, 2, "PER")}))


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["I-A", "I-A", "I-B"], {(0, 3, "A"), (4, 5, "B")}),  # IOB1
        (["B-A", "B-A", "O"], {(0, 1, "A"), (2, 3, "A")}),
        (["B-A", "E-A", "I-A"], {(0, 3, "A"), (4, 5, "A")}),
        (["S-A", "I-A", "L-A"], {(0, 1, "A"), (2, 5, "A")}),
        (["U-A", "U-A", "U-A"], {(0, 1, "A"), (2, 3, "A"), (4, 5, "A")}),
        (["O", "I-A", "O"], {(2, 3, "A")}),
    ],
)
def test_tags_of_each_scheme(tags, spans, tmp_path):
    lines = "\n".join(f"{word} {tag}" for word, tag in zip("xyz", tags, strict=True))
    (example,) = read(tmp_path, lines)[1]
    assert example.text == "x y z" and example.entities == spans


@pytest.mark.parametrize(
    ("content", "format", "message"),
    [
        ("A text.", "auto", "has none of the formats squad, cmrc, conll, cluener, iflytek"),
        ('{"a": 1}', "auto", "has none of the formats"),
        ("[1, 2]", "auto", "has none of the formats"),
        ("w O\nx Q-A\n", "auto", "cannot be read as conll: the tag 'Q-A' is none of"),
        ("w O\nx\n", "conll", "line 2 has one column"),
        ('{"text": "ab", "label": {"n": {"b": [[1, 2]]}}}', "auto", "outside its text"),
        ('{"text": "ab", "label": {}}\nx', "cluener", "line 2 is no JSON object"),
        ('{"data": [{}]}', "auto", "cannot be read as squad: no 'paragraphs'"),
        (squad(context=None), "auto", "the text of example 1 is of type NoneType; expected a str"),
        (squad(question=7), "auto", "the question of example 1 is of type int"),
        (squad(question=" "), "auto", "the question of example 1 is blank"),
        (squad(answer=5), "auto", "the answer 1 of example 1 is of type int"),
        (
            squad(context="a \ud83d"),
            "auto",
            "the text of example 1: got a lone surrogate, U.D83D, at character 2",
        ),
        ('[{"context_text": "a", "qas": [{"query_text": "b", "answers": "a"}]}]', "auto", "expected a list"),
        ('{"text": "ab", "label": {"n": {"b": [[0.0, 1]]}}}', "auto", "places that are no integers"),
        ('{"text": null, "label": {}}', "auto", "the text of example 1 is of type NoneType"),
        ('{"text": "a", "label": "b"}\n{"text": "a"}', "auto", "example 2 has no label"),
        (
            '{"text": "a", "label": "b"}\n{"label": "b"}',
            "auto",
            "example 2 has none of sentence, text, content",
        ),
        ('{"text": "a", "label": "b"}\n' + "[" * 100_000, "auto", "nested too deeply"),
        ("[" * 100_000, "auto", "has none of the formats"),
        ('{"data": []}', "auto", "has no example of the format squad"),
        (" ", "auto", "is an empty text"),
    ],
)
def test_what_cannot_be_read_raises(content, format, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content, format)


def test_an_unknown_format_raises(tmp_path):
    with pytest.raises(ValueError, match="format: got 'csv'; allowed are 'auto', 'squad'"):
        read(tmp_path, SQUAD, "csv")
