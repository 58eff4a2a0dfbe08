"""What a process imports for `import lckernels`, and for the command before it has read its arguments."""

import subprocess
import sys

import pytest

pytest.importorskip("typer")

# Packages that take long to import, which no command needs before it has read its arguments.
LATER = {"gguf", "huggingface_hub", "matplotlib", "numpy", "safetensors", "sentencex", "tokenizers", "torch"}
LATER |= {"tqdm", "transformers", "triton"}
COMMAND = """
import sys
sys.argv = {arguments!r}
before = set(sys.modules)
try:
    from lckernels.cli.main import main
    main()
finally:
    new = {{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names
    print("imported:", *sorted(new), file=sys.stderr)
"""
IMPORT = """
import sys
import torch
before = set(sys.modules)
import lckernels
print(*sorted(set(sys.modules) - before))
print(torch.ops.lckernels.overlap_merge)
"""


def python(*arguments):
    """The result of a new interpreter; `helpers.fresh_python` has imported torch already."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def command(*arguments):
    """The status and output of the command, and the packages outside Python's library that it imported."""
    result = python("-c", COMMAND.format(arguments=["/usr/bin/lckernels", *arguments]))
    printed, _, imported = result.stderr.rpartition("imported: ")
    return result.returncode, result.stdout + printed, set(imported.split())


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (("--help",), 0, "Usage: lckernels"),
        (("--version",), 0, "lckernels 0.1.0\n"),
        ((), 2, "Usage: lckernels"),
        (("search", "--help"), 0, "Usage: lckernels search"),
        (("perplexity", "--help"), 0, "Usage: lckernels perplexity"),
        (("explain", "--help"), 0, "Usage: lckernels explain"),
        (("tune", "--help"), 0, "Usage: lckernels tune"),
        (("nothing",), 2, "No such command"),
        (("encode", "--nothing"), 2, "No such option"),
        (("search", "book.txt"), 2, "got too few arguments"),
    ],
)
def test_the_command_reads_its_arguments_without_torch(arguments, status, printed):
    returncode, text, imported = command(*arguments)
    assert returncode == status and printed in text, text
    assert "lckernels" in imported
    assert imported.isdisjoint(LATER)


def test_the_command_line_of_python_too():
    result = python("-X", "importtime", "-m", "lckernels.cli", "--version")
    assert result.stdout.startswith("lckernels ")
    assert " torch\n" not in result.stderr


def test_names_of_the_package_in_a_process_of_the_command():
    code = "import sys; sys.argv = ['lckernels']; import lckernels; print('torch' in sys.modules)\n"
    code += "print(lckernels.Layout.__module__, lckernels.overlap_merge.__module__, hasattr(lckernels, 'x'))"
    result = python("-c", code)
    assert result.stdout == "False\nlckernels.options lckernels.functional False\n", result.stderr


def test_import_registers_the_ops_and_imports_no_other_package():
    result = python("-c", IMPORT)
    imported, op = result.stdout.splitlines()
    others = {name.partition(".")[0] for name in imported.split()} - sys.stdlib_module_names
    assert others == {"lckernels"}
    assert op == "lckernels.overlap_merge"
