"""Bad input of `answer`: one sentence that names the argument, before the text is read."""

from pathlib import Path

import pytest
import torch
from helpers.encoder_models import CLS, PAD, SEP, VOCAB, WIDE
from helpers.head_models import head_model
from helpers.row_models import make_rows_model
from helpers.word_tokenizer import word_tokenizer, words
from tokenizers import processors

import lckernels
from lckernels.tasks import answer

transformers = pytest.importorskip("transformers")

QUESTION, TEXT = "w7 w9", words(60)
XLM = {"vocab_size": 60, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "embed_init_std": 0.2, "init_std": 0.2}


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def model():
    return head_model("bert", "QuestionAnswering")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"question": ""}, ValueError, "question: got an empty text; expected a text"),
        ({"question": " \n"}, ValueError, "question: got white space alone; expected a text"),
        ({"question": 7}, TypeError, "question: got int; expected a str, or a list of them"),
        ({"question": ["w7", ""]}, ValueError, r"question\[1\]: got an empty text"),
        ({"text": "  "}, ValueError, "text: got white space alone; expected a text"),
        ({"text": [TEXT, None]}, TypeError, r"text\[1\]: got NoneType; expected a str"),
        ({"text": Path("book.txt")}, TypeError, r"expected a str, or a list of them, such as path.read_text"),
        ({"text": [[5, 6]]}, TypeError, r"text\[0\]: got list; .*: the characters, not token ids"),
        ({"text": b"bytes"}, TypeError, "text: got bytes; expected a str, or a list of them"),
        (
            {"question": ["w7", "w8", "w9"], "text": [TEXT, TEXT]},
            ValueError,
            "question: got 3 questions; expected one, or one for each of 2 texts",
        ),
        ({"top_k": 0}, ValueError, "top_k: got 0; expected an int >= 1"),
        ({"top_k": 2.0}, TypeError, "top_k: got 2.0; expected an int"),
        ({"max_answer_tokens": 0}, ValueError, "max_answer_tokens: got 0; expected an int >= 1"),
        ({"no_answer": 1}, TypeError, "no_answer: got 1; expected True or False"),
        ({"batch": 0}, ValueError, "batch: got 0"),
        ({"limit": 0}, ValueError, "limit: got 0"),
        ({"chunk_len": 100}, ValueError, "chunk_len: got 100; BertModel has 32 usable positions"),
    ],
)
def test_arguments(arguments, error, message, model, tokenizer):
    with pytest.raises(error, match=message):
        answer(model, tokenizer, **{"question": QUESTION, "text": TEXT, **arguments})


def test_a_question_without_room_in_a_chunk(model, tokenizer):
    message = "question: got 34 tokens, special tokens included; a chunk of 32 tokens has room for 31 beside"
    with pytest.raises(ValueError, match=message):
        answer(model, tokenizer, words(31), TEXT)
    with pytest.raises(ValueError, match=message):  # not the text as what every chunk reads
        answer(model, tokenizer, words(31), "w8")
    message = r"question\[1\]: got 23 tokens, .*; a chunk of 32 tokens that shares 10 has room for 21 beside"
    with pytest.raises(ValueError, match=message):
        answer(model, tokenizer, ["w7", words(20)], TEXT, overlap=10)
    assert answer(model, tokenizer, words(18), TEXT, overlap=10).coverage == 1
    assert answer(model, tokenizer, words(25), "w8 w9", overlap=10).num_tokens == 2  # one chunk


def test_models_without_such_a_head(tokenizer):
    for head in ("TokenClassification", "SequenceClassification", "MaskedLM"):
        with pytest.raises(TypeError, match="without a head for question answering; expected one as AutoMod"):
            answer(head_model("bert", head), tokenizer, QUESTION, TEXT)
    sizes = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    }
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=VOCAB, **sizes)).eval()
    with pytest.raises(TypeError, match="T5ForConditionalGeneration, without a head for question answering"):
        answer(t5, tokenizer, QUESTION, TEXT)
    with pytest.raises(TypeError, match="model: got str; expected a model"):
        answer("a model", tokenizer, QUESTION, TEXT)


@pytest.mark.parametrize("family", ["xlnet", "xlm"])
def test_heads_with_a_beam(family, tokenizer):
    """They read the last state of a row, and return start_top_log_probs."""
    if family == "xlnet":
        model = transformers.XLNetForQuestionAnswering(make_rows_model("xlnet").config)
    else:
        model = transformers.XLMForQuestionAnswering(transformers.XLMConfig(**XLM))
    message = f"model: got {type(model).__name__}, whose head reads the last state of a row"
    with pytest.raises(TypeError, match=message):
        answer(model.eval(), tokenizer, QUESTION, TEXT, chunk_len=32)


def test_longformer_whose_head_makes_the_question_global():
    """It counts the separators of a row, three of them, and reads texts of one chunk."""
    tokenizer = word_tokenizer(64)
    ends = [("[CLS]", CLS), ("[SEP]", SEP)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ends
    )
    sizes = {**WIDE, "vocab_size": VOCAB, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LongformerConfig(
        **sizes, max_position_embeddings=66, attention_window=16, pad_token_id=PAD, sep_token_id=SEP
    )
    torch.manual_seed(0)
    model = transformers.LongformerForQuestionAnswering(config).eval()
    assert answer(model, tokenizer, QUESTION, words(50)).num_tokens == 50
    with pytest.raises(ValueError, match="global_attention_mask: got Tensor; a row longer than a chunk does"):
        answer(model, tokenizer, QUESTION, words(70))


def test_a_model_in_training_mode_and_a_slow_tokenizer(model, tokenizer):
    with pytest.raises(ValueError, match="model: got BertForQuestionAnswering in training mode"):
        answer(head_model("bert", "QuestionAnswering").train(), tokenizer, QUESTION, TEXT)
    with pytest.raises(TypeError, match="tokenizer: got None; expected the model's fast tokenizer"):
        answer(model, None, QUESTION, TEXT)


def test_a_lengthened_model_whose_chunks_do_not_read_the_question(tokenizer):
    model = head_model("bert", "QuestionAnswering")
    with lckernels.lengthened(model, tokenizer, prefix=None):
        with pytest.raises(
            ValueError, match="model: got BertForQuestionAnswering, lengthened with another pre"
        ):
            answer(model, tokenizer, QUESTION, TEXT)
        assert answer(model, tokenizer, QUESTION, "w7 w8").num_tokens == 2


@pytest.mark.parametrize(("value", "name"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_scores_that_are_no_numbers(value, name, tokenizer):
    model = head_model("bert", "QuestionAnswering")
    with torch.no_grad():
        model.qa_outputs.bias[1] = value
    message = rf"model: got the score {name} of end at token 0 of text; expected finite scores"
    with pytest.raises(ValueError, match=message):
        answer(model, tokenizer, QUESTION, TEXT)
