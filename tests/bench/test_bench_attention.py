"""The attention benchmark: what it checks against, its peers, rows, goals and plots."""

import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip("matplotlib")

from helpers.bench_clock import Clock

from bench.cases.attention import (
    ATTENTION_FULL,
    ATTENTION_QUICK,
    UNBOUNDED,
    AttentionCase,
    ChunkedCase,
    causal,
    decode,
    last_level_cache_bytes,
)
from bench.harness import rows
from bench.harness.check import FLOOR, Checked
from bench.harness.comparison import OWN, Budget, Unsupported, make_rows
from bench.harness.memory import with_extra_bytes
from bench.harness.report import attention_goals, goals, pages
from bench.harness.report.stored import Stored
from bench.harness.timing import Timing, primed_clock
from bench.peers.attention import Peer, sdpa_mask
from bench.peers.libraries import _block_mask, exact_buckets, flex
from bench.suites import attention, chunked, verified
from bench.suites.attention_comparison import compare
from bench.suites.expected import Expected
from bench.suites.verified import PEERS
from lckernels import reference
from lckernels.backends import registry

GROUPED = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
CASES = [
    causal(37, 9, torch.float64, **GROUPED),
    causal(37, UNBOUNDED, torch.float64, batch=2, **GROUPED),
    AttentionCase(37, (3, 5), torch.float64, **GROUPED),
    causal(37, 9, torch.float64, num_queries=1, batch=3, **GROUPED),
]
BRIEF = Budget(rounds=2, seconds=0.0, peer_seconds=0.0, call_seconds=60.0)
needs_chunks = pytest.mark.skipif(registry.availability()["cpu"] != "", reason="needs the compiled planner")


def test_a_decode_case_reads_four_caches_and_counts_what_its_queries_see():
    case = decode(4096, 512, torch.float32, head_dim=64)
    assert case.visible_bytes == 2 * case.batch * 512 * 8 * 64 * 4
    assert case.key_bytes == 8 * case.visible_bytes
    one = case.visible_bytes // case.batch
    assert 4 * last_level_cache_bytes() < case.visible_bytes <= 4.1 * last_level_cache_bytes() + one
    assert (case.seqlen_q, case.offset, case.pairs) == (1, 4095, 512)
    assert case.flops("decode") == 4 * case.batch * 8 * 64 * 512


