"""The planner: the chunks that it returns and their keep ranges."""

import importlib.util
import random
import sys
from bisect import bisect_right

import pytest
import torch

import lckernels
from lckernels.plan import Plan
from lckernels.planner import plan_chunks, plan_segments
from lckernels.segments import Column

needs_host = pytest.mark.skipif(
    importlib.util.find_spec("lckernels._host") is None, reason="the compiled extension is not built"
)
RULES = ("sled", "max_context", "sentence")


def spans(plan):
    """(start, end, keep_start, keep_end) of each chunk, in row order."""
    table = plan.segments[plan.segments[:, Column.ROW].argsort()].tolist()
    return [
        (start, start + length, keep_start, keep_end)
        for _, _, start, length, keep_start, keep_end, *_ in table
    ]


def random_boundaries(rng, length, longest):
    cuts = [0]
    while cuts[-1] < length:
        cuts.append(cuts[-1] + rng.randint(1, longest))
    return cuts[rng.randint(0, 1) : -1]


@needs_host
def test_sled_golden_vectors():
    assert spans(plan_chunks(1050, 512, 2 * int(512 * (1 - 0.5) / 2))) == [
        (0, 512, 0, 384),
        (256, 768, 128, 384),
        (512, 1024, 128, 384),
        (538, 1050, 358, 512),
    ]
    assert spans(plan_chunks(1050, 256, 2 * int(256 * (1 - 0.75) / 2)))[-1] == (794, 1050, 198, 256)


@needs_host
def test_sled_cuts_the_odd_position_on_the_right():
    assert spans(plan_chunks(20, 8, 3)) == [(0, 8, 0, 6), (5, 13, 1, 6), (10, 18, 1, 6), (12, 20, 4, 8)]


@needs_host
@pytest.mark.parametrize("rule", RULES)
def test_keep_ranges_partition_each_document(rule):
    rng = random.Random(rule)
    for _ in range(150):
        content = rng.randint(1, 40)
        overlap = rng.randrange(content)
        num_leading, num_trailing = rng.randint(0, 3), rng.randint(0, 2)
        lengths = [rng.randint(1, 3 * content) for _ in range(rng.randint(1, 4))]
        boundaries = [random_boundaries(rng, n, content) for n in lengths] if rule == "sentence" else None
        plan = plan_chunks(
            lengths,
            num_leading + content + num_trailing,
            overlap,
            rule=rule,
            boundaries=boundaries,
            num_leading=num_leading,
            num_trailing=num_trailing,
        )
        assert plan.crop_gap == -1
        assert plan.total_len == sum(lengths)
        assert plan.cu_seqlens.diff().tolist() == lengths
        assert plan.num_segments == plan.num_chunks
        segments = plan.segments[plan.segments[:, Column.ROW].argsort()]
        assert segments[:, Column.ROW].tolist() == list(range(plan.num_chunks))
        assert (segments[:, Column.COL] == num_leading).all()
        assert segments[:, Column.LENGTH].min() >= 1 and segments[:, Column.LENGTH].max() <= content
        kept = [
            (start + keep_start, start + keep_end)
            for start, _, keep_start, keep_end in segments[:, Column.START : Column.STARTS_DOCUMENT].tolist()
        ]
        assert [begin for begin, _ in kept] == [0, *(end for _, end in kept[:-1])]
        assert kept[-1][1] == plan.total_len
        if rule != "sentence":
            full = segments[:, Column.LENGTH] == content
            whole = segments[:, Column.STARTS_DOCUMENT] * segments[:, Column.ENDS_DOCUMENT] == 1
            assert (full | whole).all()


@needs_host
def test_max_context_is_the_argmax_of_the_poorer_side():
    for content in range(1, 10):
        for overlap in range(content):
            for length in range(1, 3 * content + 2):
                chunks = spans(plan_chunks(length, content, overlap, rule="max_context"))
                for token in range(length):
                    context = [min(token - start, end - 1 - token) for start, end, _, _ in chunks]
                    best = context.index(max(context))
                    start, _, keep_start, keep_end = chunks[best]
                    assert keep_start <= token - start < keep_end, (content, overlap, length, token)


