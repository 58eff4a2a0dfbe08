"""What `lengthen` and the calls of a lengthened model do not support: each has its message."""

import pytest
import torch
from helpers.encoder_models import SIZES, WIDE, pad, tiny, token_ids
from helpers.head_models import encoder_of, head_model
from helpers.row_models import make_rows_model

import lckernels
from lckernels.inner_forward import INNER

transformers = pytest.importorskip("transformers")

CHUNK = 32
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
XLM = {"vocab_size": 60, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "embed_init_std": 0.2, "init_std": 0.2}
CLIP = {**SIZES, **WIDE, "max_position_embeddings": 32, "bos_token_id": 3, "eos_token_id": 4}


def build(model, config, **sizes):
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()


def of_rows_model(head, name, **options):
    """A model with a head on the config of `make_rows_model`."""
    model = make_rows_model(name, **options)
    torch.manual_seed(0)
    return getattr(transformers, head)(model.config).eval()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of_rows_model("LlamaForCausalLM", "llama"), "LlamaModel, a decoder, with causal attention"),
        (lambda: of_rows_model("LlamaForTokenClassification", "llama"), "LlamaModel, a decoder, with causal"),
        (lambda: make_rows_model("mistral"), "MistralModel, a decoder, with causal attention"),
        (
            lambda: build("GPT2LMHeadModel", "GPT2Config", n_embd=16, n_head=2, n_layer=1, vocab_size=60),
            "GPT2Model, a decoder, with causal attention",
        ),
    ],
)
def test_a_decoder(make, message):
    hint = r"expected an encoder; a decoder reads long input with lckernels.patch\(model, window=...\)"
    with pytest.raises(TypeError, match=f"model: got {message}.*; {hint}"):
        lckernels.lengthen(make(), chunk_len=CHUNK)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: torch.nn.Linear(2, 2),
            "got Linear, in which no encoder is found; expected a model of trans",
        ),
        (lambda: "bert-base-uncased", "got str; expected a model, as from_pretrained of transformers"),
        (lambda: transformers.BertModel, "got the class BertModel; expected a model"),
        (lambda: lckernels.LongEncoder(tiny()), "got LongEncoder, in which no encoder is found"),
        (
            lambda: torch.nn.ModuleDict({"encoder": tiny(), "head": torch.nn.Linear(16, 2)}),
            r"got ModuleDict, in which no encoder is found; .*; pass the one in it, encoder \(BertModel\)",
        ),
        (
            lambda: build("ViTForImageClassification", "ViTConfig", **VISION),
            "got ViTModel, whose input is pixel_values; expected an encoder whose input is input_ids or",
        ),
        (
            lambda: of_rows_model("FunnelForSequenceClassification", "funnel"),
            "got FunnelBaseModel, which returns 6 states for 11 tokens; expected one state per token",
        ),
    ],
)
def test_a_model_without_an_encoder_of_tokens(make, message):
    with pytest.raises(TypeError, match=f"model: {message}"):
        lckernels.lengthen(make(), chunk_len=CHUNK, prefix=None)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        # [CLS] is the last token.
        (lambda: of_rows_model("XLNetForSequenceClassification", "xlnet"), "the last state of a row"),
        (lambda: of_rows_model("XLNetForMultipleChoice", "xlnet"), "the last state of a row"),
        # Whether there is an answer: the last state, and a mean of the others.
        (lambda: of_rows_model("XLNetForQuestionAnswering", "xlnet"), "the last state of a row"),
        (lambda: build("XLMForQuestionAnswering", "XLMConfig", **XLM), "the last state of a row"),
        # Its config has no summary_type, which means the last column.
        (lambda: of_rows_model("ConvBertForMultipleChoice", "convbert"), "the last state of a row"),
        # The last token that is not padding.
        (
            lambda: of_rows_model("LlamaForSequenceClassification", "llama", is_causal=False),
            "the last state of a row",
        ),
        # The pooler reads the states of every fourth character.
        (lambda: of_rows_model("CanineForSequenceClassification", "canine"), "pooler_output, which CanineM"),
        (lambda: of_rows_model("CanineForMultipleChoice", "canine"), "pooler_output, which CanineModel"),
        # The state of the end of a text.
        (lambda: build("CLIPTextModelWithProjection", "CLIPTextConfig", **CLIP), "pooler_output, which CLIP"),
    ],
)
def test_a_head_that_reads_what_merged_states_lack(make, what):
    model = make()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    with pytest.raises(TypeError, match=f"model: got {type(model).__name__}, whose head reads {what}"):
        lckernels.lengthen(model, chunk_len=CHUNK, prefix=None)
    assert {name: dict(module.__dict__) for name, module in model.named_modules()} == before


