"""LongEncoder's options: their types, reading them, and loading and saving with them."""

import json

import numpy
import pytest
import torch
import transformers
from helpers.encoder_models import tiny, token_ids

import lckernels
from lckernels.long.checkpoints import max_seq_length


def test_options_are_readable():
    encoder = lckernels.LongEncoder(tiny(), 20, 6, "hann", "max_context", prefix=[7, 8], max_tokens=100)
    assert (encoder.chunk_len, encoder.overlap, encoder.boundaries) == (20, 6, "max_context")
    assert (encoder.weights, encoder.special_tokens, encoder.merge) == ("hann", (1, 1), "final")
    with pytest.raises(AttributeError):
        encoder.chunk_len = 10


@pytest.mark.parametrize("merge", ["final", "layer"])
def test_options_restore_a_saved_encoder(tmp_path, merge):
    encoder = lckernels.LongEncoder(
        tiny(), 20, 6, "hann", "max_context", special_tokens=(1, 2), prefix=[7, 8], merge=merge, max_tokens=99
    )
    encoder.save_pretrained(tmp_path)
    stored = json.loads(json.dumps(encoder.options))
    again = lckernels.LongEncoder.from_pretrained(tmp_path, **stored)
    assert again.options == encoder.options
    ids = token_ids(70)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).last_hidden_state, encoder(ids).last_hidden_state)


@pytest.mark.parametrize("argument", ["chunk_len", "overlap", "max_tokens"])
@pytest.mark.parametrize("value", [0.25, "4", 4.0, True])
def test_sizes_are_integers(argument, value):
    with pytest.raises(TypeError, match=f"{argument}: got {value!r}; expected an int"):
        lckernels.LongEncoder(tiny(), **{argument: value})


@pytest.mark.parametrize("argument", ["recompute", "progress"])
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_switches_are_bools(argument, value):
    with pytest.raises(TypeError, match=f"{argument}: got {value!r}; expected True or False"):
        lckernels.LongEncoder(tiny(), **{argument: value})
    model = tiny()
    with pytest.raises(TypeError, match=f"{argument}: got {value!r}; expected True or False"):
        lckernels.lengthen(model, **{argument: value})
    lckernels.lengthen(model)


def test_sizes_of_numpy():
    encoder = lckernels.LongEncoder(
        tiny(),
        numpy.int64(20),
        numpy.int32(6),
        special_tokens=(numpy.uint8(1), numpy.int16(1)),
        prefix=numpy.array([7, 8], dtype=numpy.int32),
        max_tokens=numpy.int64(99),
    )
    expected = lckernels.LongEncoder(tiny(), 20, 6, prefix=[7, 8], max_tokens=99)
    assert json.dumps(encoder.options) == json.dumps(expected.options)
    assert encoder.num_chunks(numpy.int64(50)) == encoder.num_chunks(50)
    assert encoder.explain(numpy.int64(50)) == encoder.explain(50)


def test_arguments_of_the_model(tmp_path):
    tiny().save_pretrained(tmp_path)
    by_name = lckernels.LongEncoder.from_pretrained(tmp_path, chunk_len=20, dtype=torch.bfloat16)
    by_dict = lckernels.LongEncoder.from_pretrained(
        tmp_path, model_kwargs={"dtype": torch.bfloat16}, chunk_len=20
    )
    for encoder in (by_name, by_dict):
        assert encoder.dtype == torch.bfloat16
        assert encoder.chunk_len == 20
    with pytest.raises(TypeError, match=r"^chunk_length: got an unknown argument; .*chunk_len"):
        lckernels.LongEncoder.from_pretrained(tmp_path, chunk_length=20)


def test_a_dropped_task_head_is_warned_of(tmp_path, recwarn):
    config = tiny().config
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    with pytest.warns(
        UserWarning, match=r"was saved from BertForSequenceClassification; its task head is not"
    ):
        lckernels.LongEncoder.from_pretrained(tmp_path / "classifier")
    recwarn.clear()
    for name, model in (("plain", tiny()), ("pretrained", transformers.BertForMaskedLM(config))):
        model.save_pretrained(tmp_path / name)
        lckernels.LongEncoder.from_pretrained(tmp_path / name)
    assert not [warning for warning in recwarn if "task head" in str(warning.message)]


def test_explain_names_the_limit_stored_with_the_model(tmp_path):
    tiny().save_pretrained(tmp_path)
    plain = lckernels.LongEncoder.from_pretrained(tmp_path).explain(100)
    assert plain.max_seq_length is None
    assert "max_seq_length" not in str(plain)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    encoder = lckernels.LongEncoder.from_pretrained(tmp_path)
    assert encoder.chunk_len == 32
    assert encoder.explain(100).max_seq_length == 16
    note = "sentence_bert_config.json has max_seq_length 16, chunk_len is 32"
    assert note in str(encoder.explain(100))
    assert note not in str(lckernels.LongEncoder.from_pretrained(tmp_path, chunk_len=16).explain(100))


def test_the_limit_of_a_cached_model_of_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    repository = tmp_path / "models--team--encoder"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert max_seq_length("team/encoder") == 16
    assert max_seq_length("team/other") is None


def test_a_damaged_limit_is_none(tmp_path):
    tiny().save_pretrained(tmp_path)
    for content in ("{", "[]", '{"max_seq_length": "many"}', "{}"):
        (tmp_path / "sentence_bert_config.json").write_text(content)
        assert lckernels.LongEncoder.from_pretrained(tmp_path).explain(100).max_seq_length is None
