"""The command line itself: commands are found in a folder, and the library under it changes no process."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")

from helpers import fresh_python
from typer.testing import CliRunner

from lckernels import info
from lckernels.cli import app, commands, console, signals
from lckernels.files import whole_file


def test_a_new_command_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "greet.py").write_text(
        "from lckernels.cli.console import stdout\n"
        "from lckernels.errors import InputError\n\n\n"
        "def greet(name: str) -> None:\n"
        '    """Greet NAME."""\n'
        "    if name == 'nobody':\n"
        "        raise InputError('nobody is there')\n"
        "    stdout.print(f'hello {name}')\n"
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    runner, found = CliRunner(), app.make_app()
    assert runner.invoke(found, ["greet", "reader"]).stdout == "hello reader\n"
    failed = runner.invoke(found, ["greet", "nobody"])
    assert (failed.exit_code, failed.stderr) == (2, "lckernels: nobody is there\n")
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert "info" in files
    assert [command.name for command in found.registered_commands] == sorted(files | {"greet"})


def test_what_is_not_finite_is_null(capsys):
    console.print_json({"a": math.nan, "b": [1.5, -math.inf], "c": {"d": "né"}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": {"d": "né"}}


def test_signals_that_are_ignored_or_handled_stay_so(tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signals.exit_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with pytest.raises(SystemExit) as exited, whole_file(tmp_path / "file"):
            signal.raise_signal(signal.SIGTERM)
        assert exited.value.code == 128 + signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_ends_the_process_at_once_while_no_file_is_written():
    code = (
        "import signal\nfrom lckernels.cli import signals\nsignals.exit_on_signals()\n"
        "try:\n    signal.raise_signal(signal.SIGTERM)\nfinally:\n    print('an exception')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


LIBRARY = """
import signal, sys
from pathlib import Path
before = signal.getsignal(signal.SIGTERM), sys.stderr, dict(__import__("os").environ)
import lckernels.search.encoding, lckernels.passages, lckernels.perplexity
from lckernels.files import whole_file
with whole_file(Path(sys.argv[0] + "a")) as partial:
    partial.write_text("x")
    assert signal.getsignal(signal.SIGTERM) == before[0]
assert before == (signal.getsignal(signal.SIGTERM), sys.stderr, dict(__import__("os").environ))
print(sorted({"rich", "typer", "lckernels.cli"} & set(sys.modules)))
"""


def test_the_library_has_no_console(tmp_path):
    result = fresh_python.run(LIBRARY, folder=tmp_path)
    assert result.stdout == "[]\n", result.stderr


def test_json_of_info():
    result = CliRunner().invoke(app.app, ["info", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {"versions", "built", "machine", "backends"}
    assert found["versions"] == info.versions()
    rows = [list(one.values()) for one in found["backends"]]
    assert [
        (op, device, ", ".join(dtypes), name, tuple(others)) for op, device, dtypes, name, others in rows
    ] == (info.served())
