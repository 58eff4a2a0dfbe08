"""lckernels tune: the tiles that it measures, the file that it writes, and how the backend uses it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("triton", reason="Triton is not installed")

import triton
from triton.runtime.errors import OutOfResources

from bench.gpu import tune as gpu_tune
from lckernels.backends.triton import tiles, tune, tuned
from lckernels.backends.triton.tiles import TABLE, Chip, Key, Tiles
from lckernels.cli.app import app
from lckernels.cli.commands.tune import KERNELS, KINDS, ROOMS

CHIP = Chip("sm_90", 227 * 1024, 132)
KEY = Key("forward", 128, "half")
OTHER = Tiles(64, 128, 4, 2)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file with the tiles of CHIP."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuned.read.cache_clear()
    path = tuned.path(CHIP)
    assert path == tmp_path / "lckernels" / "tiles-sm_90-132.json"
    path.parent.mkdir()
    yield path
    tuned.read.cache_clear()


def chosen(dtype=torch.bfloat16, window=1024, heavy=False):
    return tiles.choose_tiles(CHIP, "forward", 128, dtype, window, 8192, heavy, tuned.tiles(CHIP))


def test_the_table_has_what_the_command_offers():
    for names, column in ((KERNELS, 0), (ROOMS, 1), (KINDS, 2)):
        assert {key[column] for key in TABLE} == set(names)


def test_what_was_tuned_goes_before_the_table(file):
    assert chosen() == TABLE[KEY]
    file.write_text(tuned.text({KEY: OTHER}))
    tuned.read.cache_clear()
    assert chosen() == chosen(heavy=True) == OTHER, "the table has no heavy tiles of its own there"
    assert chosen(window=64) == TABLE[Key("forward", 128, "narrow")]
    assert chosen(torch.float32) == TABLE[Key("forward", 128, "fp32")]
    with tuned.trying({KEY: TABLE[KEY]}):
        assert chosen() == TABLE[KEY]
    assert chosen() == OTHER
    described = OTHER._replace(descriptors=True)
    with tuned.trying({KEY: TABLE[KEY]}), tuned.trying({KEY: described}):
        assert chosen() == described
    file.write_text(tuned.text({KEY: described}))
    tuned.read.cache_clear()
    assert chosen() == described


def entry(name="forward 128 half", sizes=(64, 128, 4, 2), version=triton.__version__):
    return json.dumps({"triton": version, "tiles": {name: list(sizes)}})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        (entry("forward 128 fp8"), "forward 128 fp8"),
        (entry(sizes=(64, 128, 4)), "num_stages"),
        (entry(sizes=(64, 96, 4, 2)), r"got the tiles \[64, 96, 4, 2\]"),
        (entry(sizes=(64, 128, 3, 2)), "got the tiles"),
        (entry("backward_bias 64 half", (128, 64, 4, 1)), "got the tiles"),
        (entry(sizes=(64, 128, 4, 0)), "got the tiles"),
        (entry(sizes=(64, 128, 4, 2, 2)), "got the tiles"),
        (entry("chunked_forward 64 half", (64, 64, 4, 1, True)), "got the tiles"),
        (entry("chunked_forward 64 half", (128, 64, 4, 1)), "got the tiles"),
        (entry("chunked_backward_kv 64 half", (64, 128, 4, 1)), "got the tiles"),
        (entry(sizes=("64", 128, 4, 2)), "got the tiles"),
        (entry(version="2.0.0"), "it is of Triton 2.0.0"),
    ],
)
def test_a_file_that_is_none_warns_once_and_is_not_used(file, content, words):
    file.write_text(content)
    with pytest.warns(UserWarning, match=words):
        assert chosen() == TABLE[KEY]
    assert chosen() == TABLE[KEY]


def test_without_a_home_there_are_no_tuned_tiles(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    tuned.read.cache_clear()
    assert chosen() == TABLE[KEY]
    tuned.read.cache_clear()


def test_neighbours_differ_in_one_size_and_fit():
    for key, begin in TABLE.items():
        found = tune.neighbours(key, begin, CHIP)
        assert len(found) == len(set(found)) and begin not in found
        row_bytes = key.room * (4 if key.kind == "fp32" else 2)
        for other in found:
            assert sum(x != y for x, y in zip(begin, other, strict=True)) == 1
            assert tiles.fitted(other, row_bytes, CHIP.shared_memory) == other
            assert key.kernel != "backward_bias" or other.block_m <= other.block_n
    assert tune.neighbours(KEY, Tiles(16, 16, 8, 1), CHIP) == [
        Tiles(32, 16, 8, 1), Tiles(16, 32, 8, 1), Tiles(16, 16, 4, 1), Tiles(16, 16, 8, 2),
        Tiles(16, 16, 8, 1, True),
    ]  # fmt: skip
    for other in (CHIP._replace(arch="sm_89"), CHIP._replace(arch="gfx942")):
        assert not any(found.descriptors for found in tune.neighbours(KEY, TABLE[KEY], other))


def test_keys_are_the_requested_ones():
    assert tune.keys_of([], [], []) == list(TABLE)
    assert tune.keys_of(["forward"], [64, 128], ["narrow", "fp32"]) == [
        Key("forward", room, kind) for room in (64, 128) for kind in ("narrow", "fp32")
    ]
    assert tune.keys_of(["chunked_forward"], [], ["narrow"]) == []


FAILURES = {
    "other results": None,
    "no room": OutOfResources(300_000, CHIP.shared_memory, "shared memory"),
    "not compiled": RuntimeError("PassManager::run failed"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("with_options", [False, True])
def test_tiles_that_fail_are_left_out(monkeypatch, failure, with_options):
    def fails():
        if tuned.tiles(CHIP).get(KEY) in (None, TABLE[KEY]):
            return (torch.ones(3),)
        if FAILURES[failure]:
            raise FAILURES[failure]
        return (torch.tensor([1.0, 1.0, 1.1]),)

    def serves():
        return (torch.ones(3),)

    calls = (serves, [fails]) if with_options else (fails, [])
    monkeypatch.setattr(tune, "calls_of", lambda *_: calls)
    monkeypatch.setattr(tune, "chip_of", lambda _: CHIP)
    seconds = {TABLE[KEY]: 2.0}

    def clock(_):
        return seconds.get(tuned.tiles(CHIP).get(KEY, TABLE[KEY]), 1.0)

    (row,) = tune.tune([KEY], torch.device("cpu"), clock)
    served = with_options and failure == "other results"  # those calls are not compared
    assert (row.after == row.before == TABLE[KEY]) is not served


def test_a_pass_that_fails_is_printed_and_the_others_run(monkeypatch):
    def calls_of(key, *_):
        if key == KEY:
            raise OutOfResources(300_000, 1000, "shared memory")
        return (lambda: (torch.ones(3),)), []

    monkeypatch.setattr(tune, "calls_of", calls_of)
    monkeypatch.setattr(tune, "chip_of", lambda _: CHIP)
    other = Key("forward", 64, "half")
    rows = list(tune.tune([KEY, other], torch.device("cpu"), lambda _: 1.0))
    assert rows[0].failure and "is left out: OutOfResources: " in rows[0].line
    assert not rows[1].failure and rows[1].after == TABLE[other]


def test_tiles_of_calls_with_options_are_tried_with_them():
    """Where the table has heavy ones, the others need not."""
    small = tune.Problem(seqlen=16, num_heads=2, num_kv_heads=1, window=8)
    for key in TABLE:
        if key.kernel == "forward":  # whose calls run nothing before they are called
            _, others = tune.calls_of(key, small, torch.device("cpu"))
            has_heavy = key._replace(kind="heavy") in TABLE
            assert len(others) == (0 if has_heavy and key.kind in ("half", "narrow") else 2)


@pytest.mark.slow
def test_it_finds_the_fastest_in_the_interpreter():
    program = Path(__file__).parents[1] / "helpers/tune_in_interpreter.py"
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(map(str, program.parents[1:3])),
    }
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert [row.split()[0] for row in done.stdout.splitlines()] == [
        "forward",
        "backward_bias",
        "chunked_backward_q",
    ]


def test_a_printed_line():
    row = tune.Tuned(KEY, TABLE[KEY], OTHER._replace(descriptors=True), 2e-3, 1e-3)
    sizes = ["128x64x8x3", "2.000", "ms", "64x128x4x2-tma", "1.000", "ms"]
    words = ["forward", "128", "half", *sizes, "2.00x"]
    assert row.line.split() == words


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would be tuned for minutes")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "there is no GPU that torch can use"),
        (("--kernel", "sideways"), "--kernel: got sideways; allowed are forward, backward_kv"),
        (("--head-dim", "96"), "--head-dim: got 96; allowed are 64, 128, 192, 256"),
        (("--kind", "bf16"), "--kind: got bf16; allowed are half, narrow, heavy, fp32"),
    ],
)
def test_errors_of_the_command(arguments, words):
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert result.exit_code == 2 and words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_gpus_table_is_kept_pass_by_pass(tmp_path, monkeypatch, capsys):
    """For bench/gpu.sh's section tune, which a time limit may end."""
    described = OTHER._replace(descriptors=True)
    left = Key("backward_q", 128, "half")

    def measured(keys, device, seconds):
        assert keys == [KEY, left] and device == torch.device("cuda") and seconds is tune.gpu_seconds
        yield tune.Tuned(KEY, TABLE[KEY], described, 2e-3, 1e-3)
        yield tune.Tuned(left, TABLE[left], TABLE[left], failure="no room")
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_tune.tune, "tune", measured)
    monkeypatch.setattr(gpu_tune, "chip_of", lambda _: CHIP)
    with pytest.raises(KeyboardInterrupt):
        gpu_tune.main(["--rows", str(tmp_path), "--only", "^(forward|backward_q) 128 half"])
    assert "64x128x4x2-tma" in capsys.readouterr().out
    kept = json.loads((tmp_path / "tiles-sm_90-132.json").read_text())
    assert kept["tiles"] == {"forward 128 half": [64, 128, 4, 2, True]}
    assert gpu_tune.main(["--only", "sideways"]) == 1