@pytest.mark.parametrize(
    ("head", "name", "options"),
    [
        ("XLNetForTokenClassification", "xlnet", {}),
        ("XLNetForQuestionAnsweringSimple", "xlnet", {}),
        ("XLNetForSequenceClassification", "xlnet", {"summary_type": "first"}),
        ("XLNetForSequenceClassification", "xlnet", {"summary_type": "mean"}),
        ("ConvBertForMultipleChoice", "convbert", {"summary_type": "first"}),
        ("LlamaForTokenClassification", "llama", {"is_causal": False}),
        ("CanineForTokenClassification", "canine", {}),
        ("FunnelForTokenClassification", "funnel", {}),
        ("FNetForNextSentencePrediction", "fnet", {}),
    ],
)
def test_heads_of_these_models_that_read_merged_states(head, name, options):
    model = of_rows_model(head, name, **options)
    lckernels.lengthen(model, chunk_len=CHUNK, prefix=None)
    ids = token_ids(70)[None]
    with torch.no_grad():
        output = model(ids[None] if "Choice" in head else ids)
    assert next(iter(output.values())).isfinite().all()


def row(length=70, rows=1):
    return torch.stack([token_ids(length, seed) for seed in range(rows)])


@pytest.mark.parametrize("head", ["TokenClassification", "SequenceClassification", "MaskedLM"])
def test_attention_weights_of_a_longer_row(head):
    model = head_model("bert", head)
    model.set_attn_implementation("eager")
    lckernels.lengthen(model)
    message = "does not support it: each chunk has attention weights of its own"
    with pytest.raises(ValueError, match=f"output_attentions: got bool; a row longer than a chunk {message}"):
        model(row(), output_attentions=True)
    assert len(model(row(20), output_attentions=True).attentions) == 2
    model.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions: got True in the config; a row longer than a"):
        model(row())
    assert model(row(), output_attentions=False).attentions is None
    assert len(model(row(20)).attentions) == 2


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("position_ids", torch.arange(70)[None], ": each chunk has the positions from the first on"),
        ("encoder_hidden_states", torch.zeros(1, 3, 16), ""),
    ],
)
def test_other_arguments_of_a_longer_row(name, value, why):
    bert = encoder_of(head_model("bert", "TokenClassification"))
    lckernels.lengthen(bert)
    with pytest.raises(
        ValueError, match=f"{name}: got Tensor; a row longer than a chunk does not support it{why}$"
    ):
        bert(row(), **{name: value})


def test_global_attention_of_longformer():
    model = build(
        "LongformerForSequenceClassification", "LongformerConfig", **SIZES, **WIDE, attention_window=8,
        max_position_embeddings=66, sep_token_id=4,
    )  # fmt: skip
    lckernels.lengthen(model)
    with pytest.raises(ValueError, match="global_attention_mask: got Tensor; a row longer than a chunk does"):
        model(row())


def test_lengthened_already():
    model = head_model("bert", "TokenClassification")
    lckernels.lengthen(model)
    for again in (model, model.bert):
        with pytest.raises(ValueError, match=f"model: got {type(again).__name__}, lengthened already; call"):
            lckernels.lengthen(again)
    message = "model: got BertModel, lengthened: it reads rows of any length; call lckernels.unlengthen"
    with pytest.raises(ValueError, match=message):
        lckernels.LongEncoder(model.bert)
    lckernels.unlengthen(model.bert)
    with pytest.raises(ValueError, match="model: got BertForTokenClassification, not lengthened"):
        lckernels.unlengthen(model)
    lckernels.LongEncoder(model.bert)


def test_a_prefix_longer_than_a_chunk():
    model = head_model("bert", "QuestionAnswering")
    with pytest.raises(
        ValueError, match=r"chunk_len: got 32; expected room for content beside 1 \+ 1 special tokens and a"
    ):
        lckernels.lengthen(model, prefix=[7] * 30)
    assert INNER not in model.bert.__dict__
    lckernels.lengthen(model)
    types = torch.zeros(2, 110, dtype=torch.long)
    types[0, 10:], types[1, 40:] = 1, 1
    with pytest.raises(
        ValueError,
        match="prefix: got a first segment of 40 tokens in row 1; a chunk of 32 tokens has room for 30",
    ):
        model(row(110, rows=2), token_type_ids=types)
    assert model(row(110, rows=2)[:1], token_type_ids=types[:1]).start_logits.shape == (1, 110)


def test_a_pair_without_separators():
    model = head_model("distilbert", "QuestionAnswering")
    model.config.sep_token_id = None
    message = (
        "'pair' for DistilBertModel, which has no token types and no id of a separator; pass a tokenizer"
    )
    with pytest.raises(ValueError, match=f"prefix: got {message}"):
        lckernels.lengthen(model)
    lckernels.lengthen(model, prefix=None)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("prefix", ["pair", None, [7, 8]])
