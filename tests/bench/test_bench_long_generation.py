"""The plot of a long generation from a file of lines."""

import json

import pytest

pytest.importorskip("matplotlib")

from bench.harness.report import long_generation


def write(path, sizes, turns=()):
    """A file of lines, one per 1,000 tokens with a peak of these bytes; the window is full from 2,000 on."""
    lines = [{"commit": "0123456", "window": 64, "sink_tokens": 4, "dtype": "float32"}]
    for number, size in enumerate(sizes, 1):
        seconds = {"median_seconds": 0.05, "least_seconds": 0.04, "cpu_seconds": 0.09}
        lines.append(
            {"tokens": 1000 * number, "cached": 60 if number == 1 else 68, "peak_bytes": size} | seconds
        )
    lines += [{"step_seconds_in_turns": {str(at): seconds for at, seconds in turn.items()}} for turn in turns]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_read_and_how_far_from_constant_it_is(tmp_path):
    write(tmp_path / "a", [500, 900, 1000, 1000, 1010], [{1000: 0.1}, {3000: 0.05, 5000: 0.06, 4000: 0.05}])
    steps = long_generation.read(tmp_path / "a")
    assert len(steps.lines) == 5 and steps.about["window"] == 64
    # While the window was filled, and in the 1,000 tokens in which that ended, memory grew.
    assert [line["tokens"] for line in steps.full] == [3000, 4000, 5000]
    found = long_generation.flatness(steps)
    assert found["peak_bytes"] == (pytest.approx(0.01), 5000)
    assert found["median_seconds"][0] == 0
    assert found["step_seconds_in_turns"] == (pytest.approx(0.2), 5000)


@pytest.mark.parametrize("sizes", [[500, 1000, 1000, 1020], [None] * 3])
def test_the_picture(tmp_path, capsys, sizes):
    write(tmp_path / "a", sizes, [{2000: 0.05, 3000: 0.05}])
    long_generation.main([str(tmp_path / "a"), str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert ("peak_bytes: within" in said) == (sizes[0] is not None)
    assert "step_seconds_in_turns: within 0.00 % of its median" in said


def test_a_file_without_steps(tmp_path, capsys):
    write(tmp_path / "a", [])
    with pytest.raises(SystemExit) as end:
        long_generation.main([str(tmp_path / "a"), str(tmp_path / "a.png")])
    assert end.value.code == 2 and "holds no steps" in capsys.readouterr().err
    (tmp_path / "a").write_text("")
    with pytest.raises(ValueError, match="holds no steps"):
        long_generation.read(tmp_path / "a")
