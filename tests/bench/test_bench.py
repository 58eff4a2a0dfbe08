"""The benchmark harness: counts against brute force, rows, probes, GPU modules."""

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from helpers.bench_rows import synthetic_rows

from bench.cases.attention import AttentionCase
from bench.cases.overlap import OverlapCase
from bench.compile import triton_start
from bench.gpu import check as gpu_check
from bench.gpu import models as gpu_models
from bench.gpu import ops as gpu_ops
from bench.harness import finished, rows
from bench.harness.check import Checked, check
from bench.harness.comparison import OWN
from bench.harness.timing import Timing, Turns, measure
from bench.peers.overlap import overlap_peers
from bench.suites import overlap
from lckernels import overlap_split, reference
from lckernels.backends import registry

try:
    from lckernels import _host as host
except ImportError:
    host = None

ROOT = Path(__file__).resolve().parents[2]
OVERLAP = OverlapCase(total_len=44, overlap=4, dim=3, dtype=torch.float64, chunk_len=12)
needs_host = pytest.mark.skipif(host is None, reason="needs the compiled extension")
GOOD = Checked(error=1e-7, bound=1e-6)


def test_attention_flops_are_two_products_of_head_dim_per_pair():
    case = AttentionCase(3, (1, 0), torch.float32, batch=2, num_heads=3, num_kv_heads=1, head_dim=5)
    pairs = 1 + 2 + 2
    assert case.flops("forward") == 2 * 3 * pairs * (2 * 5 + 2 * 5)
    assert case.flops("backward") == 2.5 * case.flops("forward")


@needs_host
@pytest.mark.parametrize("weights", ["triangular", "crop"])
def test_overlap_traffic_counts_every_row_once(weights):
    case = replace(OVERLAP, weights=weights)
    row = 3 * 8
    read = set()
    for chunk, col, _, length, keep_start, keep_end, *_ in case.plan.segments.tolist():
        kept = range(keep_start, keep_end) if weights == "crop" else range(length)
        read |= {(chunk, col + u) for u in kept}
    assert case.traffic("overlap_merge", "forward") == (len(read) * row, 44 * row)
    assert case.traffic("overlap_merge", "backward") == (44 * row, case.num_chunks * 12 * row)
    assert case.traffic("overlap_split", "forward") == (44 * row, case.num_chunks * 12 * row)
    assert case.traffic("overlap_split", "backward") == (case.num_chunks * 12 * row, 44 * row)


@needs_host
def test_cases_of_a_size_need_no_shifted_last_chunk():
    case = OverlapCase.of_size(2**20, 128, 48, torch.float32)
    assert (case.total_len - case.chunk_len) % case.stride == 0
    assert abs(case.traffic("overlap_split", "forward").read - 2**20) < case.stride * 48 * 4


@needs_host
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("op", overlap.OPS)
def test_overlap_peers_and_truth_agree_with_autograd_of_the_reference(op, direction):
    x, grad = overlap.make_inputs(op, OVERLAP)
    definition = {
        "overlap_merge": lambda t: reference.overlap_merge(t, OVERLAP.plan),
        "overlap_split": lambda t: reference.overlap_split(t, OVERLAP.plan),
    }[op]
    want = overlap.as_call(definition, direction, x, grad)()
    found = overlap.truth(op, direction, OVERLAP, x if direction == "forward" else grad)
    torch.testing.assert_close(found, want)
    for name, build in overlap_peers(op, direction).items():
        torch.testing.assert_close(overlap.as_call(build(OVERLAP), direction, x, grad)(), want, msg=name)


def test_a_wrong_result_is_named_with_its_error():
    truth = torch.ones(3, dtype=torch.float64)
    baseline = torch.ones(3)
    assert check("exact", (torch.ones(3),), (truth,), (baseline,)).passed
    with pytest.raises(AssertionError, match=r"clumsy: result 0 is off by 0\.5, allowed is 1e-06"):
        check("clumsy", (torch.tensor([1, 1, 1.5]),), (truth,), (baseline,))
    with pytest.raises(AssertionError, match=r"broken: result 0 is not finite"):
        check("broken", (torch.tensor([1, torch.nan, 1]),), (truth,), (baseline,))
    with pytest.raises(AssertionError, match=r"clumsy: the plain route 0 is off by 0\.5"):
        check("clumsy", (torch.ones(3),), (truth,), (torch.tensor([1, 1, 1.5]),))
    with pytest.raises(AssertionError, match=r"short: shape \(2,\), expected \(3,\)"):
        check("short", (torch.ones(2),), (truth,), (baseline,))


