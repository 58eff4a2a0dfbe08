"""Plan.from_segments: which explicit plans are valid, and the fields of the result."""

import random

import pytest
import torch

from lckernels.plan import Plan
from lckernels.segments import TILE_LEN, Column


def explicit(segments, total_len, num_chunks=2, chunk_len=8, **kwargs):
    return Plan.from_segments(
        segments, num_chunks=num_chunks, chunk_len=chunk_len, total_len=total_len, **kwargs
    )


def test_segments_of_an_explicit_plan():
    """Row 0: [CLS] on a position of its own, then content; row 1: content; row 2: nothing."""
    plan = explicit([[1, 1, 4, 5, 1, 5], [0, 2, 1, 4, 0, 4], [0, 0, 0, 1, 0, 1]], 9, num_chunks=3)
    assert plan.segments.tolist() == [
        [0, 0, 0, 1, 0, 1, 1, 0, 0, 1],
        [2, 0, 0, 0, 0, 0, 0, 0, 0, 8],
        [0, 2, 1, 4, 0, 4, 0, 0, 1, 8],
        [1, 1, 4, 5, 1, 5, 0, 1, 0, 8],
    ]
    assert plan.segments.dtype == torch.int32 and plan.segments.is_contiguous()
    assert plan.tile_segments.tolist() == [[0, 4]]
    assert plan.cu_seqlens.tolist() == [0, 9]
    assert repr(plan) == (
        "Plan(num_chunks=3, chunk_len=8, total_len=9, num_documents=1, num_segments=4, device=cpu)"
    )


def test_document_flags():
    segments = [[0, 0, 0, 3], [1, 0, 3, 2], [2, 0, 4, 4]]
    plan = explicit(segments, 8, num_chunks=3, cu_seqlens=torch.tensor([0, 3, 8], dtype=torch.int32))
    assert plan.segments[:, Column.STARTS_DOCUMENT : Column.FILL_START].tolist() == [[1, 1], [1, 0], [0, 1]]
    said = explicit([[0, 0, 0, 4, 0, 4, 0, 1], [1, 0, 4, 4, 0, 4, 1, 0]], 8)
    assert said.segments[:, Column.STARTS_DOCUMENT : Column.FILL_START].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("segments", "crop_gap"),
    [
        ([[0, 0, 0, 8], [1, 0, 4, 8]], 4),
        ([[0, 0, 0, 8, 0, 6], [1, 0, 4, 8, 2, 8]], -1),
        ([[0, 0, 0, 8, 0, 6], [1, 0, 4, 8, 3, 8]], 6),
        ([[0, 0, 0, 8, 0, 6], [1, 0, 4, 8, 1, 8]], 5),
        ([[0, 0, 0, 8, 1, 6], [1, 0, 4, 8, 2, 8]], 0),
        ([[0, 0, 0, 8, 0, 6], [1, 0, 4, 8, 2, 7]], 11),
        ([[0, 0, 0, 8, 0, 0], [1, 0, 4, 8, 0, 0]], 0),
        ([[1, 0, 4, 8, 2, 8], [0, 0, 0, 8, 0, 6]], -1),
        ([[0, 0, 0, 8, 0, 8], [1, 0, 4, 8, 4, 8], [2, 0, 2, 8, 1, 1]], -1),
    ],
)
def test_crop_gap_is_the_first_position_not_kept_once(segments, crop_gap):
    assert explicit(segments, 12, num_chunks=3).crop_gap == crop_gap


def random_segments(rng, num_chunks, chunk_len):
    """Segments in any order that cover [0, total), up to three in a row of columns."""
    table, covered = [], 0
    for row in range(num_chunks):
        col = rng.randint(0, 2)
        while col < chunk_len and rng.random() < 0.7:
            length = rng.randint(1, chunk_len - col)
            start = rng.randint(max(0, covered - 30), covered)
            table.append([row, col, start, length])
            covered = max(covered, start + length)
            col += length + rng.randint(0, 2)
    rng.shuffle(table)
    return table, covered


