"""Bad input to the commands for tasks: one sentence, exit code 2, no page."""

# ruff: noqa: E402
import shutil
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("typer")

from helpers.cli import error_message
from helpers.docs_models import save_tiny_t5
from helpers.task_models import LABELS, save_slow_tokenizer, save_tiny_head

# Command -> its head, another head, and its last argument.
COMMANDS = {
    "answer": ("BertForQuestionAnswering", "BertForTokenClassification", ("river?",)),
    "tag": ("BertForTokenClassification", "BertForSequenceClassification", ()),
    "rank": ("reranker", "BertForQuestionAnswering", ("river?",)),
    "classify": ("BertForSequenceClassification", "BertForTokenClassification", ()),
}
each_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    found = {head: save_tiny_head(place / head, head) for head in LABELS}
    reranker = save_tiny_head(place / "reranker", "BertForSequenceClassification", ("relevant",))
    return {**found, "reranker": reranker}


def error_of(command, models, *files, options=(), model=None):
    head, _, last = COMMANDS[command]
    return error_message(command, *files, *last, "--model", model or models[head], *options)


@each_command
def test_a_model_without_the_head(command, models, book):
    """Heads of two tasks may have weights of the same names and shapes."""
    other = COMMANDS[command][1]
    message = error_of(command, models, book, model=models[other])
    assert f"the model {models[other]} is {other}, without a head for" in message
    assert "as AutoModelFor" in message


@each_command
def test_a_model_without_any_head(command, models, model, book):
    assert f"the model {model} is BertModel, without a head for" in error_of(
        command, models, book, model=model
    )


@each_command
def test_a_folder_that_does_not_exist(command, models, book):
    assert "the model folder ./none does not exist" in error_of(command, models, book, model="./none")


@each_command
def test_a_slow_tokenizer(command, models, book, tmp_path):
    head = COMMANDS[command][0]
    folder = shutil.copytree(models[head], tmp_path / "slow")
    save_slow_tokenizer(folder)
    message = error_of(command, models, book, model=str(folder))
    assert f"the tokenizer of {folder} is not a fast one; expected one with offset mappings" in message


@each_command
def test_texts_that_are_blank_binary_or_missing(command, models, book):
    blank, binary = book.with_name("blank.txt"), book.with_name("binary.txt")
    blank.write_text(" \n\t\n")
    binary.write_bytes(b"PK\x03\x04\x00\x00")
    assert f"{blank} is an empty text" in error_of(command, models, book, blank)
    assert f"{binary} is not a text file: byte 4 is NUL" in error_of(command, models, binary, book)
    assert "none.txt does not exist" in error_of(command, models, book, Path("none.txt"))
    assert f"{book} is named twice" in error_of(command, models, book, book)


@each_command
def test_sizes_that_do_not_fit(command, models, book):
    message = error_of(command, models, book, options=("--chunk-len", 1000))
    assert message.startswith("lckernels: --chunk-len: got 1000")
    message = error_of(command, models, book, options=("--chunk-len", 20, "--overlap", 19))
    assert message.startswith("lckernels: --overlap: got 19")


@each_command
def test_a_place_for_the_page_that_cannot_be_written(command, models, book):
    """Before the model is loaded."""
    place = ("--html", "none/page.html")
    message = error_of(command, models, book, options=place, model="./none")
    assert "the folder none for page.html does not exist" in message
    message = error_of(command, models, book, options=("--html", book.parent), model="./none")
    assert f"{book.parent} is a folder, not a file for the page" in message


@each_command
def test_no_page_after_an_error(command, models, book):
    error_of(command, models, book, options=("--html", "page.html", "--chunk-len", 1000))
    assert [path.name for path in book.parent.iterdir()] == ["book.txt"]


@pytest.mark.parametrize("command", ["answer", "rank"])
@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question(command, models, book, question):
    message = error_message(command, book, question, "--model", models[COMMANDS[command][0]])
    assert message == f"lckernels: the {'query' if command == 'rank' else 'question'} is empty\n"


def test_a_question_that_fills_a_chunk(models, book):
    message = error_message("answer", book, "river " * 30, "--model", models["BertForQuestionAnswering"])
    assert message.startswith("lckernels: the question: got ")


def test_a_query_that_fills_a_chunk_and_a_model_of_three_labels(models, book):
    message = error_message("rank", book, "river " * 30, "--model", models["reranker"])
    assert message.startswith("lckernels: the query: got ")
    folder = models["BertForSequenceClassification"]
    message = error_message("rank", book, "river", "--model", folder)
    assert message.startswith(f"lckernels: the model {folder}: got BertForSequenceClassification of 3 labels")


def test_an_answer_limit_below_1(models, book):
    folder = models["BertForQuestionAnswering"]
    for option in ("--max-answer-tokens", "--top", "--batch", "--limit"):
        message = error_message("answer", book, "river?", "--model", folder, option, 0)
        assert message.startswith(f"lckernels: answer: Invalid value for '{option}': ")
    assert error_message("answer", book, "river?") == "lckernels: answer: Missing option '--model'\n"


def test_labels_of_no_scheme(book, tmp_path):
    folder = save_tiny_head(tmp_path / "model", "BertForTokenClassification", ("red", "B-x-", "I-y", "2"))
    message = error_message("tag", book, "--model", folder)
    assert message.startswith(("lckernels: --scheme: got ", f"lckernels: the model {folder}: "))


def test_options_of_tag(models, book):
    for name in ("--scheme", "--words"):
        message = error_of("tag", models, book, options=(name, "many"))
        assert message.startswith(f"lckernels: {name}: got 'many'; allowed are ")


def test_an_unknown_option_is_one_sentence(models, book):
    message = error_of("tag", models, book, options=("--device", "cuda"))
    assert message.startswith("lckernels: tag: No such option: --device")


def test_options_of_rewrite(tmp_path, models, book):
    folder = tmp_path / "t5"
    save_tiny_t5(folder)
    encoder = models["BertForQuestionAnswering"]
    message = error_message("rewrite", book, "--model", encoder)
    assert f"the model {encoder} is BertForQuestionAnswering, which is no encoder-decoder" in message
    for options, start in {
        ("--overlap", 3): "--overlap: got 3 for 'translate'",
        ("--language", "x-y"): "--language: got 'x-y'",
        ("--tgt-lang", "fra"): "--tgt-lang: got 'fra'",
        ("--context-sentences", 1, "--task", "summarize"): "--context-sentences: got 1 for 'summarize'",
        ("--chunk-len", 3): "--chunk-len: got 3",
    }.items():
        assert error_message("rewrite", book, "--model", folder, *options).startswith(f"lckernels: {start}")


def test_options_of_classify(models, book):
    def error(*options):
        return error_of("classify", models, book, options=options)

    assert error("--kind", "many").startswith("lckernels: --kind: got 'many'; allowed are 'auto', 'single'")
    assert error("--threshold", "1.5").startswith("lckernels: --threshold: got 1.5; expected")
