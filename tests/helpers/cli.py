"""The command `lckernels`, run in this process or in a new one."""

import subprocess

from helpers import fresh_python
from typer import testing

from lckernels.cli.app import app

# Python code that runs the command where some modules are missing; `_C.so` is the compiled library.
WITHOUT = """
import sys
from pathlib import Path
sys.argv[1:] = {arguments!r}
hidden = {hidden!r}
sys.modules.update(dict.fromkeys(hidden))
exists = Path.exists
Path.exists = lambda self: exists(self) and not ("_C.so" in hidden and self.name == "_C.so")
from lckernels.cli.main import main
main()
"""


def run(*arguments: object) -> testing.Result:
    """The result of the command in this process."""
    return testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_message(*arguments: object) -> str:
    """The one sentence that a command prints to stderr before it exits with status 2."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("lckernels: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def run_without(hidden: list[str], *arguments: object) -> subprocess.CompletedProcess:
    """The result of the command in a new process without the modules in `hidden`."""
    arguments = [str(argument) for argument in arguments]
    return fresh_python.run(WITHOUT.format(hidden=hidden, arguments=arguments))