def test_padding_on_the_left_and_inside(family, prefix):
    model = head_model(family, "SequenceClassification")
    lckernels.lengthen(model, prefix=prefix)
    rows = [token_ids(70), token_ids(50)]
    ids, mask = pad(rows, "left")
    with pytest.raises(
        ValueError, match="attention_mask: got padding on the left in row 1; expected padding on"
    ):
        model(ids, attention_mask=mask)
    ids, mask = pad(rows, "right")
    mask[1, 30] = 0
    with pytest.raises(
        ValueError, match="attention_mask: got row 1 with padding in the middle, at column 30"
    ):
        model(ids, attention_mask=mask)
    mask[1] = 0
    with pytest.raises(ValueError, match="attention_mask: got row 1 with padding only"):
        model(ids, attention_mask=mask)


def test_embeddings_of_pairs():
    model = head_model("bert", "TokenClassification")
    embeds = model.get_input_embeddings()(row())
    lckernels.lengthen(model)
    message = "inputs_embeds: got no input_ids; prefix='pair' requires ids or token types; use prefix=None"
    with pytest.raises(ValueError, match=message):
        model(inputs_embeds=embeds)
    types = torch.zeros(1, 70, dtype=torch.long)
    types[:, 9:] = 1
    logits = model(inputs_embeds=embeds, token_type_ids=types).logits
    torch.testing.assert_close(logits, model(row(), token_type_ids=types).logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_len": 33}, "chunk_len: got 33; BertModel has 32 usable positions"),
        ({"overlap": 30}, "overlap: got 30; expected 0 <= overlap < 30"),
        ({"weights": "linear"}, "weights: got 'linear'; allowed are uniform, triangular, hann, crop"),
        ({"boundaries": "sentence"}, "boundaries: got 'sentence'; allowed are 'sled' and 'max_context'"),
        ({"special_tokens": 1}, r"special_tokens: got 1; expected \(leading, trailing\)"),
        ({"prefix": "a question"}, "prefix: got 'a question'; a text requires a tokenizer"),
        ({"prefix": [70]}, "prefix: got token id 70; the model's embedding has the ids 0 to 59"),
        ({"summary": "last"}, "summary: got 'last'; allowed are mean, first"),
        ({"merge": "layer"}, "summary: got 'mean'; merge='layer' supports 'first'"),
        ({"attention": "flash"}, "attention: got 'flash'; allowed are auto, lckernels, model"),
        ({"max_tokens": 0}, "max_tokens: got 0"),
    ],
)
def test_invalid_options_change_nothing(options, message):
    model = head_model("bert", "TokenClassification")
    before = dict(model.bert.__dict__)
    with pytest.raises(ValueError, match=message):
        lckernels.lengthen(model, **options)
    assert dict(model.bert.__dict__) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizer": "bert-base-uncased"}, "tokenizer: got str; expected a tokenizer of transformers, as"),
        ({"tokenizer": 32}, "tokenizer: got int; expected a tokenizer of transformers, as"),
        ({"prefix": 7}, "prefix: got 7; expected 'pair', token ids, a text or None"),
    ],
)
def test_arguments_of_another_type(arguments, message):
    model = head_model("bert", "TokenClassification")
    with pytest.raises(TypeError, match=message):
        lckernels.lengthen(model, **arguments)
    assert INNER not in model.bert.__dict__


class Pipeline:
    """As a pipeline of transformers, which is no module and has one."""

    model = torch.nn.Linear(2, 2)


def test_a_pipeline():
    with pytest.raises(TypeError, match=r"model: got Pipeline; .*; pass its \.model and its \.tokenizer"):
        lckernels.lengthen(Pipeline())


@pytest.mark.parametrize(
    "rows", ["a text", [[5, 6, 7]], transformers.BatchEncoding({"input_ids": torch.ones(1, 70).long()})]
)
def test_rows_that_are_no_tensor(rows):
    model = head_model("bert", "TokenClassification")
    lckernels.lengthen(model)
    got = type(rows).__name__
    with pytest.raises(TypeError, match=rf"input_ids: got {got}; expected a tensor \(batch, seqlen\)"):
        model(rows)


def test_pairs_with_merge_layer():
    model = head_model("bert", "QuestionAnswering").float()
    lckernels.lengthen(model, merge="layer", summary="first")
    types = torch.zeros(1, 70, dtype=torch.long)
    types[:, 9:] = 1
    with pytest.raises(
        ValueError, match="prefix: got two segments in row 0; merge='layer' supports rows of one"
    ):
        model(row(), token_type_ids=types)
    assert model(row()).start_logits.shape == (1, 70)


def test_rows_with_and_without_the_prefix():
    model = head_model("bert", "TokenClassification")
    lckernels.lengthen(model, prefix=[7, 8])
    ids = row(rows=2)
    ids[0, 1:3] = torch.tensor([7, 8])
    with pytest.raises(
        ValueError, match="input_ids: got row 1 without the prefix; other rows of the batch begin"
    ):
        model(ids)
