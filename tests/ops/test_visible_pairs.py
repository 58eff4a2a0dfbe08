"""The number of visible pairs, counted from ranges of keys, is that of the reference's masks."""

import pytest
import torch
from helpers.random_attention import draw_problem

from lckernels import Layout, reference
from lckernels.visible import visible_pairs


def pairs_of_reference(batch, seqlen_q, seqlen_k, options):
    pairs = 0
    for _, rows, keys, local in reference.attention_pieces(options, seqlen_q, seqlen_k):
        num_q, num_k = len(range(seqlen_q)[rows]), len(range(seqlen_k)[keys])
        p = reference.key_positions(batch, num_q, num_k, local.layout, torch.device("cpu"))
        pairs += int(reference.visible_keys(p, num_k, options.window_size, local.layout).sum())
    return pairs


@pytest.mark.parametrize("window_size", [(-1, -1), (-1, 0), (3, 0), (0, 0), (2, 4), (-1, 2), (100, 100)])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(1, 1), (13, 13), (5, 17), (17, 5), (0, 3), (3, 0)])
@pytest.mark.parametrize(("sink_tokens", "chunk"), [(0, 0), (2, 0), (0, 4), (3, 4)])
def test_window_sinks_and_chunks(window_size, seqlen_q, seqlen_k, sink_tokens, chunk):
    layout = Layout(sink_tokens=sink_tokens, chunk=chunk)
    p = reference.key_positions(1, seqlen_q, seqlen_k, layout, torch.device("cpu"))
    seen = reference.visible_keys(p, seqlen_k, window_size, layout)
    assert visible_pairs(seqlen_q, seqlen_k, window_size, layout) == int(seen.sum())
    assert visible_pairs(seqlen_q, seqlen_k, window_size, layout, batch=3) == 3 * int(seen.sum())


def test_random_layouts():
    """Padding, masks, segments in any order, packed input, offsets and chunks with an origin."""
    features = dict.fromkeys(("kv_start", "kv_end", "kv_mask", "segment_ids", "cu_seqlens_q", "chunk"), 0)
    for index in range(400):
        problem = draw_problem(7, index)
        q, k, options = problem.q, problem.k, problem.options
        counted = visible_pairs(q.shape[1], k.shape[1], options.window_size, options.layout, q.shape[0])
        expected = pairs_of_reference(q.shape[0], q.shape[1], k.shape[1], options)
        assert counted == expected, f"problem {index}: {problem}"
        for name in features:
            value = getattr(options.layout, name)
            features[name] += value is not None and not (isinstance(value, int) and value == 0)
    assert min(features.values()) > 10, features


def test_memory_of_a_long_sequence():
    """Its mask would have 10^12 entries."""
    size = 10**6
    ids = torch.arange(size)[None] // 1000
    assert visible_pairs(size, size, (-1, 0), Layout(segment_ids=ids)) == 1000 * 1000 * 1001 // 2
