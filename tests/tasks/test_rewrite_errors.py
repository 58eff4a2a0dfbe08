"""Bad input of rewrite: one message with the argument, before the model runs."""

import pytest
import torch
from helpers.word_map import tokenizer, untrained

import lckernels
from lckernels.tasks import rewrite

transformers = pytest.importorskip("transformers")

TEXT = "River Mountain. Winter.\n"
SMALL = {
    "vocab_size": 59,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def model():
    return untrained().eval()


@pytest.fixture
def no_run(model, monkeypatch):
    """The model and its tokenizer; a run of the encoder fails the test."""
    monkeypatch.setattr(model.model.encoder, "forward", lambda *_, **__: pytest.fail("the model has run"))
    return model, tokenizer()


VALUES = {
    "task": ({"task": "summary"}, r"task: got 'summary'; allowed are 'translate' and 'summarize'"),
    "limit": ({"limit": 0}, r"limit: got 0; expected an int >= 1"),
    "batch": ({"batch": 0}, r"batch: got 0; expected an int >= 1"),
    "chunk_len": ({"chunk_len": 8}, r"chunk_len: got 8; expected at least 9, of which 1 are special tokens"),
    "long chunk_len": (
        {"chunk_len": 17},
        r"chunk_len: got 17; expected at most 16, the encoder's positions",
    ),
    "overlap": ({"overlap": 3}, r"overlap: got 3 for 'translate'; expected None; context_sentences is"),
    "sentences": ({"sentences_per_group": 0}, r"sentences_per_group: got 0; expected an int >= 1"),
    "context": ({"context_sentences": -1}, r"context_sentences: got -1; expected an int >= 0"),
    "language": ({"language": "English"}, r"language: got 'English'; expected an ISO 639 code"),
    "of summaries": (
        {"task": "summarize", "context_sentences": 1},
        r"context_sentences: got 1 for 'summarize'; expected it for task='translate' alone",
    ),
    "prefix": ({"prefix": "  "}, r"prefix: got '  '; expected a text with tokens, or None"),
    "src_lang": (
        {"src_lang": "en"},
        r"src_lang: got 'en' for .*; expected None, or a tokenizer with languages",
    ),
    "tgt_lang": (
        {"tgt_lang": "en"},
        r"tgt_lang: got 'en' for .*; expected None, or a tokenizer with languages",
    ),
    "encoder_outputs": ({"encoder_outputs": 1}, r"encoder_outputs: got a value; rewrite sets this argument"),
    "max_new_tokens": ({"max_new_tokens": 0}, r"max_new_tokens: got 0; expected an int >= 1"),
}


@pytest.mark.parametrize("options, message", VALUES.values(), ids=VALUES)
def test_values(no_run, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        rewrite(*no_run, TEXT, **options)


TYPES = {
    "wrapped": ({"wrapped": "yes"}, r"wrapped: got 'yes'; expected True or False"),
    "progress": ({"progress": 1}, r"progress: got 1; expected True or False"),
    "prefix": ({"prefix": [1]}, r"prefix: got list; expected a str or None"),
    "limit": ({"limit": 1.5}, r"limit: got 1.5; expected an int"),
}


@pytest.mark.parametrize("options, message", TYPES.values(), ids=TYPES)
def test_types(no_run, options, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        rewrite(*no_run, TEXT, **options)


def test_texts(no_run):
    with pytest.raises(ValueError, match=r"^text: got white space alone; expected a text"):
        rewrite(*no_run, " \n\u3000")
    with pytest.raises(ValueError, match=r"^text\[1\]: got an empty text"):
        rewrite(*no_run, [TEXT, ""], "summarize")
    with pytest.raises(TypeError, match=r"^text\[1\]: got int; expected a str"):
        rewrite(*no_run, [TEXT, 3])


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: transformers.BertModel(transformers.BertConfig(**SMALL)),
            "BertModel, without an encoder and a decoder",
        ),
        (
            lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
            "LlamaForCausalLM, without an encoder and a decoder",
        ),
        (lambda: untrained().model, "BartModel, without a head that generates"),
        (lambda: torch.nn.Linear(2, 2), "Linear, in which no encoder is found"),
    ],
)
@pytest.mark.parametrize("task", ["translate", "summarize"])
def test_models(make, message, task):
    with pytest.raises(TypeError, match=f"^model: got {message}; expected"):
        rewrite(make().eval(), tokenizer(), TEXT, task)


def test_a_model_that_reads_sound():
    config = transformers.WhisperConfig(
        vocab_size=59, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0, bos_token_id=2,
        eos_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with pytest.raises(
        TypeError, match=r"^model: got WhisperForConditionalGeneration, which reads no token ids"
    ):
        rewrite(model, tokenizer(), TEXT)


def test_the_state_of_a_model(model):
    with pytest.raises(ValueError, match=r"^model: got BartForConditionalGeneration in training mode"):
        rewrite(untrained().train(), tokenizer(), TEXT)
    with (
        lckernels.lengthened(model, tokenizer()),
        pytest.raises(ValueError, match=r"^overlap: got 2 for .*lengthened"),
    ):
        rewrite(model, tokenizer(), TEXT, "summarize", overlap=2)


def test_tokenizers(model):
    with pytest.raises(TypeError, match=r"^tokenizer: got NoneType; expected the model's"):
        rewrite(model, None, TEXT)
    with pytest.raises(TypeError, match=r"^tokenizer: got ByT5Tokenizer, without offsets"):
        rewrite(model, transformers.ByT5Tokenizer(), TEXT, "summarize")


def test_languages_of_a_tokenizer():
    from lckernels.tasks.rewriting.source_rows import SourceRows, language_id

    pieces = [*("<s>", "<pad>", "</s>", "<unk>"), "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    nllb = transformers.NllbTokenizer(
        vocab={x: i for i, x in enumerate(pieces)}, merges=[], src_lang="eng_Latn"
    )
    assert language_id(nllb, "tgt_lang", "fra_Latn") == nllb.convert_tokens_to_ids("fra_Latn")
    for code in ("fr", "</s>", "a", 3):
        with pytest.raises(
            ValueError, match=r"^tgt_lang: got .*; expected a language's code of NllbTokenizer"
        ):
            language_id(nllb, "tgt_lang", code)
    english = nllb.convert_tokens_to_ids("eng_Latn")
    row = SourceRows(nllb, "NLLB").row([7], context=[8, 9])
    assert (row.ids, row.context) == ([english, 8, 9, 7, nllb.eos_token_id], (1, 3))
