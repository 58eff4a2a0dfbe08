"""Every page of the documentation: its blocks run, its links lead somewhere, its language is plain."""

import re
import shlex

import pytest
import torch
from helpers.docs_pages import (
    NOT_RUN,
    PAGES,
    PROSE,
    REQUIRED,
    ROOT,
    blocks,
    command_lines,
    links,
    paths,
    prose,
    save_models_and_texts,
)
from helpers.language import not_plain

from lckernels import Score, functional, windowed_attention

PAGE_IDS, PROSE_IDS = ([str(page.relative_to(ROOT)) for page in pages] for pages in (PAGES, PROSE))


@pytest.fixture(scope="module")
def models_and_texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    save_models_and_texts(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_every_block_runs(page, models_and_texts, monkeypatch):
    """In one namespace a page, in the order of the page."""
    for module in REQUIRED.get(page.name, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(models_and_texts)
    names = {}
    for line, code in blocks(page):
        padded = "\n" * (line - 1) + code  # an error's traceback has the line of the page
        exec(compile(padded, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_every_command_line_has_existing_options(page):
    typer = pytest.importorskip("typer")
    from lckernels.cli.app import app

    commands = typer.main.get_command(app).commands
    for line in command_lines(page):
        _, name, *arguments = shlex.split(line, comments=True)
        if name == "COMMAND":
            continue
        options = {option for parameter in commands[name].params for option in parameter.opts} | {"--help"}
        options |= {option for parameter in commands[name].params for option in parameter.secondary_opts}
        given = {argument.partition("=")[0] for argument in arguments if re.match("--?[a-z]", argument)}
        assert given <= options, line


@pytest.mark.parametrize("name", functional.__all__)
def test_every_op_is_described(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n| `{name}(" in readme, f"add {name} to the table of ops in README.md"
    called = any(f"{name}(" in code for _, code in blocks(ROOT / "docs" / "ops.md"))
    assert called, f"add an example of {name} to docs/ops.md"


@pytest.mark.parametrize("page", PROSE, ids=PROSE_IDS)
def test_every_link_leads_to_a_file_and_a_heading(page):
    missing = [path for path in paths(page) if not (ROOT / path).exists()]
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in headings(file.read_text(encoding="utf-8"))):
            missing.append(target)
    assert missing == []


def test_the_table_of_t5_is_that_of_transformers():
    """The block of docs/ops.md that makes rel_bias from T5's buckets."""
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    (code,) = (code for _, code in blocks(ROOT / "docs" / "ops.md") if "num_buckets" in code)
    q = torch.randn(1, 16, 4, 8)
    names = {"torch": torch, "Score": Score, "windowed_attention": windowed_attention}
    exec(code, names | {"q": q, "k": q, "v": q, "heads": 4}, found := {})
    expected = t5.T5Attention._relative_position_bucket(found["relative"], True, 32, 128)
    assert torch.equal(found["bucket"], expected)


def headings(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PROSE, ids=PROSE_IDS)
def test_the_language_is_plain(page):
    assert not_plain(prose(page)) == []


def test_a_block_that_is_not_run_says_why():
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(NOT_RUN.strip()):
                assert line.removeprefix(NOT_RUN.strip()).strip(), f"{page.name}: {line}"


def test_findings_have_their_form():
    """findings/README.md lists each script; a script's head has the parts that it requires."""
    folder = ROOT / "findings"
    listed = links(folder / "README.md")
    scripts = sorted(folder.glob("*.sh"))
    assert listed and {script.name for script in scripts} == set(listed)
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        head = text.partition("set -euo pipefail")[0]
        assert all(
            f"# {part}" in head for part in ("Versions: ", "Behaviour: ", "Seen on 20", "Instead: ")
        ), script
        assert "mktemp -d" in text and "raise SystemExit(" in text and "lckernels" not in text, script
