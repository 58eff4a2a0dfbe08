"""The command evaluate: scores of the function, as JSON and as tables; files that are no examples."""

# ruff: noqa: E402
import json

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("typer")

from dataclasses import asdict

from helpers.cli import run
from helpers.docs_pages import squad
from helpers.task_models import save_tiny_head
from helpers.tiny_bert import tiny_text

from lckernels.tasks.evaluation import evaluate

TEXTS = [tiny_text(9), tiny_text(60)[20:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_head(tmp_path_factory.mktemp("model") / "model", "BertForQuestionAnswering")


@pytest.fixture
def file(tmp_path):
    examples = {f"river {text[:5]}?": (text.split(".")[-2].strip(), text) for text in TEXTS}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(squad(examples)))
    return path


def test_scores_are_those_of_the_function(folder, file):
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = evaluate(model, tokenizer, file)
    assert 0 < expected.scores["F1"] < 1
    result = run("evaluate", file, "--model", folder, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found.pop("model"), found.pop("file")) == (str(folder), str(file))
    assert found == json.loads(json.dumps(asdict(expected)))
    assert len(found["by_length"]) == 2

    printed = run("evaluate", file, "--model", folder).stdout.splitlines()
    assert printed[0] == "squad: 2 examples, task answer"
    cells = [line.split() for line in printed]
    percents = [f"{100 * value:.1f}" for value in expected.scores.values()]
    assert percents in cells
    for bucket in expected.by_length:
        scores = [f"{100 * value:.1f}" for value in bucket.scores.values()]
        assert [str(bucket.low), "to", str(bucket.high - 1), str(bucket.count), *scores] in cells


def test_a_scheme_for_entities(tmp_path):
    """The scores are those of the function with the scheme; they differ between schemes."""
    folder = save_tiny_head(tmp_path / "model", "BertForTokenClassification")
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = " ".join(TEXTS).split()
    path = tmp_path / "file.conll"
    tags = ["I-PER" if i % 3 else "O" for i in range(len(words))]
    path.write_text("\n".join(map(" ".join, zip(words, tags, strict=True))))
    found = {}
    for scheme in ("auto", "IOB1", "IO"):
        result = run("evaluate", path, "--model", folder, "--scheme", scheme, "--json")
        assert result.exit_code == 0, result.output
        found[scheme] = json.loads(result.stdout)["by_distance"]
        expected = json.loads(json.dumps(asdict(evaluate(model, tokenizer, path, scheme=scheme))))
        assert found[scheme] == expected["by_distance"]
    assert found["auto"] != found["IOB1"] or found["auto"] != found["IO"]
    result = run("evaluate", path, "--model", folder, "--scheme", "BILOU")
    assert result.exit_code == 2 and "--scheme: got 'BILOU'; allowed are" in result.stderr


def test_a_limit_is_printed(folder, file):
    printed = run("evaluate", file, "--model", folder, "--limit", "20").stdout
    assert "the least part of a document that was read:" in printed


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("A text.", (), "has none of the formats"),
        ('{"text": "river", "label": {}}', (), "without a head for token classification"),
        (
            None,
            ("--scheme", "IO"),
            "--scheme: got 'IO' for a file of the format squad; expected one of entities",
        ),
        (None, ("--format", "csv"), "--format: got 'csv'; allowed are"),
        (None, ("--chunk-len", "2"), "--chunk-len"),
        ("\0", (), "not a text file"),
    ],
)
def test_bad_input_is_one_sentence(content, options, message, folder, file):
    if content is not None:
        file.write_text(content)
    result = run("evaluate", file, "--model", folder, *options)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1