def test_timings_are_medians_and_fifths_of_calls_in_turns():
    assert Timing.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 1.8, 4.2, 5)
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    timings = measure(calls, rounds=3, budget=10.0)
    assert order == ["a", "b"] * 4
    assert timings["a"].rounds == 3


def test_a_slow_call_is_skipped_once_its_budget_is_spent():
    turns = Turns(
        {}, budget=2.5, self_timed={"slow": lambda: 1.0, "very_slow": lambda: 9.0, "fast": lambda: 0.1}
    )
    for _ in range(6):
        turns.round()
    assert {name: timing.rounds for name, timing in turns.timings().items()} == {
        "slow": 3,
        "very_slow": 2,
        "fast": 6,
    }


def test_rows_hold_rate_percent_and_ratios():
    own, flex = synthetic_rows()
    assert own.rate == 2.0
    assert own.percent(own.percent_of) == 25.0
    assert own.percent(own.comparable) is None
    assert own.ratios == {"flex": 0.25}
    assert (own.backend, flex.backend) == ("eager", "")
    stored = rows.to_json(own)
    assert stored["machine"]["threads"] == torch.get_num_threads()
    assert stored["versions"]["torch"] == torch.__version__
    assert {"commit", "dirty", "date", "machine", "versions", "shape", "timing"} <= stored.keys()