def test_the_lists_hold_each_case_once_and_the_whole_table_holds_the_quick_one():
    for cases in (ATTENTION_QUICK, ATTENTION_FULL):
        ids = [f"{direction}-{case.label}" for direction, case in cases]
        assert len(ids) == len(set(ids))
    assert set(ATTENTION_QUICK) <= set(ATTENTION_FULL)
    assert {case.dtype for _, case in ATTENTION_FULL} == {torch.float32, torch.bfloat16}
    assert {case.seqlen // 1024 for _, case in ATTENTION_FULL} == {1, 2, 4, 8, 16, 32, 64}
    assert {case.window_size for _, case in ATTENTION_FULL} == {
        *((w - 1, 0) for w in (64, 256, 512, 1024, 4096)),
        (-1, 0),
    }


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_truth_and_baseline_by_blocks_are_the_reference(monkeypatch, case, direction):
    monkeypatch.setattr(attention, "_BLOCK_SCORES", 1)  # blocks of 16 queries
    inputs = attention.make_inputs(case)

    def definition(q, k, v):
        return reference.windowed_attention(q, k, v, window_size=case.window_size)[0]

    want = attention.as_call(definition, direction, inputs)()
    for route in (attention.truth, attention.baseline):
        for found, expected in zip(route(case, direction, inputs), want, strict=True):
            torch.testing.assert_close(found, expected, msg=route.__name__)


def test_of_huge_cases_some_heads_are_checked(monkeypatch):
    case = CASES[0]
    assert attention.checked_heads(case) == [0, 1]
    monkeypatch.setattr(attention, "CHECKED_PAIRS", 1)
    assert attention.checked_heads(case) == [0]
    inputs = attention.make_inputs(case)
    q, k, v, dout = attention.of_heads(case, inputs, [1])
    for part, whole, heads in zip((q, k, v, dout), inputs, ([2, 3], [1], [1], [2, 3]), strict=True):
        assert torch.equal(part, whole[:, :, heads])
    expected = Expected(case, "forward", inputs)
    out = attention.own_attention(case, "eager")(*inputs[:3])
    assert expected.check("own", (out,)).passed
    out[:, :, 1] += 1  # a query head of the checked key head
    with pytest.raises(AssertionError, match=r"own: result 0 is off by 1"):
        expected.check("own", (out,))
    out[:, :, 1] -= 1
    expected.check("own", (out,))
    out[:, :, 3] += 1  # of the other key head, whose truth is not computed
    with pytest.raises(AssertionError, match=r"own, key head 1: result 0 is off by 1"):
        expected.check("own", (out,))
    assert Expected(case, "forward", inputs, every_head=False).check("own", (out,)).passed
    out[:, :, 3] -= 1
    # Far from the baseline route, but as near to the truth as before.
    expected.baseline[0][:, :, 3] += 50 * FLOOR[out.dtype]
    assert expected.check("own", (out,)).passed


@pytest.mark.parametrize("window", [9, UNBOUNDED])
@pytest.mark.parametrize("direction", ["forward", "backward", "decode"])
def test_every_peer_computes_its_definition_or_is_unsupported(direction, window):
    one_query = {"num_queries": 1, "batch": 2} if direction == "decode" else {}
    case = causal(300, window, torch.float32, **GROUPED, **one_query)
    inputs = attention.make_inputs(case)
    ran = set()
    for build in PEERS[direction]:
        if build is flex and (direction, window) != ("forward", 9):
            continue  # it takes seconds to compile
        try:
            peer = build(case, direction, "cpu")
        except Unsupported:
            continue
        given = attention.by_head(inputs) if peer.by_head else inputs
        expected = Expected(peer.computes or case, direction, inputs)
        verified.verify(build.__name__, peer, case, direction, given, expected, limit=60.0)
        ran.add(build.__name__)
    windowed = {"sdpa_mask", "eager", "local_attention", "sdpa_causal_no_window"}
    full = {"sdpa_mask", "eager", "sdpa_causal"}
    expected = {
        "forward": (windowed if window > 0 else full) | {"onnxruntime"} | ({"flex"} if window > 0 else set()),
        "backward": windowed if window > 0 else full,
        "decode": {"sdpa_slice", "sdpa_mask", "eager", "onnxruntime"},
    }
    assert ran == expected[direction]


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(700, (100, 30), torch.float32),
        AttentionCase(513, (-1, 0), torch.float32),
        AttentionCase(512, (200, -1), torch.float32),
        AttentionCase(700, (299, 0), torch.float32, num_queries=1),
    ],
    ids=lambda case: case.label,
)
def test_the_block_mask_is_that_of_torch(case):
    from torch.nn.attention.flex_attention import create_block_mask

    mask = _block_mask(case, "cpu")
    expected = create_block_mask(mask.mask_mod, None, None, case.seqlen_q, case.seqlen, device="cpu")
    assert torch.equal(mask.to_dense(), expected.to_dense())
    assert torch.equal(mask.full_kv_num_blocks, expected.full_kv_num_blocks)
    assert torch.equal(mask.kv_num_blocks, expected.kv_num_blocks)


@pytest.mark.parametrize("left", [1, 63, 255, 511, 1023, 4095])
def test_buckets_of_local_attention_make_the_window_exact(left):
    bucket, looks_back = exact_buckets(left)
    assert bucket * looks_back == left
    assert looks_back <= 8


def test_peak_memory_counts_what_a_call_needs_above_its_results():
    def call():
        scratch = torch.ones(64, 2**20, dtype=torch.uint8)
        return (scratch[:8].clone(),)

    (result,), extra = with_extra_bytes(call)
    assert result.numel() == 8 * 2**20
    assert extra is None or 60 <= extra / 2**20 <= 72


def test_a_short_call_is_timed_in_its_second_run():
    runs = []
    assert primed_clock(lambda: runs.append(1)) < 0.05
    assert len(runs) == 2
    primed_clock(lambda: (runs.append(1), time.sleep(0.06)))
    assert len(runs) == 3