def test_columns_are_owned_once_and_tiles_see_their_segments():
    rng = random.Random(2)
    for _ in range(60):
        num_chunks, chunk_len = rng.randint(1, 12), rng.randint(1, 90)
        table, total_len = random_segments(rng, num_chunks, chunk_len)
        plan = explicit(table, total_len, num_chunks=num_chunks, chunk_len=chunk_len)
        rows = plan.segments.tolist()
        assert [(s[Column.START], s[Column.ROW]) for s in rows] == sorted(
            (s[Column.START], s[Column.ROW]) for s in rows
        )
        assert sorted(s[: Column.KEEP_START] for s in rows if s[Column.LENGTH]) == sorted(table)
        owner = torch.zeros(num_chunks, chunk_len, dtype=torch.int64)
        for row, col, _, length, *_, fill_start, fill_end in rows:
            assert fill_start <= col and col + length <= fill_end
            owner[row, fill_start:fill_end] += 1
        assert (owner == 1).all()
        assert len(plan.tile_segments) == -(-total_len // TILE_LEN)
        for tile, (first, stop) in enumerate(plan.tile_segments.tolist()):
            begin, end = tile * TILE_LEN, (tile + 1) * TILE_LEN
            touching = [i for i, s in enumerate(rows) if s[3] and s[2] < end and s[2] + s[3] > begin]
            assert first <= touching[0] and touching[-1] < stop


@pytest.mark.parametrize(
    ("segments", "options", "message"),
    [
        ([[0, 0, 0, 4], [1, 0, 5, 4]], {}, "segments: got none that covers position 4; expected every"),
        ([[0, 0, 1, 4], [1, 0, 5, 4]], {}, "segments: got none that covers position 0; expected every"),
        ([[0, 0, 0, 8]], {}, "segments: got none that covers position 8; expected every"),
        ([], {}, "segments: got none that covers position 0; expected every"),
        (
            [[2, 0, 0, 8]],
            {},
            r"segments\[0\]: got row 2, col 0, start 0, length 8; expected a row below num_chunks = 2",
        ),
        (
            [[0, 1, 0, 8]],
            {},
            r"segments\[0\]: got row 0, col 1, .*; expected col \+ length within chunk_len = 8",
        ),
        (
            [[0, 0, 0, 4], [1, 0, 4, 6]],
            {},
            r"segments\[1\]: got .*; expected start \+ length within total_len = 9",
        ),
        (
            [[0, 0, -1, 4]],
            {},
            r"segments\[0\]: got \[0, 0, -1, 4\]; expected values between 0 and 2147483647",
        ),
        ([[0, 0, 2**31, 4]], {}, r"segments\[0\]: got .*; expected values between 0 and 2147483647"),
        (
            [[0, 4, 2, 4], [1, 0, 0, 8], [0, 0, 0, 5]],
            {},
            r"segments\[2\]: got column 4 of row 0, which segments\[0\] has too; expected no column in two",
        ),
        (
            [[0, 0, 0, 8, 3, 2]],
            {},
            r"got .* keep_start 3, keep_end 2; expected keep_start <= keep_end <= length",
        ),
        ([[0, 0, 0, 8, 0, 9]], {}, "expected keep_start <= keep_end <= length"),
        ([[0, 0, 0, 8, 0, 8, 2, 0]], {}, "expected 0 or 1 in starts_document and ends_document"),
        ([[0, 0, 0, 8, 0]], {}, r"segments: got shape \(1, 5\); expected 4, 6 or 8 columns"),
        ([0, 0, 0, 8], {}, r"segments: got shape \(4,\) of torch.int64; expected a table of integers"),
        ([[0, 0, 0, 8.5]], {}, "segments: got .* of torch.float32; expected a table of integers"),
        ([[0, 0, 0, 8], [0]], {}, r"segments: got \[\[0, 0, 0, 8\], \[0\]\]; expected a table of integers"),
        (
            [[1, 3, 9, 0], [0, 0, 0, 8], [0, 7, 8, 1]],
            {},
            r"segments\[2\]: got column 7 of row 0, which segments\[1\] has too; expected no column in two",
        ),
        (
            [[1, 3, 9, 0], [0, 0, 0, 6], [1, 0, 5, 4]],
            {"cu_seqlens": [0, 5, 9]},
            r"segments\[1\]: got positions \[0, 6\), across a document's end; document 0 has \[0, 5\)",
        ),
        ([[0, 0, 0, 8]], {"cu_seqlens": [0, 8]}, "begin with 0, end with total_len = 9 and never fall"),
        (
            [[0, 0, 0, 8]],
            {"cu_seqlens": [0, 6, 4, 9]},
            r"cu_seqlens: got \[0, 6, 4, 9\]; expected offsets that begin with 0, "
            "end with total_len = 9 and never fall",
        ),
        ([[0, 0, 0, 8]], {"cu_seqlens": [1, 9]}, "begin with 0, end with total_len = 9 and never fall"),
        (
            [[0, 0, 0, 8]],
            {"num_chunks": -1},
            "num_chunks: got -1; expected an int >= 0",
        ),
        (
            [[0, 0, 0, 8]],
            {"total_len": 2**31},
            r"total_len: got 2147483648; expected an int >= 0 and below 2\^31",
        ),
    ],
)
def test_explicit_plan_rejects(segments, options, message):
    with pytest.raises(ValueError, match=message):
        explicit(segments, **{"total_len": 9, **options})


def test_a_segment_of_length_zero_is_dropped():
    plan = explicit([[1, 3, 5, 0], [0, 0, 0, 8]], 8)
    assert plan.segments.tolist() == [[0, 0, 0, 8, 0, 8, 1, 1, 0, 8], [1, 0, 0, 0, 0, 0, 0, 0, 0, 8]]
    again = explicit(plan.segments[:, : Column.FILL_START], 8)
    assert again.segments.tolist() == plan.segments.tolist()


def test_an_empty_plan():
    plan = explicit([], 0, num_chunks=0)
    assert (plan.num_segments, plan.tile_segments.shape, plan.crop_gap) == (0, (0, 2), -1)
    rows = explicit([], 0, num_chunks=2)
    assert rows.segments[:, Column.FILL_END].tolist() == [8, 8]


def test_to_moves_every_tensor():
    plan = explicit([[0, 0, 0, 8]], 8)
    assert plan.to("cpu") is plan
    moved = plan.to("meta")
    assert {moved.device, moved.tile_segments.device, moved.cu_seqlens.device} == {torch.device("meta")}
    assert (moved.num_chunks, moved.chunk_len, moved.total_len, moved.crop_gap) == (2, 8, 8, -1)


def test_a_plan_made_in_inference_mode_or_under_a_default_device_is_an_ordinary_one():
    with torch.inference_mode(), torch.device("meta"):
        plan = explicit([[0, 0, 0, 8]], 8)
    for tensor in (plan.segments, plan.tile_segments, plan.cu_seqlens):
        assert tensor.device.type == "cpu" and not tensor.is_inference()


def test_a_plan_is_an_argument_under_compile():
    def read(x, plan):
        return x * plan.total_len + plan.segments.sum() + plan.num_segments + plan.to(x.device).crop_gap

    compiled = torch.compile(read, fullgraph=True, backend="eager")
    x = torch.ones(3)
    for plan in (explicit([[0, 0, 0, 8]], 8), explicit([[0, 0, 0, 8], [1, 0, 4, 8]], 12)):
        torch.testing.assert_close(compiled(x, plan), read(x, plan))