def sentence_chunk(start, end, length, overlap):
    """The chunk around the core [start, end): its halo, clamped to the document."""
    return max(start - overlap // 2, 0), length if end == length else min(
        end + overlap - overlap // 2, length
    )


@needs_host
def test_sentence_cores_end_at_the_furthest_boundary():
    rng = random.Random(0)
    hard_cuts = 0
    for _ in range(300):
        content = rng.randint(2, 14)
        overlap, length = rng.randrange(content), rng.randint(1, 50)
        cuts = random_boundaries(rng, length, content)
        chunks = spans(plan_chunks([length], content, overlap, rule="sentence", boundaries=[cuts]))
        for begin, stop, keep_start, keep_end in chunks:
            start, end = begin + keep_start, begin + keep_end
            assert (begin, stop) == sentence_chunk(start, end, length, overlap)
            ends = range(start + 1, length + 1)
            fits = [e for e in ends if sentence_chunk(start, e, length, overlap)[1] - begin <= content]
            allowed = [e for e in fits if e in cuts or e == length]
            assert end == max(allowed or fits)
            hard_cuts += not allowed
    assert hard_cuts > 50


@needs_host
def test_sentence_cores_are_as_few_as_can_be():
    rng = random.Random(1)
    several = 0
    for _ in range(200):
        content = rng.randint(4, 16)
        overlap = rng.randrange(content // 2)
        length = rng.randint(content, 60)
        cuts = random_boundaries(rng, length, content - overlap)
        stops = sorted({0, *cuts, length})
        fewest = {0: 0}
        for end in stops[1:]:
            for start in (s for s in stops if s < end and s in fewest):
                begin, stop = sentence_chunk(start, end, length, overlap)
                if stop - begin <= content:
                    fewest[end] = min(fewest.get(end, length), fewest[start] + 1)
        plan = plan_chunks([length], content, overlap, rule="sentence", boundaries=[cuts])
        assert plan.num_chunks == fewest[length]
        several += plan.num_chunks > 2
    assert several > 50


@needs_host
@pytest.mark.parametrize("rule", RULES)
def test_ragged_batch_is_each_document_alone(rule):
    lengths = [40, 7, 8, 9, 1, 100]
    cuts = [list(range(0, n + 1, 3)) for n in lengths] if rule == "sentence" else None
    options = {"rule": rule, "num_leading": 2, "num_trailing": 1}
    plan = plan_chunks(torch.tensor(lengths), 11, 3, boundaries=cuts, **options)
    rows, offset = [], 0
    for i, n in enumerate(lengths):
        alone = plan_chunks(n, 11, 3, boundaries=cuts and [torch.tensor(cuts[i])], **options)
        segments = alone.segments[alone.segments[:, Column.ROW].argsort()].clone()
        segments[:, Column.ROW] += sum(len(row) for row in rows)
        segments[:, Column.START] += offset
        rows.append(segments)
        offset += n
    segments = plan.segments[plan.segments[:, Column.ROW].argsort()]
    torch.testing.assert_close(segments, torch.cat(rows), rtol=0, atol=0)


@needs_host
def test_special_tokens_take_columns_from_the_content():
    one = plan_chunks(9, 12, 4, num_leading=2, num_trailing=1)
    assert one.segments.tolist() == [[0, 2, 0, 9, 0, 9, 1, 1, 0, 12]]
    two = plan_chunks(10, 12, 4, num_leading=2, num_trailing=1)
    assert two.segments.tolist() == [[0, 2, 0, 9, 0, 7, 1, 0, 0, 12], [1, 2, 1, 9, 6, 9, 0, 1, 0, 12]]


@needs_host
def test_a_million_tokens_with_fifty_thousand_boundaries():
    rng = random.Random(2)
    length, content, overlap = 1_000_000, 510, 64
    cuts = sorted(rng.sample(range(1, length), 50_000))
    chunks = spans(plan_chunks([length], content, overlap, rule="sentence", boundaries=[cuts]))
    kept = [(start + keep_start, start + keep_end) for start, _, keep_start, keep_end in chunks]
    ends = [end for _, end in kept]
    assert [begin for begin, _ in kept] == [0, *ends[:-1]]
    assert ends[-1] == length
    allowed = {*cuts, length}
    for (start, end, _, _), (begin, stop) in zip(chunks, kept, strict=True):
        assert end - start <= content
        assert (start, end) == sentence_chunk(begin, stop, length, overlap)
        assert stop in allowed
        # The next boundary would not have fitted.
        following = cuts[bisect_right(cuts, stop)] if stop < cuts[-1] else length
        assert stop == length or sentence_chunk(begin, following, length, overlap)[1] - start > content


@needs_host
def test_an_empty_batch_has_no_chunks():
    plan = plan_chunks([], 8, 2)
    assert (plan.num_chunks, plan.total_len, plan.segments.shape) == (0, 0, (0, 10))


@needs_host
def test_segments_are_the_arguments_of_a_plan(monkeypatch):
    options = {"num_leading": 2, "num_trailing": 1}
    expected = plan_chunks([40, 7], 11, 3, **options)
    plan = Plan.from_segments(**plan_segments([40, 7], 11, 3, **options)._asdict())
    for name in ("segments", "tile_segments", "cu_seqlens"):
        torch.testing.assert_close(getattr(plan, name), getattr(expected, name), rtol=0, atol=0)
    assert (plan.num_chunks, plan.chunk_len, plan.total_len) == (expected.num_chunks, 11, 47)
    monkeypatch.setattr(Plan, "from_segments", None)
    assert plan_segments([40, 7], 11, 3, **options).num_chunks == plan.num_chunks, "no Plan is built"


@needs_host
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((10, 8, 8), {}, "overlap: got 8; expected 0 <= overlap < 8, the content of a chunk of 8$"),
        ((10, 8, 6), {"num_leading": 2}, "overlap: got 6; expected 0 <= overlap < 6, the content"),
        ((10, 8, -1), {}, "overlap: got -1; expected an int >= 0"),
        ((10, 0, 0), {}, "chunk_len must be between 1 and 2147483647, got 0"),
        ((10, 2, 0), {"num_leading": 1, "num_trailing": 1}, r"chunk_len: got 2; .* 1 \+ 1 special tokens$"),
        ((10, 8, 2), {"num_leading": -1}, "num_leading: got -1; expected an int >= 0"),
        (([5, 0], 8, 2), {}, r"lengths\[1\] is 0: an empty sequence has no chunks"),
        (([5, -3], 8, 2), {}, r"lengths\[1\] must be positive, got -3"),
        (([2**31 - 1, 7], 8, 2), {}, r"at most 2147483647 tokens together, exceeded by lengths\[1\] = 7"),
        (([2**70], 8, 2), {}, r"lengths: got \[1\d+\]; expected a sequence of integers"),
        (([5.5], 8, 2), {}, r"lengths: got shape \(1,\) of torch.float32; expected a sequence of integers"),
        ((10, 8, 2), {"rule": "middle"}, '"max_context" or "sentence", got "middle"'),
        ((10, 8, 2), {"rule": "sentence"}, "one list per document: expected 1, got 0"),
        ((10, 8, 2), {"boundaries": [[3]]}, 'boundaries are for rule "sentence" only'),
        (([9, 9], 8, 2), {"rule": "sentence", "boundaries": [[3]]}, "expected 2, got 1"),
        (
            (10, 8, 2),
            {"rule": "sentence", "boundaries": [[5, 3]]},
            r"boundaries\[0\] must be sorted, got 3 after 5",
        ),
        (
            (10, 8, 2),
            {"rule": "sentence", "boundaries": [[11]]},
            r"boundaries\[0\] must lie in \[0, 10\].* got 11",
        ),
        (
            (10, 8, 2),
            {"rule": "sentence", "boundaries": [3]},
            r"boundaries\[0\]: got .*; expected a sequence of integers",
        ),
    ],
)
def test_planner_rejects(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plan_chunks(*arguments, **options)


def test_without_the_extension_only_planning_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "lckernels._host", None)
    monkeypatch.delattr(lckernels, "_host", raising=False)
    with pytest.raises(
        RuntimeError, match=r"extension, which needs a C\+\+ compiler at install time; Plan.from_seg"
    ):
        plan_chunks(10, 8, 2)
    plan = Plan.from_segments([[0, 0, 0, 4]], num_chunks=1, chunk_len=4, total_len=4)
    assert plan.num_segments == 1
