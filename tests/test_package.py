"""What an installation gives to tools: names, types, a version."""

import ast
from importlib import metadata
from pathlib import Path

import pytest

import lckernels

FILE = Path(lckernels.__file__)


def test_dir_has_every_public_name():
    assert set(lckernels.__all__) <= set(dir(lckernels))


def test_type_checkers_see_the_lazy_names():
    """The imports under TYPE_CHECKING are those that `__getattr__` makes at first use."""
    blocks = (node for node in ast.parse(FILE.read_text()).body if isinstance(node, ast.If))
    (block,) = (node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING")
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == lckernels._LAZY
    assert (FILE.parent / "py.typed").exists()


def test_lazy_names_are_imported():
    pytest.importorskip("transformers")
    assert all(getattr(lckernels, name).__module__.startswith("lckernels.") for name in lckernels._LAZY)
    assert not hasattr(lckernels, "a_name_that_is_not_there")


def test_one_version():
    try:
        installed = metadata.version("lckernels")
    except metadata.PackageNotFoundError:
        pytest.skip("lckernels is not installed: this is a source tree")
    assert installed == lckernels.__version__
