"""The errors of LongEncoder and their messages."""

import sys

import numpy
import pytest
import torch
import transformers  # without transformers, encoder_models skips this module
from helpers.encoder_models import tiny, token_ids

import lckernels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"chunk_len": 33},
            r"chunk_len: got 33; BertModel has 32 usable positions \(max_position_embeddings 32\)",
        ),
        (
            {"chunk_len": 20, "overlap": 18},
            "overlap: got 18; expected 0 <= overlap < 18, the content of a chunk of 20",
        ),
        ({"overlap": -1}, "overlap: got -1; expected 0 <= overlap"),
        ({"chunk_len": 2}, "chunk_len: got 2; expected room for content beside 1 \\+ 1 special tokens"),
        ({"weights": "cosine"}, "weights: got 'cosine'; allowed are uniform, triangular, hann, crop"),
        ({"boundaries": "words"}, "boundaries: got 'words'; allowed are sled, max_context, sentence"),
        ({"special_tokens": (1, -1)}, r"special_tokens\[1\]: got -1; expected an int >= 0"),
        ({"special_tokens": 1}, r"special_tokens: got 1; expected \(leading, trailing\), both >= 0$"),
        (
            {"weights": [1.0] * 40},
            "weights: got list; allowed are uniform, .*, a tensor, a function of the plan",
        ),
        ({"max_tokens": 0}, "max_tokens: got 0; expected an int >= 1"),
        (
            {"weights": numpy.ones((2, 3))},
            "weights: got ndarray; allowed are uniform, .*, a tensor, a function of the plan",
        ),
        ({"weights": torch.ones(3)}, r"weights: got shape \(3,\) of torch.float32; expected \(num_chunks, "),
        ({"weights": torch.ones(2, 3, dtype=torch.int64)}, r"weights: got shape \(2, 3\) of torch.int64"),
        ({"output_device": "gpu"}, "output_device: got 'gpu'; expected a torch.device, or its name"),
        ({"prefix": [7, 500]}, "prefix: got token id 500; the model's embedding has the ids 0 to 59"),
        ({"prefix": [-1]}, "prefix: got token id -1; the model's embedding has the ids 0 to 59"),
    ],
)
def test_sizes_that_do_not_fit_the_model(arguments, message):
    with pytest.raises(ValueError, match=message):
        lckernels.LongEncoder(tiny(), **arguments)


def test_padding_offset_counts_as_no_position():
    with pytest.raises(
        ValueError, match=r"33; RobertaModel has 32 .*\(max_position_embeddings 34 - padding_idx 1 - 1\)"
    ):
        lckernels.LongEncoder(tiny("roberta"), 33)


def call_with(**arguments):
    inputs = {"input_ids": torch.stack([token_ids(40), token_ids(40, 1)]), **arguments}
    return lambda: lckernels.LongEncoder(tiny(), 20)(**inputs)


HOLE = torch.ones(2, 40)
HOLE[1, 7] = 0
EMPTY = torch.ones(2, 40)
EMPTY[1] = 0
ALMOST = EMPTY.clone()
ALMOST[1, 0] = 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (call_with(attention_mask=EMPTY), "attention_mask: got row 1 with padding only, an empty sequence"),
        (call_with(attention_mask=HOLE), "attention_mask: got row 1 with padding in the middle, at column 7"),
        (
            call_with(attention_mask=ALMOST),
            "input_ids: got row 1 with 1 tokens; expected at least the 2 special tokens",
        ),
        (call_with(attention_mask=torch.ones(2, 39)), r"attention_mask: got shape \(2, 39\); input_ids has"),
        (call_with(attention_mask=HOLE - 1), "attention_mask: got values beside 0 and 1"),
        (call_with(token_type_ids=torch.zeros(2, 3)), r"token_type_ids: got shape \(2, 3\)"),
        (
            call_with(input_ids=torch.zeros(2, 40)),
            "input_ids: got dtype torch.float32; expected integers",
        ),
        (
            call_with(input_ids=torch.full((2, 40), 999)),
            "input_ids: got token id 999 in row 0; the model's",
        ),
        (
            call_with(input_ids=torch.full((2, 40), -1)),
            "input_ids: got token id -1 in row 0; the model's",
        ),
        (call_with(input_ids=None), "input_ids, inputs_embeds: got neither"),
        (call_with(inputs_embeds=torch.zeros(2, 40, 16)), "input_ids, inputs_embeds: got both"),
        (
            call_with(input_ids=None, inputs_embeds=torch.zeros(2, 40, 8)),
            r"inputs_embeds: got shape \(2, 40, 8\); the model's embeddings have 16 values",
        ),
        (
            call_with(input_ids=token_ids(5)),
            r"input_ids: got shape \(5,\); expected \(batch, seqlen\), not empty",
        ),
        (call_with(input_ids=token_ids(5)[None, :0]), r"input_ids: got shape \(1, 0\)"),
        (
            call_with(position_ids=torch.zeros(2, 40)),
            "position_ids: got Tensor; LongEncoder does not support it",
        ),
        (
            call_with(sentence_boundaries=[[1], [2]]),
            "sentence_boundaries: got 2 lists; expected None with boundaries='sled'",
        ),
    ],
)
def test_bad_input_of_a_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sentence_rule_needs_boundaries():
    encoder = lckernels.LongEncoder(tiny(), 20, boundaries="sentence")
    with pytest.raises(ValueError, match="sentence_boundaries: got None; expected one list per row"):
        encoder(token_ids(40)[None])
    with pytest.raises(ValueError, match="sentence_boundaries: got 2 lists; input has 1 rows"):
        encoder(token_ids(40)[None], sentence_boundaries=[[3], [4]])


