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

TASKS = ("answer", "tag", "classify", "rank", "rewrite")
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
    for path in (
        "book.search.png",
        "states.safetensors",
        "states/deep/b.md.safetensors",
        "layers.png",
        "page.html",
    ):
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


SST2 = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
COMMANDS = {
    "answer": ("answer", "book.txt", "Where is the river?", "--model", "deepset/roberta-base-squad2"),
    "rewrite": ("rewrite", "notes/a.txt", "--model", "google-t5/t5-small", "--max-new-tokens", "8"),
    "rank": ("rank", "notes", "river", "--model", "cross-encoder/ms-marco-MiniLM-L6-v2"),
    "tag": ("tag", "book.txt", "--model", "dslim/bert-base-NER"),
    "classify": ("classify", "book.txt", "--model", SST2),
    "evaluate": ("evaluate", "squad.json", "--model", "deepset/roberta-base-squad2"),
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
    assert not [key for key in keys_of(found) if f"`{key}`" not in text]


def keys_of(value):
    """The keys of the objects within lists, however deep; not those of machine, versions and the like."""
    if isinstance(value, list):
        return {key for part in value if isinstance(part, dict) for key in (*part, *keys_of(part))}
    return {key for part in value.values() for key in keys_of(part)} if isinstance(value, dict) else set()


def test_the_options_of_tasks_are_documented():
    from typer.main import get_command

    page = PAGE.read_text(encoding="utf-8")
    shared = page.split("\n## Commands for tasks\n")[1].split("\n## ")[0]
    for name, command in get_command(app).commands.items():
        if name in TASKS:
            section = shared + page.split(f"\n## {name}\n")[1].split("\n## ")[0]
            options = [one for param in command.params for one in (*param.opts, *param.secondary_opts)]
            missing = [one for one in options if one.startswith("--") and f"`{one}" not in section]
            assert missing in ([], ["--help"]), f"{name}: {missing}"
