"""Runs code in a new process: a fork of one that has imported torch, and nothing of lckernels."""

import atexit
import gc
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


def run(code: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """The result of `python -c code` in the folder, without the seconds for the import of torch."""
    with TemporaryDirectory() as place:
        streams = {name: str(Path(place) / name) for name in ("stdout", "stderr")}
        request = {
            "code": code,
            "folder": str(folder or Path.cwd()),
            "environment": {**os.environ, **environment},
            **streams,
        }
        server = _server()
        print(json.dumps(request), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            code, status, *(Path(path).read_text() for path in streams.values())
        )


@cache
def _server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.stdin.close)  # it ends at the end of its input
    return server


def _serve() -> None:
    """Forks a process for each line of the input, and prints its exit status."""
    import torch  # noqa: F401

    gc.freeze()  # otherwise a fork spends half a second on garbage collection

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(request: dict) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0], sys.argv = "", ["-c"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), stream)
    exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _serve()
