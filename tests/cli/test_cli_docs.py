"""The command lines of docs/cli.md run, and `--json` prints the keys of the page's tables."""

import json
import re
import shlex

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from helpers.cli import run
from helpers.docs_pages import ROOT, command_lines, save_models_and_texts
from helpers.tiny_bert import tiny_text

from lckernels.cli.app import app

PAGE = ROOT / "docs" / "cli.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("docs")
    save_models_and_texts(place)
    (place / "notes" / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.md"):
        (place / "notes" / name).write_text(tiny_text(9))
    return place


def command_names():
    return {command.name for command in app.registered_commands}


def test_the_command_lines_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = set()
    for line in command_lines(PAGE):
        _, name, *arguments = shlex.split(line, comments=True)
        names.add(name)
        if name != "tune":  # requires a GPU
            result = run(name, *arguments)
            assert result.exit_code == 0, f"{line}\n{result.output}"
    assert names == command_names()
    for path in ("book.search.png", "states.safetensors", "states/deep/b.md.safetensors", "layers.png"):
        assert (folder / path).is_file()


def test_the_page_describes_every_command():
    sections = re.findall(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    missing = sorted(command_names() - {*sections})
    assert not missing, f"add sections for {', '.join(missing)} to docs/cli.md"


def documented_keys(section):
    """The names in the first column of the section's table of keys."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    table = text.split("| key of `--json` | |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", table, re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


COMMANDS = {
    "search": ("search", "book.txt", "river", "--no-plot"),
    "encode": ("encode", "book.txt", "-o", "json.safetensors"),
    "perplexity": ("perplexity", "book.txt", "--model", "HuggingFaceTB/SmolLM2-135M", "--compare"),
    "explain": ("explain", "HuggingFaceTB/SmolLM2-135M"),
    "info": ("info",),
}


@pytest.mark.parametrize("section", COMMANDS)
def test_the_keys_of_json_are_documented(folder, monkeypatch, section):
    monkeypatch.chdir(folder)
    result = run(*COMMANDS[section], "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == documented_keys(section)
    text = PAGE.read_text(encoding="utf-8")
    for parts in (found.get("files", []), found.get("passages", []), found.get("layers", [])):
        assert not [key for part in parts for key in part if f"`{key}`" not in text]
