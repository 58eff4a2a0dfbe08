"""weights="crop" and boundaries="sled" are SLED's states: its windows, derived here without the planner."""

# ruff: noqa: E402
import copy

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.seq2seq import build, row

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")
# (begin, end, first kept, last kept + 1) of each window of 1,050 tokens, as SLED documents them.
GOLDEN = {
    (512, 0.5): [(0, 512, 0, 384), (256, 768, 128, 384), (512, 1024, 128, 384), (538, 1050, 358, 512)],
    (256, 0.75): [
        (0, 256, 0, 224), (192, 448, 32, 224), (384, 640, 32, 224), (576, 832, 32, 224), (768, 1024, 32, 224),
        (794, 1050, 198, 256),
    ],
}  # fmt: skip


def windows(length, context, fraction):
    """SLED's windows: margins are cut off inside the sequence, the last window is shifted left."""
    if length <= context:
        return [(0, length, 0, length)]
    margin = int(context * (1 - fraction) / 2)
    found, start, kept = [], 0, 0
    while start + context < length:
        found.append((start, start + context, kept - start, context - margin))
        kept = start + context - margin
        start += context - 2 * margin
    start = length - context
    return [*found, (start, length, kept - start, context)]


def sled_states(encoder, ids, context, fraction, prefix=()):
    """(length, dim), from a loop over the windows; each begins with the prefix, whose states are dropped."""
    prefix = torch.tensor(prefix, dtype=torch.long)
    parts = []
    for begin, end, first, last in windows(len(ids), context, fraction):
        window = torch.cat([prefix, ids[begin:end]])
        states = encoder(input_ids=window[None]).last_hidden_state[0, len(prefix) :]
        parts.append(states[first:last])
    return torch.cat(parts)


def lengthened(name, context, fraction, prefix=None, **options):
    """The encoder of a model that `lengthen` made SLED's: a micro-batch is one chunk, as in the loop."""
    model = build(name)
    plain = copy.deepcopy(model).get_encoder()
    lckernels.lengthen(
        model,
        chunk_len=context + (0 if prefix is None else len(prefix)),
        overlap=2 * int(context * (1 - fraction) / 2),
        weights="crop",
        boundaries="sled",
        special_tokens=(0, 0),
        prefix=prefix,
        **{"max_tokens": 1, "attention": "model", **options},
    )
    return model.get_encoder(), plain


@pytest.mark.parametrize(("context", "fraction"), GOLDEN)
def test_golden_windows(context, fraction):
    assert windows(1050, context, fraction) == GOLDEN[context, fraction]
    encoder, plain = lengthened("t5", context, fraction)
    ids = row(1050, (0, 1))
    with torch.no_grad():
        states = encoder(input_ids=ids[None]).last_hidden_state[0]
        assert torch.equal(states, sled_states(plain, ids, context, fraction))


@pytest.mark.parametrize("fraction", [0.5, 0.75, 0.3, 1.0])
@pytest.mark.parametrize(("name", "context"), [("t5", 16), ("t5", 17), ("bart", 24), ("marian", 20)])
def test_every_length_to_the_bit(name, context, fraction):
    encoder, plain = lengthened(name, context, fraction)
    with torch.no_grad():
        for length in range(1, 4 * context, 3):
            ids = row(length, (0, 1))
            expected = sled_states(plain, ids, context, fraction)
            assert torch.equal(encoder(input_ids=ids[None]).last_hidden_state[0], expected), length


def test_windows_in_one_micro_batch():
    """Then the model multiplies other shapes, and rounds otherwise."""
    encoder, plain = lengthened("t5", 16, 0.5, max_tokens=4096)
    ids = row(100, (0, 1))
    with torch.no_grad():
        states = encoder(input_ids=ids[None]).last_hidden_state[0]
        torch.testing.assert_close(states, sled_states(plain, ids, 16, 0.5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("summary", ["mean", "first"])
@pytest.mark.parametrize("length", [100, 33, 10])
def test_a_prefix(summary, length):
    """SLED's context does not count the prefix, and its prefix's states are those of the prefix alone."""
    prefix, context = [20, 21, 22, 23], 16
    encoder, plain = lengthened("t5", context, 0.5, prefix, summary=summary)
    content = row(length, (0, 1))
    ids = torch.cat([torch.tensor(prefix), content])
    with torch.no_grad():
        expected = sled_states(plain, content, context, 0.5, prefix)
        dropped = encoder(input_ids=content[None]).last_hidden_state[0]  # SLED's encode_prefix=False
        states = encoder(input_ids=ids[None]).last_hidden_state[0]
        alone = plain(input_ids=ids[None, : len(prefix)]).last_hidden_state[0]
        of_windows = [
            plain(input_ids=torch.cat([ids[: len(prefix)], content[begin:end]])[None]).last_hidden_state[0]
            for begin, end, _, _ in windows(length, context, 0.5)
        ]
    assert torch.equal(dropped, expected)
    assert torch.equal(states[len(prefix) :], expected)
    own = states[: len(prefix)]
    assert (own - alone).abs().max() > 1e-3
    of_windows = torch.stack([x[: len(prefix)] for x in of_windows])
    if summary == "first":
        assert torch.equal(own, of_windows[0])
        return
    kept = torch.tensor([last - first for _, _, first, last in windows(length, context, 0.5)])
    mean = (kept[:, None, None] * of_windows).sum(0) / kept.sum()
    torch.testing.assert_close(own, mean, rtol=1e-6, atol=1e-6)
