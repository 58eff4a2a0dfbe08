"""`lengthen(prefix=...)` with a fixed prefix, ids or a text, in every chunk of an encoder-decoder."""

# ruff: noqa: E402

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import tiny
from helpers.seq2seq import (
    CHUNK,
    LABELS,
    SPECIAL,
    VOCAB,
    batch,
    encoder_outputs,
    lengthened_and_plain,
    loop_states,
    row,
)

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PREFIX = [20, 21, 22, 23, 24, 25]
NAMES = ["t5", "bart", "mbart", "marian", "t5gemma"]


def with_prefix(name, prefix=PREFIX, **options):
    return lengthened_and_plain(name, prefix=prefix, **options)


def of_loop(plain, name, rows, side="right", **options):
    states = [loop_states(plain.get_encoder(), ids, SPECIAL[name], **options) for ids in rows]
    return encoder_outputs(states, side)


def rows_of(name, lengths, begin):
    return [row(length, SPECIAL[name], prefix=PREFIX if begin else ()) for length in lengths]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_begin_with_it_keep_its_states(name, side):
    model, plain, report = with_prefix(name)
    assert report.prefix == "6 given tokens"
    rows = rows_of(name, (90, 41, 15), True)
    with torch.no_grad():
        expected = of_loop(plain, name, rows, side, lead=SPECIAL[name][0] + len(PREFIX))
        expected = plain(**expected, labels=LABELS)
        without = plain(**of_loop(plain, name, rows, side), labels=LABELS)
        output = model(**batch(rows, side), labels=LABELS)
    torch.testing.assert_close(output.logits, expected.logits, **CLOSE)
    assert output.encoder_last_hidden_state.shape[1] == 90
    assert (without.logits - expected.logits)[0].abs().max() > 1e-3


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", NAMES)
def test_other_rows_read_it_and_drop_its_states(name, side):
    """Short rows too; one that would fit a chunk without the prefix is two chunks."""
    model, plain, _ = with_prefix(name)
    for lengths in ((90, 41, 15), (CHUNK - 1, 5), (5,)):
        rows = rows_of(name, lengths, False)
        labels = LABELS[: len(rows)]
        with torch.no_grad():
            expected = plain(**of_loop(plain, name, rows, side, prefix=PREFIX), labels=labels)
            without = plain(**batch(rows, side), labels=labels) if lengths[0] <= CHUNK else None
            output = model(**batch(rows, side), labels=labels)
        torch.testing.assert_close(output.logits, expected.logits, **CLOSE)
        assert output.encoder_last_hidden_state.shape[1] == lengths[0]
        assert without is None or (without.logits - expected.logits).abs().max() > 1e-3


def test_a_short_row_that_begins_with_it_is_as_before():
    model, plain, _ = with_prefix("t5")
    inputs = batch(rows_of("t5", (CHUNK, 12, 7), True))  # the last: the prefix and </s>
    with torch.no_grad():
        output, expected = (x(**inputs, labels=LABELS) for x in (model, plain))
    assert torch.equal(output.logits, expected.logits)


@pytest.mark.parametrize("summary", ["mean", "first"])
def test_generate(summary):
    model, plain, _ = with_prefix("t5", summary=summary)
    steps = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": 2}
    rows = rows_of("t5", (90, 41), True)
    with torch.no_grad():
        given = of_loop(plain, "t5", rows, lead=len(PREFIX))
        if summary == "first":
            for i, ids in enumerate(rows):
                first = torch.cat([ids[: CHUNK - 1], ids[-1:]])
                states = plain.get_encoder()(input_ids=first[None]).last_hidden_state[0]
                given["encoder_outputs"].last_hidden_state[i, : len(PREFIX)] = states[: len(PREFIX)]
        states = model.get_encoder()(**batch(rows)).last_hidden_state
        torch.testing.assert_close(states, given["encoder_outputs"].last_hidden_state, **CLOSE)
        expected = plain.generate(**given, **steps)  # which changes given["encoder_outputs"]
        assert torch.equal(model.generate(**batch(rows), **steps), expected)


