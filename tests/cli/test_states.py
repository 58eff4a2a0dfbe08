"""States on disk: complete or absent; other files are rejected."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SafetensorError = pytest.importorskip("safetensors").SafetensorError

from helpers.states import some_states  # noqa: E402

from lckernels.errors import InputError  # noqa: E402
from lckernels.files import whole_file  # noqa: E402
from lckernels.search.saved_states import (  # noqa: E402
    FORMAT,
    check_target,
    differences,
    load_states,
    read_metadata,
    save_states,
)


def test_states_roundtrip(tmp_path):
    path = tmp_path / "book.safetensors"
    states = some_states(model="tiny")
    save_states(path, some_states(rows=2))
    save_states(path, states)
    back = load_states(path)
    assert torch.equal(back.states, states.states)
    assert torch.equal(back.offsets, states.offsets)
    assert back.metadata == states.metadata
    assert os.listdir(tmp_path) == [path.name]


def test_differences_name_what_does_not_fit():
    wanted = dict.fromkeys(
        ("text_sha256", "weights_sha256", "chunk_len", "weights", "boundaries", "dtype"), "x"
    )
    stored = wanted | {"overlap": "4"}
    assert differences(stored, wanted | {"overlap": "4"}) == []
    assert differences(stored, wanted | {"overlap": "8"}) == ["overlap is 4, not 8"]
    assert differences({}, wanted | {"overlap": "8"})[0] == "text_sha256 is None, not x"


def test_other_files_are_not_states(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(
        InputError, match=f"weights.safetensors exists and is not a file of states of lckernels.*{FORMAT}"
    ):
        read_metadata(path)
    path.write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"weights.safetensors exists and is not a file of states: .*header"):
        read_metadata(path)


WRITER = """
import os, signal, sys, time
import safetensors.torch
from pathlib import Path
from helpers.states import some_states
from lckernels.cli.signals import exit_on_signals
from lckernels.search.saved_states import save_states

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and those of nohup ignore this one
exit_on_signals()
real = safetensors.torch.save_file

def slow_save(tensors, path, metadata):
    real(tensors, path, metadata)
    print("writing", flush=True)
    time.sleep(30)

safetensors.torch.save_file = slow_save
save_states(Path(sys.argv[1]), some_states())
"""

# The system kills a process that writes a file beyond its limit, so the writer ends while it writes.
KILLED = """
import resource, signal, sys
from pathlib import Path
from helpers.states import some_states
from lckernels.search.saved_states import save_states

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_states(Path(sys.argv[1]), some_states(rows=100_000))
"""


def start_process(script, *arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_killed_writer_leaves_the_old_file(tmp_path, number):
    path = tmp_path / "book.safetensors"
    old = some_states()
    save_states(path, old)
    writer = start_process(WRITER, path)
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(number)
    assert writer.wait(timeout=20) != 0
    assert torch.equal(load_states(path).states, old.states)
    if number == signal.SIGKILL:
        # The next writer removes the partial file.
        assert len(os.listdir(tmp_path)) == 2
        save_states(path, old)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="needs SIGXFSZ")
def test_all_that_the_real_writer_leaves_is_swept(tmp_path):
    path = tmp_path / "book.safetensors"
    writer = start_process(KILLED, path)
    assert writer.wait(timeout=60) == -signal.SIGXFSZ
    left = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert any(name.startswith(".tmp") for name in left), "the writer's own unfinished file"
    assert not path.exists()
    check_target(path)
    assert os.listdir(tmp_path) == []


def test_what_a_running_process_writes_is_left_alone(tmp_path):
    path = tmp_path / "book.safetensors"
    other = tmp_path / f".{path.name}.{os.getppid()}.partial"
    other.mkdir()
    stale = tmp_path / f".{path.name}.{os.getpid()}.partial"
    (stale / "deep").mkdir(parents=True)
    save_states(path, some_states())
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, path.name])


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_permissions_are_those_of_the_umask(tmp_path, umask):
    path = tmp_path / "book.safetensors"
    before = os.umask(umask)
    try:
        save_states(path, some_states())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "book.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(target)
    check_target(link)
    save_states(link, some_states())
    assert link.is_symlink()
    assert target.is_file()
    assert os.listdir(target.parent) == [target.name]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="loop cannot be written: "):
        check_target(loop)


@pytest.mark.parametrize(
    "tensors",
    [
        {"states": torch.zeros(3, 4)},
        {"offsets": torch.zeros(3, 2)},
        {"states": torch.zeros(3, 4), "offsets": torch.zeros(2, 2)},
        {"states": torch.zeros(()), "offsets": torch.zeros(0, 2)},
    ],
)
def test_damaged_states(tmp_path, tensors):
    from safetensors.torch import save_file

    path = tmp_path / "book.safetensors"
    save_file(tensors, path, {"format": FORMAT})
    with pytest.raises(
        InputError, match=r"book.safetensors is a damaged file of states: it holds .*, not states"
    ):
        load_states(path)


@pytest.mark.parametrize("cut", [20, -3])
def test_half_a_file_of_states(tmp_path, cut):
    path = tmp_path / "book.safetensors"
    save_states(path, some_states())
    path.write_bytes(path.read_bytes()[:cut])
    for read in (load_states, check_target):
        with pytest.raises(InputError, match=r"book.safetensors exists and is not a file of states: "):
            read(path)


@pytest.mark.parametrize("name", ["no/book.safetensors", ".", "n" * 300])
def test_places_that_cannot_be_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"does not exist|is a folder|cannot be written: File name too long"):
        check_target(Path(name))


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: full")]
)
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, error):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InputError, match=r"book.safetensors cannot be written: .*(No space|full)"):
        save_states(tmp_path / "book.safetensors", some_states())
    assert os.listdir(tmp_path) == []


def test_a_process_without_handlers_leaves_the_old_file(tmp_path):
    """The library changes no signal handlers: SIGTERM ends it at once; the next writer removes its folder."""
    path = tmp_path / "book.safetensors"
    old = some_states()
    save_states(path, old)
    writer = start_process(WRITER.replace("exit_on_signals()\n", "\n"), path)
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGTERM)
    assert writer.wait(timeout=20) == -signal.SIGTERM
    assert torch.equal(load_states(path).states, old.states)
    assert len(os.listdir(tmp_path)) == 2
    save_states(path, old)
    assert os.listdir(tmp_path) == [path.name]


def test_two_writers_of_a_file_in_one_process(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
            assert first.read_text() == "first"
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == [path.name]
