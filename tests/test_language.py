"""Comments, docstrings and messages are in plain words, docstrings in Google style."""

import ast

import pytest
from helpers.language import ROOT, not_plain, python_texts, sources, texts, undescribed

SOURCES = sources()
PYTHON = [path for path in SOURCES if path.suffix == ".py"]


def faults(paths, of_file):
    """Path -> what `of_file` finds there, for the files with a fault."""
    found = {str(path.relative_to(ROOT)): list(of_file(path)) for path in paths}
    return {path: lines for path, lines in found.items() if lines}


def test_the_words_are_plain():
    paths = [path for path in SOURCES if path.name != "language.py"]
    assert (
        faults(paths, lambda path: [(not_plain(text), text) for text in texts(path) if not_plain(text)]) == {}
    )


def test_docstrings_are_in_google_style():
    assert faults(PYTHON, lambda path: undescribed(path.read_text(encoding="utf-8"))) == {}


def test_every_class_has_a_docstring():
    def without(path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        return [node.name for node in classes if not ast.get_docstring(node)]

    assert faults([path for path in PYTHON if path.is_relative_to(ROOT / "lckernels")], without) == {}


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
    "docstring, num_faults",
    [
        ("x: an argument.", 1),
        ("x      an argument.", 1),
        ("Args:\n        x: an argument.", 0),
        ("Source: a paper.", 0),
    ],
)
def test_an_argument_is_described_in_a_section(docstring, num_faults):
    source = f'def f(x):\n    """One line.\n\n    {docstring}\n    """\n'
    assert len(list(undescribed(source))) == num_faults