def test_models_without_encoder_states():
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    with pytest.raises(TypeError, match="model: got GPT2Model, a decoder"):
        lckernels.LongEncoder(gpt2)
    t5 = transformers.T5Model(
        transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)
    )
    with pytest.raises(TypeError, match=r"model: got T5Model, encoder and decoder; .* model.get_encoder\(\)"):
        lckernels.LongEncoder(t5)
    with pytest.raises(ValueError, match="chunk_len: got None; T5Stack has no limit of positions"):
        lckernels.LongEncoder(t5.get_encoder())
    with pytest.raises(TypeError, match="model: got Linear; expected an encoder"):
        lckernels.LongEncoder(torch.nn.Linear(2, 2))


class WithHead(torch.nn.Module):
    """A task head that only the output reveals: class and attributes have other names than transformers'."""

    def __init__(self):
        super().__init__()
        self.inner = transformers.BertForMaskedLM(tiny().config)
        self.config = self.inner.config

    def forward(self, **inputs):
        return self.inner(**inputs)


def test_models_with_a_task_head():
    head = transformers.BertForMaskedLM(tiny().config)
    with pytest.raises(
        TypeError, match=r"got BertForMaskedLM, a model with a task head; pass its encoder, model\.bert$"
    ):
        lckernels.LongEncoder(head)
    lckernels.LongEncoder(head.bert)
    with pytest.raises(TypeError, match="WithHead returned MaskedLMOutput, which has no last_hidden_state"):
        lckernels.LongEncoder(WithHead())(token_ids(40)[None])


@pytest.mark.parametrize("seqlen", ["20", 2.5, [[20]]])
def test_lengths_that_are_no_integers(seqlen):
    encoder = lckernels.LongEncoder(tiny(), 20)
    message = "seqlen: got .*; expected an int or a sequence of integers, numbers of tokens$"
    with pytest.raises(ValueError, match=message):
        encoder.explain(seqlen)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/folder", "the model folder /no/such/folder does not exist$"),
        ("./nothing", "the model folder ./nothing does not exist$"),
        (
            __file__,
            "test_long_encoder_errors.py is a file; expected a folder or a name on the Hugging Face hub",
        ),
    ],
)
def test_paths_that_hold_no_model(path, message):
    with pytest.raises(ValueError, match=message):
        lckernels.LongEncoder.from_pretrained(path)


def test_padding_may_have_any_token_id():
    ids, mask = torch.stack([token_ids(40), token_ids(40, 1)]), torch.ones(2, 40)
    mask[1, 30:] = 0
    expected = lckernels.LongEncoder(tiny(), 20)(ids, mask).last_hidden_state
    ids[1, 30:] = -100
    assert torch.equal(lckernels.LongEncoder(tiny(), 20)(ids, mask).last_hidden_state, expected)


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"this needs transformers, .* pip install 'lckernels\[hf\]'"):
        lckernels.LongEncoder.from_pretrained("nowhere")
