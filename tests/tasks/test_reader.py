"""DocumentReader: outputs are those of the lengthened model, each document's in its place; its errors."""

import pytest
import torch
from helpers.head_models import head_model
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.long.parts import find_parts
from lckernels.tasks.reader import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    DocumentReader,
)

transformers = pytest.importorskip("transformers")

TEXTS = [words(10), words(200), words(25, 1), words(70)]
HEADS = {
    "QuestionAnswering": QUESTION_ANSWERING,
    "TokenClassification": TOKEN_CLASSIFICATION,
    "SequenceClassification": SEQUENCE_CLASSIFICATION,
}


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "deberta_v2"])
@pytest.mark.parametrize("head", HEADS)
def test_each_document_has_the_output_that_it_has_alone(family, head, tokenizer):
    model = head_model(family, head)
    reader = DocumentReader(model, tokenizer, HEADS[head], batch=3)
    documents = reader.documents(TEXTS, first="w5 w6")
    read = {document.index: (output, row) for document, output, row in reader.read(documents)}
    assert sorted(read) == [0, 1, 2, 3]
    inputs = {
        "return_tensors": "pt",
        "return_token_type_ids": family in ("bert", "deberta_v2"),
        "verbose": False,
    }
    with lckernels.lengthened(model, tokenizer), torch.no_grad():
        alone = [model(**tokenizer("w5 w6", text, **inputs)) for text in TEXTS]
    for document in documents:
        output, row = read[document.index]
        names = ("start_logits", "end_logits") if head == "QuestionAnswering" else ("logits",)
        for name in names:
            found, expected = output[name][row], alone[document.index][name][0]
            if head != "SequenceClassification":
                found, expected = found[: len(document)], expected[: len(document)]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert not find_parts(model).is_lengthened and tokenizer.model_max_length == 32


def test_defaults_of_a_task_are_at_most_the_models_positions(tokenizer):
    model = head_model("bert", "QuestionAnswering")
    for defaults, given, chunk_len in (((384, 128), None, 32), ((24, 8), None, 24), ((24, 8), 28, 28)):
        reader = DocumentReader(model, tokenizer, QUESTION_ANSWERING, defaults=defaults, chunk_len=given)
        assert reader._options["chunk_len"] == chunk_len


def test_a_lengthened_model_keeps_its_options(tokenizer):
    model = head_model("bert", "TokenClassification")
    with lckernels.lengthened(model, tokenizer, chunk_len=20, overlap=5):
        reader = DocumentReader(model, tokenizer, TOKEN_CLASSIFICATION, defaults=(24, 8))
        ((_, output, _),) = reader.read(reader.documents([TEXTS[1]]))
        expected = model(**tokenizer(TEXTS[1], return_tensors="pt", verbose=False)).logits
        torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-10)
        with pytest.raises(
            ValueError, match="chunk_len: got 16 for BertForTokenClassification, which is lengthened"
        ):
            DocumentReader(model, tokenizer, TOKEN_CLASSIFICATION, chunk_len=16)


def test_a_document_is_its_own_call_if_batch_is_1(tokenizer):
    model, sizes = head_model("bert", "TokenClassification"), []
    reader = DocumentReader(model, tokenizer, TOKEN_CLASSIFICATION, batch=1)
    model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    assert [document.index for document, _, _ in reader.read(reader.documents(TEXTS))] == [1, 3, 2, 0]
    assert sizes == [1, 1, 1, 1]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("wanted", HEADS)
def test_a_model_without_the_head_raises(head, wanted, tokenizer):
    model = head_model("bert", head)
    if head == wanted:
        DocumentReader(model, tokenizer, HEADS[wanted])
        return
    with pytest.raises(
        TypeError, match=f"model: got BertFor{head}, without a head for .*AutoModelFor{wanted}"
    ):
        DocumentReader(model, tokenizer, HEADS[wanted])


def test_a_masked_language_model_is_no_token_classifier(tokenizer):
    with pytest.raises(TypeError, match="without a head for token classification"):
        DocumentReader(head_model("bert", "MaskedLM"), tokenizer, TOKEN_CLASSIFICATION)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, ValueError, "batch: got 0"),
        ({"limit": 0}, ValueError, "limit: got 0"),
        ({"progress": 1}, TypeError, "progress: got 1"),
        ({"chunk_len": 2}, ValueError, "chunk_len"),
    ],
)
def test_options_out_of_range_raise(options, error, message, tokenizer):
    with pytest.raises(error, match=message):
        DocumentReader(head_model("bert", "TokenClassification"), tokenizer, TOKEN_CLASSIFICATION, **options)


def test_a_model_in_training_and_a_slow_tokenizer_raise(tokenizer):
    model = head_model("bert", "TokenClassification")
    for wrong in (None, object()):
        with pytest.raises(TypeError, match="expected the model's fast tokenizer"):
            DocumentReader(model, wrong, TOKEN_CLASSIFICATION)
    with pytest.raises(ValueError, match="in training mode"):
        DocumentReader(model.train(), tokenizer, TOKEN_CLASSIFICATION)