@pytest.mark.parametrize("lengths", [(90, 41), (90, 5), (15, 12)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_with_both_raises(lengths, side):
    model, _, _ = with_prefix("t5")
    rows = [*rows_of("t5", lengths[:1], True), *rows_of("t5", lengths[1:], False)]
    with pytest.raises(ValueError, match="input_ids: got row 1 without the prefix; other rows"):
        model(**batch(rows, side), labels=LABELS[:2])


def test_padding_that_equals_the_prefix_is_none():
    """A row that is shorter than the prefix does not begin with it, whatever its padding."""
    model, _, _ = with_prefix("t5", prefix=[30, 0, 0])
    ids = torch.tensor([[30, 0, 0, 40, 1], [30, 1, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match="input_ids: got row 1 without the prefix"):
        model(input_ids=ids, attention_mask=mask, labels=LABELS[:2])


def test_embeddings_as_input():
    model, plain, _ = with_prefix("t5")
    rows = rows_of("t5", (90, 41), False)
    inputs = batch(rows)
    table = plain.get_encoder().get_input_embeddings()
    embedded = {"inputs_embeds": table(inputs["input_ids"]), "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        output = model(**embedded, labels=LABELS[:2])
        expected = plain(**of_loop(plain, "t5", rows, prefix=PREFIX), labels=LABELS[:2])
    torch.testing.assert_close(output.logits, expected.logits, **CLOSE)
    marian, _, _ = with_prefix("marian")  # whose encoder scales the embeddings of ids alone
    with pytest.raises(
        ValueError, match=r"inputs_embeds: got embeddings, and a prefix of ids, .* scales by 4"
    ):
        marian(**embedded, labels=LABELS[:2])


class Words:
    """A tokenizer of words, whose ids are those of PREFIX for the words 'a' to 'f'; a space is a token."""

    model_max_length = 10**9

    def __call__(self, text, add_special_tokens=True, **_):
        ids = [20 + ord(x) - ord("a") if x != " " else 9 for x in text.replace(" ", "", text.count(" ") - 1)]
        return {"input_ids": ids + [1] * add_special_tokens}

    def save_pretrained(self, *_):
        raise NotImplementedError


def test_the_chunk_length_of_a_model_without_positions_is_the_tokenizers():
    words = Words()
    words.model_max_length = 22
    _, _, report = with_prefix("t5", prefix=None, tokenizer=words, chunk_len=None)
    assert (report.chunk_len, report.chunk_len_from) == (22, "the tokenizer's model_max_length")


def test_a_text():
    """Its last space belongs to the next token of a row that begins with it."""
    _, _, report = with_prefix("t5", prefix="abcdef ", tokenizer=Words())
    assert report.prefix == "6 given tokens ('abcdef ')"
    with pytest.raises(ValueError, match="prefix: got 'a'; a text requires a tokenizer"):
        with_prefix("t5", prefix="a")


def test_merge_in_every_layer_supports_rows_without_it():
    torch.manual_seed(0)
    bert = tiny("bert")
    ids = torch.randint(5, 60, (1, 90))
    expected = lckernels.LongEncoder(bert, merge="layer", prefix=PREFIX)
    with torch.no_grad():
        states = expected(ids).last_hidden_state
        lckernels.lengthen(bert, prefix=PREFIX, merge="layer", summary="first")
        assert torch.equal(bert(ids).last_hidden_state, states)
        ids[0, 1:7] = torch.tensor(PREFIX)
        with pytest.raises(ValueError, match="prefix: got rows that begin with it; merge='layer' supports"):
            bert(ids)


def test_errors():
    with pytest.raises(ValueError, match=r"prefix: got no token; expected some, or None"):
        with_prefix("t5", prefix=[])
    with pytest.raises(
        ValueError, match=r"prefix: got shape \(\) of torch.int64; expected a sequence of int"
    ):
        with_prefix("t5", prefix=torch.tensor(8))
    with pytest.raises(ValueError, match=r"prefix: got ' '; expected a text with tokens"):
        with_prefix("t5", prefix=" ", tokenizer=Words())
    with pytest.raises(ValueError, match=r"chunk_len: got 24; expected room .* and a prefix of 23"):
        with_prefix("t5", prefix=list(range(8, 31)))
    with pytest.raises(ValueError, match=f"prefix: got token id {VOCAB}; the model's embedding"):
        with_prefix("t5", prefix=[VOCAB])
    with pytest.raises(ValueError, match=r"overlap: got 17; expected 0 <= overlap < 17"):
        with_prefix("t5", overlap=17)
