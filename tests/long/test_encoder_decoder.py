"""Encoder-decoders under `lengthen`: forward and generate are those with states of a loop over the chunks."""

# ruff: noqa: E402

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.seq2seq import (
    CHUNK,
    LABELS,
    SPECIAL,
    WITHOUT_POSITIONS,
    batch,
    build,
    encoder_outputs,
    lengthened_and_plain,
    loop_states,
    row,
)

import lckernels

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning"),
]
LENGTHS = 90, 41, 15
# The largest difference of a logit from the loop is 4.3e-6 of 15, measured.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
STEPS = {"max_new_tokens": 6, "min_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
MODES = {
    "greedy": {},
    "static cache": {"cache_implementation": "static"},
    "without cache": {"use_cache": False},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "top_k": 20},
    "sampled beams": {"do_sample": True, "num_beams": 2},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}


def rows_of(name, lengths=LENGTHS):
    return [row(length, SPECIAL[name]) for length in lengths]


def of_loop(plain, name, rows, side="right"):
    return encoder_outputs([loop_states(plain.get_encoder(), ids, SPECIAL[name]) for ids in rows], side)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", SPECIAL)
def test_loss_and_gradients(name, side):
    model, plain, report = lengthened_and_plain(name)
    assert report.kind == "an encoder-decoder" and report.chunk_len == CHUNK
    rows = rows_of(name)
    output = model(**batch(rows, side), labels=LABELS)
    expected = plain(**of_loop(plain, name, rows, side), labels=LABELS)
    torch.testing.assert_close(output.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(output.loss, expected.loss)
    truncated = plain(**batch([ids[:CHUNK] for ids in rows], side), labels=LABELS)
    assert (truncated.logits - expected.logits)[:2].abs().max() > 0.01
    output.loss.backward()
    expected.loss.backward()
    for (parameter, value), of_plain in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (value.grad is None) == (of_plain.grad is None), parameter
        if value.grad is not None:
            scale = 1 + of_plain.grad.abs().max().item()
            torch.testing.assert_close(value.grad, of_plain.grad, rtol=1e-5, atol=1e-5 * scale)
    assert any(x.grad is not None and x.grad.any() for x in model.get_encoder().parameters())


def generated(model, inputs, mode):
    torch.manual_seed(3)
    return model.generate(**inputs, **STEPS, **MODES[mode])


ALL_MODES = [(name, mode) for name in ("t5", "bart") for mode in MODES]
SOME_MODES = [(name, mode) for name in SPECIAL if name not in ("t5", "bart") for mode in ("greedy", "beams")]


@pytest.mark.parametrize(("name", "mode"), ALL_MODES + SOME_MODES)
def test_generate(name, mode):
    model, plain, _ = lengthened_and_plain(name)
    # Prompt lookup supports one row.
    rows = rows_of(name)[: 1 if mode == "prompt lookup" else None]
    with torch.no_grad():
        given = of_loop(plain, name, rows)
        inputs = batch(rows)
        expected, output = generated(plain, given, mode), generated(model, inputs, mode)
        states = model.get_encoder()(**inputs)
        precomputed = generated(
            model, {"encoder_outputs": states, "attention_mask": inputs["attention_mask"]}, mode
        )
    assert torch.equal(output.sequences, expected.sequences)
    assert torch.equal(precomputed.sequences, expected.sequences)
    for ours, scores in zip(output.scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, scores, **CLOSE)


@pytest.mark.parametrize("name", ["t5", "bart", "t5gemma"])
def test_assisted_generation(name):
    """The assistant has an encoder of its own, which is lengthened too."""
    model, plain, _ = lengthened_and_plain(name)
    assistant, _, _ = lengthened_and_plain(name)
    with torch.no_grad():
        assistant.get_decoder().get_input_embeddings().weight.add_(0.1)
    rows = rows_of(name)[:1]
    with torch.no_grad():
        expected = plain.generate(**of_loop(plain, name, rows), **STEPS)
        output = model.generate(**batch(rows), **STEPS, assistant_model=assistant)
    assert torch.equal(output.sequences, expected.sequences)


@pytest.mark.parametrize("name", SPECIAL)
def test_rows_that_fit_one_chunk_are_as_before(name):
    model, plain, _ = lengthened_and_plain(name)
    for side in ("right", "left"):
        inputs = batch(rows_of(name, (CHUNK, 9)), side)
        with torch.no_grad():
            output, expected = (x(**inputs, labels=LABELS[:2]) for x in (model, plain))
            assert torch.equal(output.logits, expected.logits) and torch.equal(output.loss, expected.loss)
            assert torch.equal(*(x.generate(**inputs, max_new_tokens=6) for x in (model, plain)))


@pytest.mark.parametrize("name", ["t5", "t5gemma"])
def test_hidden_states_of_all_layers(name):
    model, _, _ = lengthened_and_plain(name)
    with torch.no_grad():
        output = model(**batch(rows_of(name)), labels=LABELS, output_hidden_states=True)
        sequences = model.generate(**batch(rows_of(name)), **STEPS, output_hidden_states=True)
    assert len(output.encoder_hidden_states) == len(sequences.encoder_hidden_states) == 3
    assert {tuple(x.shape) for x in output.encoder_hidden_states} == {(3, 90, 16)}
    assert torch.equal(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_embeddings_as_input(name):
    model, plain, _ = lengthened_and_plain(name)
    inputs = batch(rows_of(name))
    ids = inputs.pop("input_ids")
    scale = getattr(model.get_encoder(), "embed_scale", 1)  # Marian's encoder scales those of ids only
    inputs["inputs_embeds"] = model.get_encoder().get_input_embeddings()(ids) * scale
    lckernels.unlengthen(model)
    lckernels.lengthen(model, special_tokens=SPECIAL[name], chunk_len=CHUNK, prefix=None)
    with torch.no_grad():
        output = model(**inputs, labels=LABELS)
    expected = plain(**of_loop(plain, name, rows_of(name)), labels=LABELS)
    torch.testing.assert_close(output.logits, expected.logits, **CLOSE)


def test_special_tokens_are_asked_for():
    with pytest.raises(ValueError, match=r"special_tokens: got None without a tokenizer for T5For.*\(0, 1\)"):
        lckernels.lengthen(build("t5"), chunk_len=CHUNK)


@pytest.mark.parametrize("name", SPECIAL)
def test_the_limit_of_positions(name):
    model = build(name)
    options = {"special_tokens": SPECIAL[name]}
    if name in WITHOUT_POSITIONS:
        with pytest.raises(ValueError, match=r"chunk_len: got None; .* has no limit of positions"):
            lckernels.lengthen(model, **options)
        model.get_encoder().config.n_positions = 20  # as the configs of published T5 have it
        report = lckernels.lengthen(model, **options)
        assert (report.chunk_len, report.chunk_len_from) == (20, "n_positions of the config")
        return
    with pytest.raises(ValueError, match=rf"chunk_len: got {CHUNK + 1}; .* has {CHUNK} usable positions"):
        lckernels.lengthen(model, chunk_len=CHUNK + 1, **options)
    ids = row(CHUNK, SPECIAL[name])[None]
    assert model.get_encoder()(input_ids=ids).last_hidden_state.shape == (1, CHUNK, 16)  # so many there are


def test_a_decoder_that_reads_the_rows_too():
    """Those of T5 have no limit of positions; others raise."""
    ids = row(90, (0, 1))[None]
    for kind in ("SequenceClassification", "QuestionAnswering"):
        of_t5 = getattr(transformers, f"T5For{kind}")(build("t5").config).eval()
        lckernels.lengthen(of_t5, chunk_len=CHUNK, special_tokens=(0, 1))
        with torch.no_grad():
            assert of_t5(input_ids=ids)[0].isfinite().all()
        model = getattr(transformers, f"BartFor{kind}")(build("bart").config)
        with pytest.raises(TypeError, match=f"model: got BartFor{kind}, whose decoder reads each row too"):
            lckernels.lengthen(model, special_tokens=(1, 1))


def test_an_encoder_of_such_a_model_has_no_decoder():
    """UMT5's config is that of an encoder-decoder."""
    model = transformers.UMT5EncoderModel(build("umt5").config)
    assert lckernels.lengthen(model, chunk_len=CHUNK, special_tokens=(0, 1)).kind == "an encoder"
    lckernels.unlengthen(model)
    with pytest.raises(ValueError, match="joints: got UMT5EncoderModel, which no decoder reads"):
        lckernels.lengthen(model, chunk_len=CHUNK, special_tokens=(0, 1), joints=3)


@pytest.mark.parametrize("side", ["right", "left"])
def test_two_segments_are_found_under_padding(side):
    """The first segment of each row is read by each chunk, wherever its padding is."""
    model, plain, _ = lengthened_and_plain("bart")
    rows = rows_of("bart")
    leads = [6, 4, 1]
    for ids, lead in zip(rows, leads, strict=True):
        if lead > 1:
            ids[lead - 2 : lead] = 1
    states = [
        loop_states(plain.get_encoder(), ids, SPECIAL["bart"], lead=lead)
        for ids, lead in zip(rows, leads, strict=True)
    ]
    with torch.no_grad():
        output = model(**batch(rows, side), labels=LABELS)
        expected = plain(**encoder_outputs(states, side), labels=LABELS)
    torch.testing.assert_close(output.logits, expected.logits, **CLOSE)


def test_a_row_with_two_trailing_special_tokens_causes_no_warning(recwarn):
    """The id that the config has is that of the last but one, as in mBART's rows."""
    model, _, _ = lengthened_and_plain("mbart")
    with torch.no_grad():
        model(**batch(rows_of("mbart")), labels=LABELS)
        assert not [warning for warning in recwarn if "special tokens" in str(warning.message)]
        with pytest.warns(UserWarning, match="input_ids: got a row without special tokens"):
            model(input_ids=torch.full((1, 90), 9), labels=LABELS[:1])