def test_a_comparison_stores_checked_peers_and_logs_the_others(monkeypatch, tmp_path):
    def clumsy(case, direction, device):
        return Peer(lambda q, k, v: sdpa_mask(case, direction).attend(q, k, v) + 1)

    def absent(case, direction, device):
        raise Unsupported("it is not here")

    def broken(case, direction, device):
        return Peer(lambda q, k, v: q @ v)

    monkeypatch.setitem(PEERS, "forward", (sdpa_mask, clumsy, absent, broken))
    logged = []
    case = causal(32, 5, torch.float32, num_heads=2, num_kv_heads=1, head_dim=8)
    made = compare(Clock(), case, "forward", BRIEF, logged.append)
    assert [row.provider for row in made] == [OWN, "sdpa_mask"]
    assert set(made[0].left_out) == {"clumsy", "absent", "broken"}
    assert made[0].left_out["clumsy"].startswith("clumsy: result 0 is off by 1")
    assert logged[0].startswith("  clumsy is left out: clumsy: result 0 is off by 1")
    assert logged[1] == "  absent is left out: it is not here"
    assert made[1].left_out == {}
    assert made[0].work == case.flops("forward")
    rows.append(made, tmp_path)
    stored = pages.load(tmp_path)
    assert {row["provider"] for row in stored} == {OWN, "sdpa_mask"}
    assert all(row["extra_bytes"] is None or row["extra_bytes"] >= 0 for row in stored)


def test_a_slow_peer_is_left_out(monkeypatch):
    monkeypatch.setitem(PEERS, "backward", (sdpa_mask,))
    case = causal(32, 5, torch.float32, num_heads=2, num_kv_heads=1, head_dim=8)
    made = compare(Clock(), case, "backward", replace(BRIEF, call_seconds=1e-9))
    assert [row.provider for row in made] == [OWN]
    assert made[0].left_out == {"sdpa_mask": "more than 1e-09 s a pass over all pairs at 150 GFLOP/s"}
    monkeypatch.setattr(verified, "DENSE", {})
    monkeypatch.setattr(verified, "_too_slow", {})
    made = compare(Clock(), case, "backward", replace(BRIEF, call_seconds=1e-9))
    assert made[0].left_out == {"sdpa_mask": "more than 1e-09 s a pass"}
    for tried, on in ((replace(case, num_heads=4), f" on {case.label}"), (replace(case, seqlen=31), "")):
        made = compare(Clock(), tried, "backward", replace(BRIEF, call_seconds=1e-9))
        assert made[0].left_out == {"sdpa_mask": "more than 1e-09 s a pass" + on}


def test_a_wrong_result_of_ours_raises(monkeypatch):
    monkeypatch.setitem(PEERS, "forward", ())
    monkeypatch.setattr(attention, "own_attention", lambda case: lambda q, k, v: q + 1)
    with pytest.raises(AssertionError, match=r"lckernels: result 0 is off by"):
        compare(Clock(), causal(32, 5, torch.float32, head_dim=8), "forward", BRIEF)


def test_decode_rows_count_bytes_against_reads(monkeypatch):
    monkeypatch.setitem(PEERS, "decode", ())
    case = causal(512, 64, torch.float32, num_queries=1, batch=2)
    (row,) = compare(Clock(), case, "decode", BRIEF)
    assert (row.unit, row.work) == ("GB/s", 2 * 2 * 64 * 8 * 64 * 4)
    assert set(row.peak_rates) <= {"read"}


@needs_chunks
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_chunked_rows_and_truth(direction):
    case = ChunkedCase(44, torch.float32, chunk_len=12, overlap=4, num_heads=2, num_kv_heads=1, head_dim=8)
    lengths = [12] * case.plan.num_chunks
    assert case.flops("forward") == 4 * 2 * 8 * sum(n * n for n in lengths)
    inputs = chunked.make_inputs(case)
    want = attention.as_call(chunked.own_attention(case), direction, inputs)()
    for found, expected in zip(chunked.truth(case, direction, inputs), want, strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)
    made = chunked.compare(Clock(), case, direction, BRIEF)
    assert {row.provider for row in made} == {OWN, chunked.COMPOSED}
    assert all(row.check.passed for row in made)


