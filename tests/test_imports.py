"""Imports of lckernels go one way: no circle of modules or packages, no import from a higher level.

Imports within functions count, and so does `import_module("lckernels...")`; those under `if TYPE_CHECKING`
do not.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lckernels

PACKAGE = Path(lckernels.__file__).parent
# Packages and modules of lckernels from the highest level to the lowest; what is not named is a base module.
LEVELS = (
    {"cli"},
    {"tasks", "search", "perplexity"},
    {"integrations", "training", "distributed", "long"},
    {"hf"},
    {"functional", "info", "onnx"},
    {"ops"},
    {"backends"},
)
BASE = len(LEVELS)
COMPILED = {"lckernels._host"}  # imports nothing of the package


def modules(folder: Path) -> dict[str, Path]:
    """Name -> file of every module of the package in `folder`."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


# Modules that import a computed name: of their own package, of a missing extra, or of a lazy attribute.
LOADERS = {
    "lckernels",
    "lckernels.backends.registry",
    "lckernels.cli.app",
    "lckernels.cli.console",
    "lckernels.extras",
    "lckernels.hf.families",
}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def is_import_call(node: ast.AST) -> bool:
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return called.rpartition(".")[2] in ("import_module", "import_extra", "__import__")


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name or "") of each import in the tree, in functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; expected an absolute one"
            renamed = any(alias.name == "import_module" and alias.asname for alias in node.names)
            assert not renamed, f"line {node.lineno}: import_module under another name"
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif is_import_call(node):
            yield from ((x.value, "") for x in node.args if isinstance(x, ast.Constant))
        if is_type_checking(node):
            for branch in node.orelse:
                yield from imported(branch)
        else:
            yield from imported(node)


def computed_imports(tree: ast.AST) -> list[int]:
    """Lines that import a module whose name the source does not state."""
    calls = (node for node in ast.walk(tree) if is_import_call(node))
    return [node.lineno for node in calls if not (node.args and isinstance(node.args[0], ast.Constant))]


def import_graph(folder: Path) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports."""
    known = modules(folder)
    root = folder.name
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        graph[name] = set()
        for module, attribute in imported(ast.parse(path.read_text(encoding="utf-8"))):
            longer = f"{module}.{attribute}"
            target = longer if longer in known or longer in COMPILED else module
            if target.partition(".")[0] == root and target in known and target != name:
                graph[name].add(target)
    return graph


def level(module: str) -> int:
    part = module.split(".")[1]
    return next((i for i, names in enumerate(LEVELS) if part in names), BASE)


def upward_imports(graph: dict[str, set[str]]) -> list[str]:
    """Imports from a higher level, and those from the package itself, which imports everything."""
    found = []
    for module, targets in graph.items():
        if "." in module:
            upward = (t for t in targets if "." not in t or level(t) < level(module))
            found += [f"{module} imports {target}" for target in sorted(upward)]
    return sorted(found)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names in one circle of the graph; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def package_graph(graph: dict[str, set[str]], depth: int) -> dict[str, set[str]]:
    """The imports between packages, whose names have `depth` parts; modules directly in lckernels stay."""
    cut = {name: ".".join(name.split(".")[:depth]) for name in graph}
    packages: dict[str, set[str]] = {}
    for name, targets in graph.items():
        packages.setdefault(cut[name], set()).update(cut[t] for t in targets if cut[t] != cut[name])
    return packages


def test_levels_name_what_exists_or_is_planned():
    there = {name.split(".")[1] for name in modules(PACKAGE) if "." in name}
    planned = {"training", "distributed", "integrations"}
    assert set().union(*LEVELS) - planned <= there


def test_no_import_from_a_higher_level():
    assert upward_imports(import_graph(PACKAGE)) == []


def test_no_circle_of_modules():
    assert circle(import_graph(PACKAGE)) == []


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_no_circle_of_packages(depth):
    assert circle(package_graph(import_graph(PACKAGE), depth)) == []


def test_computed_imports_are_those_of_loaders():
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules(PACKAGE).items()}
    assert {name for name, tree in trees.items() if computed_imports(tree)} == LOADERS


def write(folder: Path, **sources: str) -> Path:
    for name, source in sources.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for package in (folder, path.parent):
            (package / "__init__.py").touch()
    return folder


def test_an_import_within_a_function_is_found(tmp_path):
    folder = write(tmp_path / "lckernels", ops__a="def f():\n    from lckernels.hf import b\n", hf__b="")
    assert upward_imports(import_graph(folder)) == ["lckernels.ops.a imports lckernels.hf.b"]


def test_a_name_of_the_package_is_an_upward_import(tmp_path):
    folder = write(tmp_path / "lckernels", long__a="from lckernels import patch\n")
    assert upward_imports(import_graph(folder)) == ["lckernels.long.a imports lckernels"]


def test_an_import_under_not_type_checking_is_found(tmp_path):
    source = "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import lckernels.hf.b\n"
    folder = write(tmp_path / "lckernels", ops__a=source, hf__b="")
    assert upward_imports(import_graph(folder)) == ["lckernels.ops.a imports lckernels.hf.b"]


def test_a_circle_through_import_module_is_found(tmp_path):
    a = "from importlib import import_module\nx = lambda: import_module('lckernels.hf.b')\n"
    folder = write(tmp_path / "lckernels", hf__a=a, hf__b="from lckernels.hf.a import x\n")
    assert set(circle(import_graph(folder))) == {"lckernels.hf.a", "lckernels.hf.b"}


def test_a_circle_of_packages_without_one_of_modules_is_found(tmp_path):
    sources = {"search__a": "import lckernels.perplexity.a", "search__b": ""}
    folder = write(tmp_path / "lckernels", **sources, perplexity__a="import lckernels.search.b")
    graph = import_graph(folder)
    assert circle(graph) == [] and set(circle(package_graph(graph, depth=2))) > {"lckernels.search"}
