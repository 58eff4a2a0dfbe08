"""Rules of the test suite itself."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from helpers.marks import marks_of_case

TESTS = Path(__file__).parent
MODULES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))


def imported_modules(source: str) -> set[str]:
    """The names of the modules that the source imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported_tests(source: str) -> set[str]:
    """Those of the modules that are test modules or their folders' conftest."""
    names = imported_modules(source)
    return {name for name in names if any(p.startswith("test_") or p == "conftest" for p in name.split("."))}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_test_module(module):
    """What several test modules share is in helpers/ or in a conftest.py."""
    assert not imported_tests((TESTS / module).read_text())


def test_the_rule_above_finds_each_form_of_an_import():
    source = (
        "import test_a\nfrom hf.test_b import x\ndef f():\n    from hf import test_c\n    import conftest"
    )
    assert imported_tests(source) == {"test_a", "hf.test_b", "hf.test_b.x", "hf.test_c", "conftest"}


def test_marks_of_cases():
    conditions = {"isa": lambda backend: backend == "cpu", "triton": lambda dim, weights="hann": dim < 5}
    assert marks_of_case(conditions, {"backend": "cpu", "dim": 7}) == ["isa"]
    assert marks_of_case(conditions, {"backend": "triton", "dim": 3, "name": ""}) == ["triton"]


def test_every_mark_is_used():
    sources = "\n".join((TESTS / module).read_text() for module in MODULES if module != "test_suite.py")
    ours = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"][
        "markers"
    ]
    names = [line.partition(":")[0].partition("(")[0] for line in ours]
    assert [name for name in names if not re.search(rf'mark\.{name}\b|"{name}"|\b{name}=', sources)] == []
