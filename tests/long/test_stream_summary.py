"""LongEncoder.stream: the mean of the leading states; tokens that the next append replaces."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import CLS, SEP, tiny

import lckernels

ROOM = 18  # content of a chunk of 20
SIZES = [1, 1, 7, 1, 30, 2, ROOM, 1, 12, 12, 40, 3]


@pytest.fixture(scope="module")
def model():
    return tiny()


def of_a_call(encoder, content):
    with torch.no_grad():
        return encoder(torch.tensor([[CLS, *content, SEP]])).last_hidden_state[0]


def check(encoder, stream, final, states, content):
    """The states of an append are those of a call with all of the content."""
    assert states.first == sum(map(len, final))
    final.append(states.final)
    found, expected = torch.cat([*final, states.provisional]), of_a_call(encoder, content)
    torch.testing.assert_close(torch.cat([states.leading, found[1:]]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("overlap", [0, 6, 17])
@pytest.mark.parametrize("rule", ["sled", "max_context"])
@pytest.mark.parametrize("summary", ["mean", "first"])
def test_the_leading_states_are_those_of_a_call(model, summary, rule, overlap):
    encoder = lckernels.LongEncoder(model, 20, overlap, "triangular", rule, summary=summary)
    content, stream, final, at = (
        torch.randint(5, 50, (sum(SIZES),)).tolist(),
        encoder.stream([CLS], [SEP]),
        [],
        0,
    )
    for size in SIZES:
        states = stream.append(content[at : at + size])
        at += size
        check(encoder, stream, final, states, content[:at])
        assert len(stream._states) <= -(-ROOM // (ROOM - overlap)) and len(stream._content) < 2 * ROOM


@pytest.mark.parametrize("overlap", [0, 6])
def test_provisional_tokens_are_replaced(model, overlap):
    """By others, by fewer and by none."""
    encoder = lckernels.LongEncoder(model, 20, overlap, summary="mean")
    generator = torch.Generator().manual_seed(0)
    stream, final, settled = encoder.stream([CLS], [SEP]), [], []
    for new, provisional in (
        (0, 3),
        (2, 0),
        (0, 1),
        (9, 12),
        (0, 40),
        (0, 2),
        (30, 0),
        (1, 25),
        (25, 1),
        (60, 5),
    ):
        ids = torch.randint(5, 50, (new + provisional,), generator=generator).tolist()
        states = stream.append(ids[:new], ids[new:])
        settled += ids[:new]
        check(encoder, stream, final, states, settled + ids[new:])
        assert stream.num_tokens == len(settled) + 2
        assert stream.num_final == (len(settled) - ROOM + 1 if len(settled) > ROOM else 0)


def test_a_chunk_of_provisional_tokens_that_stay_is_read_once(model):
    """One that changes is read again."""
    encoder, read = lckernels.LongEncoder(model, 20, 6, summary="mean"), []
    content, stream, final = torch.arange(5, 47).tolist(), encoder.stream([CLS], [SEP]), []
    hook = model.embeddings.register_forward_hook(lambda module, args, output: read.append(len(output)))
    first = [([], content[:31]), (content[:4], content[4:32]), (content[4:9], content[9:33])]
    for i, (new, provisional) in enumerate([*first, ([], [7, *content[10:35]])]):
        read.clear()
        states, settled = stream.append(new, provisional), (0, 4, 9, 9)[i]
        assert sum(read) == (3, 1, 1, 3)[i]
        check(encoder, stream, final, states, content[:settled] + list(provisional))
    read.clear()
    stream, final = encoder.stream([CLS], [SEP]), []
    for number in (2, 0, 0):  # of chunks, both of which stay
        states = stream.append(content[:20] if number else [], content[20:30])
        check(encoder, stream, final, states, content[:30])
    hook.remove()


def test_neither_new_nor_provisional(model):
    stream = lckernels.LongEncoder(model, 20, 6).stream([CLS], [SEP])
    for given in (([],), ([], [])):
        with pytest.raises(ValueError, match="input_ids: got no tokens; expected at least one"):
            stream.append(*given)
    with pytest.raises(ValueError, match="provisional"):
        stream.append([7], [0.5])
