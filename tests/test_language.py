"""Comments, docstrings and messages are in plain words, docstrings in Google style."""

import ast

import pytest
from helpers.language import ROOT, not_plain, python_texts, sources, texts, undescribed

SOURCES = sources()
PYTHON = [path for path in SOURCES if path.suffix == ".py"]


def by_path(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


@by_path([path for path in SOURCES if path.name != "language.py"])
def test_the_words_are_plain(path):
    assert [(found, text) for text in texts(path) if (found := not_plain(text))] == []


@by_path(PYTHON)
def test_docstrings_are_in_google_style(path):
    assert list(undescribed(path.read_text(encoding="utf-8"))) == []


@by_path([path for path in PYTHON if path.is_relative_to(ROOT / "lckernels")])
def test_every_class_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes if not ast.get_docstring(node)] == []


def test_each_kind_of_text_is_read():
    source = (
        '"""Docstring."""\nraise ValueError(f"a message: {x}")  # a comment\nwarnings.warn("a warning")\n'
    )
    found = {"Docstring.", "# a comment", "a message: ", "a warning"}
    assert set(python_texts(source + 'print("a string")\n', every_string=False)) == found
    assert set(python_texts(source + 'print("a string")\n', every_string=True)) == found | {"a string"}
    assert {path.suffix for path in SOURCES} >= {".py", ".cpp", ".h", ".cuh", ""}
    assert not_plain("k: the model KNOWS `asks`, by itself.") == ["by itself", "knows"]


@pytest.mark.parametrize(
    "docstring, faults",
    [
        ("x: an argument.", 1),
        ("x      an argument.", 1),
        ("Args:\n        x: an argument.", 0),
        ("Source: a paper.", 0),
    ],
)
def test_an_argument_is_described_in_a_section(docstring, faults):
    source = f'def f(x):\n    """One line.\n\n    {docstring}\n    """\n'
    assert len(list(undescribed(source))) == faults
