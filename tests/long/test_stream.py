"""LongEncoder.stream: a sequence that grows has at each append the states of a call with all of it."""

# ruff: noqa: E402
import itertools

import numpy
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import CLS, SEP, tiny, token_ids

import lckernels
from lckernels.long.stream import Stream

ROOM = 18  # content of a chunk of 20


def row(content):
    return torch.cat([torch.tensor([CLS]), content, torch.tensor([SEP])])[None]


def batch_states(encoder, content):
    with torch.no_grad():
        return encoder(row(content)).last_hidden_state[0]


def append_all(encoder, content, sizes):
    """Appends pieces of these sizes, again and again; each result and the number of tokens so far."""
    stream, at = encoder.stream([CLS], [SEP]), 0
    for size in itertools.cycle(sizes):
        if at >= len(content):
            return
        yield stream, stream.append(content[at : at + size]), min(at + size, len(content))
        at += size


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.mark.parametrize("overlap", [0, 6, 17])
@pytest.mark.parametrize("rule", ["sled", "max_context"])
@pytest.mark.parametrize("weights", ["triangular", "uniform", "hann", "crop"])
def test_each_append_equals_a_call(model, weights, rule, overlap):
    encoder = lckernels.LongEncoder(model, 20, overlap, weights, rule)
    content = torch.randint(5, 50, (75,))
    for sizes in ((1,), (7, 1, 30), (ROOM,), (75,), (ROOM - overlap, 2)):
        final = []
        for stream, states, num_content in append_all(encoder, content, sizes):
            assert states.first == sum(map(len, final))
            final.append(states.final)
            found = torch.cat([*final, states.provisional])
            want = batch_states(encoder, content[:num_content])
            torch.testing.assert_close(found, want, rtol=0, atol=1e-6)
            assert len(found) == stream.num_tokens == num_content + 2
            assert stream.num_final == sum(map(len, final))


def test_default_device_is_not_used(model):
    encoder, content = lckernels.LongEncoder(model, 20, 6), torch.randint(5, 50, (75,))
    expected = [states.provisional for _, states, _ in append_all(encoder, content, (30,))]
    with torch.device("meta"):
        found = [states.provisional for _, states, _ in append_all(encoder, content, (30,))]
    for states, want in zip(found, expected, strict=True):
        assert torch.equal(states, want)


@pytest.mark.parametrize("options", [{"prefix": [7, 8]}, {"max_tokens": 1}, {"attention": "lckernels"}])
def test_options(model, options):
    encoder = lckernels.LongEncoder(model, 20, 5, **options)
    content = torch.randint(5, 50, (100,))
    final = []
    for _, states, num_content in append_all(encoder, content, (9,)):
        final.append(states.final)
        found = torch.cat([*final, states.provisional])
        torch.testing.assert_close(found, batch_states(encoder, content[:num_content]), rtol=0, atol=1e-6)


def test_what_is_final(model):
    """All before the last chunk, which a longer sequence replaces."""
    for _, states, num_content in append_all(lckernels.LongEncoder(model, 20, 6), torch.arange(5, 45), (4,)):
        num_final = states.first + len(states.final)
        assert num_final == (num_content - ROOM + 1 if num_content > ROOM else 0)


@pytest.mark.parametrize("overlap", [0, 6])
def test_only_changed_chunks_are_read(model, overlap):
    encoder = lckernels.LongEncoder(model, 20, overlap)
    read = []
    handle = model.register_forward_hook(
        lambda module, args, kwargs, out: read.append(len(out[0])), with_kwargs=True
    )
    step = ROOM - overlap
    try:
        for stream, _, _ in append_all(encoder, torch.randint(5, 50, (400,)), (5,)):
            # The last chunk, and the one before it where that has become a chunk that stays.
            assert sum(read) <= 2
            read.clear()
            assert len(stream._states) <= -(-ROOM // step)
            assert len(stream._content) < 2 * ROOM
        stream.append(torch.randint(5, 50, (10 * step,)))
        assert sum(read) <= 12
    finally:
        handle.remove()


def test_a_chunk_that_stays_is_read_once(model):
    """Sequences that end where a chunk ends."""
    encoder, read = lckernels.LongEncoder(model, 20, 6), []
    handle = model.register_forward_hook(
        lambda module, args, kwargs, out: read.append(len(out[0])), with_kwargs=True
    )
    try:
        list(append_all(encoder, torch.randint(5, 50, (ROOM + 5 * 12,)), (ROOM, *[12] * 5)))
    finally:
        handle.remove()
    assert sum(read) == 6


def test_ids_of_other_kinds(model):
    encoder = lckernels.LongEncoder(model, 20, 6)
    content = token_ids(40)[1:-1]
    kinds = (content.tolist(), content[None], content.int(), numpy.array(content), tuple(content.tolist()))
    first, *others = (encoder.stream([CLS], [SEP]).append(kind).final for kind in kinds)
    assert all(torch.equal(first, other) for other in others)


def test_without_special_tokens(model):
    encoder = lckernels.LongEncoder(model, 20, 6, special_tokens=(0, 0))
    content, stream = torch.randint(5, 50, (50,)), encoder.stream()
    parts = [
        stream.append(content[:33]).final,
        *(lambda x: (x.final, x.provisional))(stream.append(content[33:])),
    ]
    with torch.no_grad():
        want = encoder(content[None]).last_hidden_state[0]
    torch.testing.assert_close(torch.cat(parts), want, rtol=0, atol=1e-6)


def test_states_have_no_gradient_and_the_output_device(model):
    encoder = lckernels.LongEncoder(model, 20, 6, output_device="cpu")
    states = encoder.stream([CLS], [SEP]).append(torch.arange(5, 45))
    assert not states.final.requires_grad and states.final.device.type == "cpu"


def test_an_error_leaves_the_stream_as_it_was(model):
    encoder = lckernels.LongEncoder(model, 20, 6)
    stream = encoder.stream([CLS], [SEP])
    content = torch.randint(5, 50, (60,))
    first = stream.append(content[:30])
    for bad in ([10**6], [], torch.zeros(2, 3, dtype=torch.long), [0.5]):
        with pytest.raises(ValueError, match="input_ids"):
            stream.append(bad)
    second = stream.append(content[30:])
    found = torch.cat([first.final, second.final, second.provisional])
    torch.testing.assert_close(found, batch_states(encoder, content), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"merge": "layer"}, ([CLS], [SEP]), "merge: got 'layer'; a stream requires merge='final'"),
        ({"boundaries": "sentence"}, ([CLS], [SEP]), "boundaries: got 'sentence'; a stream supports"),
        ({"weights": lambda plan: None}, ([CLS], [SEP]), "weights: got function; a stream requires"),
        ({}, (), "leading: got 0 ids; the encoder has 1 such special tokens"),
        ({}, ([CLS], [SEP, SEP]), "trailing: got 2 ids; the encoder has 1 such special tokens"),
    ],
)
def test_unsupported_encoders_and_special_tokens(model, options, arguments, message):
    with pytest.raises(ValueError, match=message):
        Stream(lckernels.LongEncoder(model, 20, 6, **options), *(arguments or ((), ())))
