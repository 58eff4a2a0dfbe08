"""The name of an op is listed in few places, and one registration with one table entry makes an op."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lckernels
from lckernels import info
from lckernels.backends import registry
from lckernels.backends.registry import Backend, Problem, by_name, choose
from lckernels.ops.registration import register

PACKAGE = Path(lckernels.__file__).parent
MAX_PLACES = 4


def listings(tree: ast.AST, name: str, is_init: bool) -> Iterator[str]:
    """Where a file lists an op: registrations, tables of backends, strings in displays, re-exports.

    Definitions and calls of the op are no listings, nor are imports outside `__init__.py`, which are uses.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = getattr(node.func, "id", "")
            if function == "register" and name in (getattr(x, "value", None) for x in node.args[:1]):
                yield "registration"
            if function == "by_name":
                yield from ("backend table" for x in node.args if getattr(x, "attr", None) == name)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            items = node.keys if isinstance(node, ast.Dict) else node.elts
            yield from ("list" for x in items if getattr(x, "value", None) == name)
        elif isinstance(node, ast.ImportFrom) and is_init:
            yield from ("re-export" for alias in node.names if alias.name == name)


def places(name: str) -> list[tuple[str, str]]:
    """(kind, file) of each listing in the package."""
    return [
        (kind, path.relative_to(PACKAGE).as_posix())
        for path in sorted(PACKAGE.rglob("*.py"))
        for kind in listings(ast.parse(path.read_text(encoding="utf-8")), name, path.name == "__init__.py")
    ]


@pytest.mark.parametrize("name", ["merge_attention_states", "overlap_merge", "overlap_split"])
def test_an_op_is_listed_in_at_most_four_places(name):
    """The tables of backends are one place: each backend that has the op has one entry."""
    found = places(name)
    tables = [file for kind, file in found if kind == "backend table"]
    assert tables == [f"backends/{backend}/__init__.py" for backend in sorted(registry.BACKENDS)]
    others = [place for place in found if place[0] != "backend table"]
    assert ("registration" in dict(others)) and 1 + len(others) <= MAX_PLACES, found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("register('op', schema)", ["registration"]),
        ("BACKEND = Backend('cpu', ops=by_name(states.op, states.other))", ["backend table"]),
        ("OPS = ('other', 'op')", ["list"]),
        ("LIMITS = {'op': 3}", ["list"]),
        ("from lckernels.functional import op", ["re-export"]),
        ("def op(x): return chosen.ops['op'](x)", []),
    ],
)
def test_listings_are_found(source, found):
    assert list(listings(ast.parse(source), "op", is_init=True)) == found


def test_a_registered_op_with_one_table_entry_is_chosen_and_reported(monkeypatch):
    def test_double(x):
        return 2 * x

    def kernel(x, backend):
        return choose(problem, backend).ops["test_double"](x)

    problem = Problem("test_double", "cpu", torch.float32, ())
    schema = "(Tensor x, str? backend) -> Tensor"
    op = register("test_double", schema, kernel, lambda x, _: torch.empty_like(x))
    overload = torch.ops.lckernels.test_double.default
    with pytest.raises(lckernels.BackendError, match="eager: it has no kernel for test_double"):
        op(torch.ones(3), None)
    backend = Backend("double", by_name(test_double), lambda problem: [], lambda: "")
    monkeypatch.setitem(registry._loaded, "double", backend)
    monkeypatch.setattr(registry, "BACKENDS", (*registry.BACKENDS, "double"))
    assert choose(problem) is backend
    torch.library.opcheck(overload, (torch.ones(3), None))
    assert op(torch.ones(3), None).tolist() == [2.0] * 3
    (others,) = {
        others for op, device, _, _, others in info.served() if (op, device) == ("test_double", "cpu")
    }
    with_ops = {name for name in registry.BACKENDS if name != "double" and registry.backends()[name].ops}
    missing = {other.partition(":")[0] for other in others if "it has no kernel for test_double" in other}
    assert missing == with_ops >= {"cpu", "cuda", "eager"}
    assert all(other.count("it has no kernel for test_double") <= 1 for other in others)
    (row,) = {(op, chosen) for op, device, _, chosen, _ in info.served() if op == "test_double"}
    assert row == ("test_double", "double")
