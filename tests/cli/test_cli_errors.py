"""The command `lckernels` with unusual names, texts and paths: plain output, or one sentence."""

# ruff: noqa: E402
import os
import re

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from helpers.cli import error_message, run
from helpers.tiny_bert import tiny_text

from lckernels.backends import registry
from lckernels.cli.console import printable
from lckernels.cli.figures.search import plot_search
from lckernels.text_files import read_text


def test_two_dollars_are_not_mathematics(model, book):
    book.write_text("The river cost $5 and \\foo{ $6. " + tiny_text(6))
    result = run("search", book, r"why $x_ and \bad{ $y?", "--model", model, "--top", 2)
    assert result.exit_code == 0, result.output
    assert (book.parent / "book.search.png").stat().st_size > 1000


def test_passages_are_printed_before_the_picture_fails(model, book, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    result = run("search", book, "river", "--model", model, "--top", 1)
    assert result.exit_code == 2
    assert re.search(r"^ 1  score ", result.stdout, re.M)
    sentence = "the picture book.search.png cannot be written: No space left on device"
    assert result.stderr.endswith(f"lckernels: {sentence}\n")


@pytest.mark.parametrize("command", ["search", "encode"])
def test_places_are_tried_before_the_work(model, book, command):
    name = "n" * 300
    place = {"search": ("river", "--plot", f"{name}.png"), "encode": ("-o", name)}[command]
    message = error_message(command, book, *place, "--model", "./none")
    assert message.endswith("cannot be written: File name too long\n")
    assert os.listdir(book.parent) == ["book.txt"]


def test_square_brackets_and_colons_in_names_are_plain(model, book):
    folder = book.parent / "[bold]a["
    folder.mkdir()
    other = book.rename(folder / "x] :smile:.txt")
    result = run(
        "search", other, "river", "--model", model, "--top", 1, "--keep", "--plot", "[red]p:smile:.png"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("picture: [red]p:smile:.png\n")
    assert f"states kept in {other}.safetensors" in result.stderr


def test_names_that_are_not_utf8(model, book):
    name = os.fsdecode(b"b\xffok.txt")
    try:
        other = book.rename(book.with_name(name))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = run("search", other, "river", "--model", model, "--top", 1, "--keep")
    assert result.exit_code == 0, result.output
    assert "picture: b\ufffdok.search.png" in result.stdout
    assert os.path.exists(os.fsdecode(b"b\xffok.search.png"))


@pytest.mark.parametrize("question", ["\udcff river", "\ud800"])
def test_a_question_that_is_not_utf8(model, book, question):
    message = error_message("search", book, question, "--model", model)
    assert message == "lckernels: the question is not text in UTF-8, at character 0\n"


@pytest.mark.parametrize("command", [("search", "river"), ("encode", "-o", "s.safetensors")])
def test_a_name_that_is_too_long(model, book, command):
    message = error_message(command[0], "n" * 300, *command[1:], "--model", model)
    assert message.endswith("n cannot be read: File name too long\n")


def test_more_threads_than_the_machine_has(model, book):
    message = error_message("search", book, "river", "--model", model, "--threads", 10**6, "--no-plot")
    assert re.search(r"--threads is 1000000; this machine takes up to \d+\n$", message)


@pytest.mark.parametrize("command", [("info",), ("search", "book.txt", "river")])
def test_a_wrong_setting_in_the_environment(book, monkeypatch, command):
    monkeypatch.setenv("LCKERNELS", "backend=foo")
    registry.settings.cache_clear()
    try:
        said = "lckernels: LCKERNELS: got backend='foo'; allowed are cpu, triton, cuda, eager\n"
        assert error_message(*command) == said
    finally:
        registry.settings.cache_clear()


@pytest.mark.parametrize(
    ("command", "op"),
    [
        (("encode", "-o", "s.safetensors"), "overlap_merge"),
        (("search", "river", "--no-plot"), "overlap_merge"),
        (("search", "river", "--no-plot", "--merge", "layer"), "chunked_attention"),
    ],
)
def test_a_backend_that_cannot_run_on_the_cpu(book, monkeypatch, command, op):
    """Before the model is loaded: the folder does not exist."""
    monkeypatch.setenv("LCKERNELS", "backend=cuda")
    registry.settings.cache_clear()
    try:
        message = error_message(command[0], book, *command[1:], "--model", "./none")
    finally:
        registry.settings.cache_clear()
    assert f"{op} on cpu, torch.float32:" in message
    assert message.endswith("it supports tensors on an NVIDIA GPU, not on cpu; expected cpu or eager\n")


def test_an_error_of_a_backend_in_a_command_is_one_sentence(model, book, monkeypatch):
    def fails(*_, **__):
        raise registry.BackendError("no backend can run it:\n  cuda: no")

    monkeypatch.setattr("lckernels.search.encoding.encode_text", fails)
    message = error_message("encode", book, "-o", "s.safetensors", "--model", model, "--quiet")
    assert message == "lckernels: no backend can run it: cuda: no\n"


@pytest.mark.parametrize("language", ["klingon", "", "EN", "en-US"])
@pytest.mark.parametrize("command", [("search", "river"), ("encode", "-o", "s.safetensors")])
def test_a_language_that_is_no_code(model, book, command, language):
    message = error_message(command[0], book, *command[1:], "--model", model, "--language", language)
    got = f"--language: got {language!r}; expected an ISO 639 code of two or three lower-case letters"
    assert message == f"lckernels: {got}\n"


def test_a_pipe_has_no_place_beside_it(model, book):
    descriptor, writer = os.pipe()
    os.write(writer, b"The river. The winter.")
    os.close(writer)
    try:
        message = error_message(
            "search", f"/dev/fd/{descriptor}", "river", "--model", model, "--keep", "--no-plot"
        )
    finally:
        os.close(descriptor)
    assert re.search(r"--keep needs a FILE .*; /dev/fd/\d+ is a pipe, name a --states PATH\n$", message)


def test_control_characters_do_not_reach_the_terminal(model, book):
    book.write_bytes(b"The \x1b[31mriver\x07 \xc2\x9b2J is red\x7f.\x0cNow a page.\r\nAnd a \ttab.\r\n")
    result = run("search", book, "river", "--model", model, "--no-plot", "--quiet")
    assert result.exit_code == 0, result.output
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", result.stdout)
    assert "The \ufffd[31mriver\ufffd \ufffd2J is red\ufffd. Now a page.\n" in result.stdout


def test_a_line_feed_in_a_name_does_not_part_the_sentence(model, book):
    assert error_message("search", "no\nsuch\x1bfile", "river").endswith("no such\ufffdfile does not exist\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "book.txt"), "search: got too few arguments; expected [OPTIONS] {FILE}... {QUESTION}"),
        (
            ("search", "Who is", "book.txt"),
            "Who is does not exist; the QUESTION is the last argument, in quotes: got 'book.txt'",
        ),
        (
            ("search", "book.txt", "who", "is"),
            "who does not exist; the QUESTION is the last argument, in quotes: got 'is'",
        ),
        (("search", "none.txt", "who"), "none.txt does not exist"),
        (
            ("explain", "book.txt"),
            "the model book.txt is a file; expected a folder, a config file (.json) or a name on the "
            "Hugging Face hub",
        ),
    ],
)
def test_arguments_of_the_wrong_kind(book, arguments, message):
    assert error_message(*arguments) == f"lckernels: {message}\n"


def test_printable_leaves_text_unchanged():
    text = "é 学 \u05e9 \U0001f600 a\tb\nc\u2028\u00a0"
    assert printable(text) == text
    assert printable("a\r\nb\x0bc\ud800") == "a\nb c\ufffd"


def test_line_ends_of_every_kind(tmp_path):
    for end, size in (("\n", 1), ("\r\n", 2), ("\r", 1)):
        path = tmp_path / "book.txt"
        path.write_bytes(f"One{end}two{end}{end}three{end}".encode())
        text = read_text(path)
        at = text.content.index("three")
        assert (at, text.line(at)) == (6 + 3 * size, 4)
        assert text.lines(0, len(text.content)) == "One\ntwo\n\nthree"


def test_title_of_a_picture_with_what_no_font_has(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("river " * 20)
    text = read_text(path)
    object.__setattr__(text, "path", tmp_path / "b\udcffok.txt")
    chars = torch.tensor([[0, 10], [10, 20]])
    scores = torch.tensor([0.1, 0.2])
    plot_search(tmp_path / "a.svg", text, "a\x1b\x00$b$", chars, scores, torch.tensor([1]))
    assert "\x1b" not in (tmp_path / "a.svg").read_text()
