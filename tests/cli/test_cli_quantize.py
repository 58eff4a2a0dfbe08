"""The option --quantize: the results of a model after `lckernels.quantize`, and its errors."""

# ruff: noqa: E402
import json

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("typer")

from helpers.cli import run
from helpers.task_models import LABELS, save_tiny_head
from helpers.tiny_bert import save_tiny_bert

import lckernels
from lckernels import tasks
from lckernels.errors import InputError
from lckernels.hf import int8
from lckernels.long.text_encoder import TextEncoder
from lckernels.search.saved_states import load_states

pytestmark = pytest.mark.skipif(bool(int8.missing()), reason=f"no int8 products: {int8.missing()}")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """An encoder whose layers have enough features."""
    return str(save_tiny_bert(tmp_path_factory.mktemp("wide"), dim=64))


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    place = tmp_path_factory.mktemp("heads")
    return {head: save_tiny_head(place / head, head, dim=64) for head in LABELS}


def test_encode_stores_the_states_of_the_quantized_model(wide, book, tmp_path):
    target = tmp_path / "s.safetensors"
    result = run("encode", book, "-o", target, "--model", wide, "--quantize")
    assert result.exit_code == 0, result.stderr
    found = load_states(target)
    plain, in_int8 = TextEncoder(wide), TextEncoder(wide, quantize=True)
    text = book.read_text()
    expected = in_int8.encode(in_int8.tokenize(text)).states
    assert torch.equal(found.states, expected) and found.metadata["quantize"] == "int8"
    exact = plain.encode(plain.tokenize(text)).states
    assert 0.99 < torch.cosine_similarity(expected, exact, dim=-1).mean() < 0.99999
    assert "quantize" not in plain.settings("en")


def test_search_reads_kept_states_of_the_same_option_alone(wide, book):
    options = ("search", book, "river?", "--model", wide, "--no-plot", "--json", "--keep")

    def reused(*more):
        result = run(*options, *more)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["files"][0]["states_reused"], result.stderr

    assert not reused("--quantize")[0]
    assert reused("--quantize")[0]
    again, remark = reused()
    assert not again
    assert "quantize is int8, not None" in remark


@pytest.mark.parametrize(
    "command, head, auto",
    [
        ("answer", "BertForQuestionAnswering", "AutoModelForQuestionAnswering"),
        ("tag", "BertForTokenClassification", "AutoModelForTokenClassification"),
        ("classify", "BertForSequenceClassification", "AutoModelForSequenceClassification"),
    ],
)
def test_a_task_has_the_result_of_the_quantized_model(command, head, auto, heads, book):
    """The command's numbers are those of the function, and others than in float32."""
    question = ("river?",) if command == "answer" else ()
    options = ("--model", heads[head], "--json", "--quantize")
    result = run(command, book, *question, *options)
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["files"]
    model = getattr(transformers, auto).from_pretrained(heads[head]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(heads[head])

    parts = {"answer": "answers", "tag": "entities", "classify": "labels"}[command]

    def scores():
        result = getattr(tasks, command)(model, tokenizer, *question, book.read_text())
        return [part.score for part in getattr(result, parts)]

    plain = scores()
    with lckernels.quantized(model):
        expected = scores()
    assert [part["score"] for part in found[parts]] == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(plain, rel=1e-6)


def test_a_model_without_such_layers_is_an_error(model, heads, book, tmp_path):
    """The model of the fixture has 16 features."""
    why = "linear layers on the CPU"
    result = run("search", book, "river?", "--model", model, "--quantize", "--no-plot")
    assert result.exit_code == 2 and "left: fewer than 32 features" in result.stderr and why in result.stderr
    small = save_tiny_head(tmp_path / "small", "BertForTokenClassification")
    result = run("tag", book, "--model", small, "--quantize")
    assert result.exit_code == 2 and f"the model {small}" in result.stderr.replace("\n", " ")
    with pytest.raises(InputError, match="model: got BertModel"):
        TextEncoder(model, quantize=True)
    with pytest.raises(TypeError, match="quantize: got 1; expected True or False"):
        TextEncoder(model, quantize=1)