def synthetic(direction: str, case: AttentionCase, seconds: float, **peers: float) -> list[rows.Row]:
    """Rows with these times of ours and of peers, under a peak of 1000 GFLOP/s or GB/s."""
    subject = attention.subject_of("attention", direction, case, "cpu")
    timings = {name: Timing(t, t, t, 3) for name, t in ({OWN: seconds} | peers).items()}
    checks = dict.fromkeys(timings, Checked(error=0.0, bound=1.0))
    return make_rows(
        subject,
        timings,
        checks,
        {"fma": 1e12},
        ("fma",),
        comparable=("fma",),
        extra_bytes=dict.fromkeys(timings, 2**20),
        notes={"sdpa_causal_no_window": "computes another result"},
        left_out={"flex": "it is not here"},
    )


def goal_cells(stored: list[Stored], text: str, dtype: str) -> list[str]:
    """target, worst, best, rows, met of one goal."""
    lines = [line.strip("| ").split(" | ") for line in goals.table(stored, attention_goals.GOALS)]
    return next(cells[2:7] for cells in lines if cells[0].startswith(text) and cells[1] == dtype)


def stored_of(made: list[rows.Row]) -> list[Stored]:
    return [rows.to_json(row) for row in made]


def test_the_worst_row_decides_about_a_goal():
    dtype = torch.float32
    line = {n: causal(n * 1024, 512, dtype) for n in (4, 8, 64)}
    peak = {n: case.flops("forward") / 1e12 for n, case in line.items()}
    made = [
        *synthetic("forward", line[4], 2 * peak[4], flex=6 * peak[4], sdpa_mask=20 * peak[4]),
        *synthetic("forward", line[8], peak[8] / 0.7, flex=4 * peak[8]),
        *synthetic("forward", line[64], 10 * peak[8] / 0.7),
        *synthetic("backward", line[4], 8 * peak[4], sdpa_mask=30 * peak[4]),
        *synthetic("forward", causal(8192, UNBOUNDED, dtype), 1.0, sdpa_causal=1.9),
        *synthetic("decode", decode(4096, 512, dtype), decode(4096, 512, dtype).visible_bytes / 0.9e12),
    ]
    stored = stored_of(made)
    forward = goal_cells(stored, "forward, W=512", "float32")
    assert (forward[0], forward[1], forward[3:]) == (">= 0.72", "0.50", ["3", "no"])
    assert goal_cells(stored, "forward, the same shapes", "float32")[1:] == ["2.80", "3.00", "2", "no"]
    both = f"{50 / 10:.2f}"
    assert goal_cells(stored, "forward + backward", "float32") == [">= 8", both, both, "1", "no"]
    assert goal_cells(stored, "full causal", "float32")[1:] == ["1.90", "1.90", "1", "yes"]
    assert goal_cells(stored, "decode", "float32")[1:] == ["0.90", "0.90", "1", "yes"]
    assert goal_cells(stored, "linear", "float32") == ["<= 8.5", "10.00", "10.00", "1", "no"]
    assert goal_cells(stored, "peak memory", "float32")[4] == "yes"
    assert goal_cells(stored, "forward, W=512", "bfloat16")[:4] == [">= 0.68", "not measured", "", "0"]


def test_the_page_shows_goals_memory_and_who_was_left_out(tmp_path):
    made = [
        *synthetic(
            "forward", causal(4096, 512, torch.float32), 0.1, sdpa_mask=0.9, sdpa_causal_no_window=0.05
        ),
        *synthetic("forward", causal(8192, 512, torch.float32), 0.2),
        *synthetic("decode", causal(8192, 512, torch.bfloat16, num_queries=1, batch=4), 0.1),
    ]
    rows.append(made, tmp_path)
    names = {path.name for path in pages.write(tmp_path)}
    plots = {f"attention_{name}.png" for name in ("rate", "time", "ratio")}
    assert names == {"README.md", "attention-forward.md", "attention-decode.md", *plots}
    assert "## Goals of windowed_attention" in (tmp_path / "README.md").read_text()
    page = (tmp_path / "attention-forward.md").read_text()
    assert "sdpa_causal_no_window computes another result." in page
    assert "Left out (cases): flex: it is not here (2)." in page
    assert "| 1 | 8192 | 8:8 | 64 | 511,0 | float32 | 1 |  |  |" in page