def test_unchecked_and_wrong_results_are_not_stored(tmp_path):
    own, flex = synthetic_rows()
    with pytest.raises(ValueError, match=r"no row for flex .*: its result was not checked"):
        rows.append([own, replace(flex, check=None)], tmp_path)
    with pytest.raises(ValueError, match=r"no row for lckernels .*: its result is off by 2"):
        rows.append([replace(own, check=Checked(error=2.0, bound=1.0))], tmp_path)
    with pytest.raises(ValueError, match=r"unit must be one of GB/s, GFLOP/s, got 'ms'"):
        rows.append([replace(own, unit="ms")], tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_host
def test_peak_probes_give_finite_rates():
    assert {"fp32", "fp64"} <= set(host.peak_dtypes())
    for dtype in host.peak_dtypes():
        rate = host.peak_flops(dtype, threads=2, seconds=0.01)
        assert math.isfinite(rate.best)
        assert 0 < rate.median <= rate.best
        assert rate.passes >= 3
        assert rate.method


@needs_host
@pytest.mark.parametrize("pages", ["warm", "fresh", "fresh_huge"])
@pytest.mark.parametrize(("read", "write"), [(2**21, 2**21), (2**21, 2**20), (2**20, 2**21)])
def test_copy_probes_give_finite_rates(pages, read, write):
    rate = host.copy_bandwidth(read, write, getattr(host.Pages, pages), threads=2, seconds=0.01)
    assert math.isfinite(rate.best)
    assert 0 < rate.median <= rate.best
    probe = host.CopyProbe(read, write, getattr(host.Pages, pages), 2)
    assert probe.bytes == read + write
    assert probe.seconds(host.Stores.ordinary) > 0
    assert probe.seconds(host.Stores.streaming) > 0


@needs_host
@pytest.mark.parametrize("size", [4096, 3 * 4096, 2**20])  # of one place a thread, and of four
def test_read_probe_gives_finite_rates(size):
    rate = host.read_bandwidth(size, threads=1, seconds=0.01)
    assert math.isfinite(rate.best)
    assert 0 < rate.median <= rate.best
    assert rate.method == "loads" or size > 4 * 4096


@needs_host
def test_probes_name_a_bad_argument():
    with pytest.raises(ValueError, match=r"threads must be in \[1, 1024\], got 0"):
        host.peak_flops("fp32", threads=0, seconds=0.1)
    with pytest.raises(ValueError, match=r"seconds must be positive, got 0"):
        host.read_bandwidth(2**20, threads=1, seconds=0)
    with pytest.raises(ValueError, match=r"dtype must be one .*\(fp32, fp64.*\), got int8"):
        host.peak_flops("int8", threads=1, seconds=0.1)
    with pytest.raises(ValueError, match=r"read_bytes must be at least 4096 per thread, got 100 for 2"):
        host.CopyProbe(100, 2**20, host.Pages.warm, 2)


@needs_host
def test_the_gpu_scripts_run_on_the_cpu(tmp_path, capsys):
    assert gpu_check.main(["--device", "cpu", "--tiny"]) == 0
    assert gpu_ops.main(["merge", "--device", "cpu", "--tiny", "--rows", str(tmp_path)]) == 0
    for section in ("forward", "backward"):
        assert gpu_ops.main([section, "--device", "cpu", "--tiny", "--rows", str(tmp_path)]) == 0
    assert "FAILED" not in capsys.readouterr().out
    stored = [json.loads(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert {(row["op"], row["provider"]) for row in stored} >= {
        ("overlap_merge", OWN),
        ("overlap_merge", "index_add"),
        ("overlap_merge", "compiled gather"),
        ("windowed_attention", OWN),
        ("windowed_attention", "sdpa_mask"),
    }


def test_models_on_a_gpu_run_on_the_cpu(tmp_path, capsys):
    assert gpu_models.main(["--device", "cpu", "--tiny", "--rows", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "FAILED" not in said and "sdpa is left out: ValueError" in said, "gpt-oss has no sdpa"
    stored = [json.loads(line) for line in (tmp_path / "gpu_models.jsonl").read_text().splitlines()]
    assert {row["provider"] for row in stored} >= {OWN, "eager", "sdpa"}
    for row in stored:
        assert row["op"] in ("mistral", "gpt_oss") and row["percent_of"] == ["floor"]


def test_a_missing_result_of_ours_is_a_failure(monkeypatch, tmp_path, capsys):
    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu_ops.overlap, "own_run", broken)
    assert gpu_ops.main(["merge", "--device", "cpu", "--tiny", "--rows", str(tmp_path)]) == 1
    assert f"{OWN} is left out: RuntimeError: no such kernel" in capsys.readouterr().out
    assert (tmp_path / "gpu_overlap_merge.jsonl").exists(), "the peers' rows stay"


def test_large_results_are_compared_in_a_part_of_their_columns(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_ops.overlap, "checked_columns", lambda x: x[..., ::4])
    assert gpu_ops.main(["merge", "--device", "cpu", "--tiny", "--rows", str(tmp_path)]) == 0


def test_first_calls_on_an_absent_gpu(capsys):
    pytest.importorskip("triton", reason="Triton is not installed")
    assert triton_start.main(["--target", "sm_90", "--only", "forward-d64"]) == 0
    title, line, row = capsys.readouterr().out.splitlines()
    name, cold, warm, host = (cell.strip() for cell in row.strip("|").split("|"))
    assert name.startswith("forward-d64-bfloat16") and len(line.split("|")) == len(title.split("|"))
    assert min(float(cold), float(warm), float(host)) > 0


@needs_host
def test_the_gpu_check_counts_a_wrong_op(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "attention_jobs", list)
    monkeypatch.setattr(gpu_check, "overlap_split", lambda sequence, plan: overlap_split(sequence, plan) + 1)
    assert gpu_check.main(["--device", "cpu", "--tiny"]) == 1
    assert "FAILED overlap_split torch.float32: AssertionError" in capsys.readouterr().out


@needs_host
def test_the_gpu_check_on_one_backend(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "attention_jobs", list)
    assert gpu_check.main(["--device", "cpu", "--tiny", "--backend", "eager"]) == 0
    assert "checks passed on cpu, 0 left to other backends" in capsys.readouterr().out
    assert gpu_check.main(["--device", "cpu", "--tiny", "--backend", "cuda"]) == 1
    assert (
        "left overlap_split torch.bfloat16: backend: got 'cuda', which cannot run" in capsys.readouterr().out
    )
    assert "backend" not in registry.settings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only"], "--only needs a value"), (["--fast"], "unknown argument --fast; allowed are --device")],
)
def test_the_gpu_script_rejects_bad_arguments(arguments, message):
    done = subprocess.run([ROOT / "bench" / "gpu.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_finished_benchmarks_are_left_out(tmp_path, monkeypatch):
    here = {"commit": "abc", "dirty": False}
    monkeypatch.setattr(finished, "commit", lambda: here)
    names = ["a.py::test[x]", "a.py::test[y]"]
    assert finished.remaining(tmp_path, names, full=True) == names
    finished.record(tmp_path / "new", names[0], full=True)
    assert finished.remaining(tmp_path / "new", names, full=True) == names[1:]
    assert finished.remaining(tmp_path / "new", names, full=False) == names
    here["dirty"] = True
    finished.record(tmp_path / "new", names[1], full=True)
    assert finished.remaining(tmp_path / "new", names, full=True) == names
    here |= {"commit": "def", "dirty": False}
    assert finished.remaining(tmp_path / "new", names, full=True) == names
    here["commit"] = "abc"
    assert finished.remaining(tmp_path / "new", names, full=True) == names[1:]
