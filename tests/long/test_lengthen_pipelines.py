"""The pipelines of transformers 5 on a lengthened model: the whole text counts, nothing is cut silently."""

import warnings

import pytest
import torch
import transformers
from helpers.encoder_models import SIZES, WIDE
from helpers.word_tokenizer import word_tokenizer, words

import lckernels

LONG = words(100)
# Two texts that differ after the first 100 words, of which the tokenizer keeps 30.
ENDS = (f"{LONG} w7 w8 w9", f"{LONG} w10 w11 w12")
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}


def pipeline(task, kind, lengthened=True, **options):
    torch.manual_seed(0)
    sizes = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2}
    config = transformers.BertConfig(**sizes, id2label=NLI, label2id={name: i for i, name in NLI.items()})
    model = getattr(transformers, kind)(config).eval()
    pipe = transformers.pipeline(task, model, tokenizer=word_tokenizer(), device="cpu", **options)
    if lengthened:
        lckernels.lengthen(pipe.model, pipe.tokenizer)
    return pipe


def merged(pipe, text, **options):
    """The encoder's merged states for a text, by a LongEncoder."""
    ids = word_tokenizer(10**6)(text, return_tensors="pt")
    with torch.no_grad():
        with_stock = pipeline(pipe.task, type(pipe.model).__name__, False).model
        encoder = getattr(with_stock, "bert", with_stock)
        return lckernels.LongEncoder(encoder, summary="mean")(**ids, **options).last_hidden_state


@pytest.fixture(autouse=True)
def no_warning_of_tokens():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="tokenizer:")
        yield


@pytest.mark.parametrize("options", [{}, {"truncation": True}, {"truncation": True, "padding": True}])
def test_text_classification(options):
    pipe = pipeline("text-classification", "BertForSequenceClassification", top_k=None)
    for text in ENDS:
        found = {row["label"]: row["score"] for row in pipe([text], **options)[0]}
        with torch.no_grad():
            head = pipe.model.classifier(pipe.model.bert.pooler(merged(pipe, text)))
        expected = dict(zip(NLI.values(), head.softmax(-1)[0].tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-6)
    assert pipe([ENDS[0]]) != pipe([ENDS[1]])


def test_a_length_given_to_the_pipeline_is_a_warning():
    cut = {"truncation": True, "max_length": 32}
    stock = pipeline("text-classification", "BertForSequenceClassification", False)
    assert stock(ENDS[0], **cut) == stock(ENDS[1], **cut)
    pipe = pipeline("text-classification", "BertForSequenceClassification")
    with pytest.warns(
        UserWarning, match="dropped 73 of 105 tokens, since truncation to max_length=32"
    ) as caught:
        assert pipe(ENDS[0], **cut) == stock(ENDS[0], **cut)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_of_texts_of_any_length(batch_size):
    pipe = pipeline("text-classification", "BertForSequenceClassification", top_k=None)
    texts = [ENDS[0], words(5), words(60)]
    alone = [pipe([text])[0] for text in texts]
    for row, expected in zip(pipe(texts, batch_size=batch_size), alone, strict=True):
        assert [x["label"] for x in row] == [x["label"] for x in expected]
        assert [x["score"] for x in row] == pytest.approx([x["score"] for x in expected], abs=1e-6)


def test_token_classification():
    options = {"ignore_labels": []}
    stock = pipeline("token-classification", "BertForTokenClassification", False, **options)
    assert len(stock(ENDS[0])) == 30  # and no warning
    pipe = pipeline("token-classification", "BertForTokenClassification", **options)
    found = pipe(ENDS[0])
    assert [ENDS[0][row["start"] : row["end"]] for row in found] == ENDS[0].split()
    with torch.no_grad():
        labels = pipe.model.classifier(merged(pipe, ENDS[0]))[0, 1:-1].argmax(-1).tolist()
    assert [row["entity"] for row in found] == [NLI[label] for label in labels]


def test_token_classification_with_a_stride_is_not_cut_into_chunks():
    options = {"ignore_labels": [], "aggregation_strategy": "simple"}
    pipe = pipeline("token-classification", "BertForTokenClassification", **options)
    rows = []
    pipe.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    whole = pipe(ENDS[0])
    assert pipe(ENDS[0], stride=8) == whole
    assert rows == [(1, 105), (1, 105)]
    assert whole[-1]["end"] == len(ENDS[0])
    stock = pipeline("token-classification", "BertForTokenClassification", False, **options)
    by_chunk = stock(ENDS[0], stride=8)
    assert by_chunk[-1]["end"] == len(ENDS[0])
    assert by_chunk != whole


def test_fill_mask():
    pipe = pipeline("fill-mask", "BertForMaskedLM")
    texts = [f"{LONG} [MASK] {end}" for end in ("w7 w8 w9", "w10 w11 w12")]
    first, other = (pipe(text, top_k=3) for text in texts)
    with torch.no_grad():
        scores = pipe.model.cls(merged(pipe, texts[0]))[0, 101].softmax(-1).topk(3)
    assert [row["token"] for row in first] == scores.indices.tolist()
    assert [row["score"] for row in first] == pytest.approx(scores.values.tolist(), abs=1e-6)
    assert [row["score"] for row in other] != pytest.approx(scores.values.tolist(), abs=1e-6)


@pytest.mark.parametrize("truncation", [None, True])
def test_feature_extraction(truncation):
    pipe = pipeline("feature-extraction", "BertModel")
    states = pipe(ENDS[0], return_tensors=True, truncation=truncation)
    torch.testing.assert_close(states, merged(pipe, ENDS[0]), rtol=1e-5, atol=1e-5)
    assert torch.tensor(pipe(ENDS[1])).shape == (1, 105, 16)


def test_zero_shot_classification():
    """The hypothesis is in every chunk of the text."""
    pipe = pipeline("zero-shot-classification", "BertForSequenceClassification")
    labels, template = ["w30", "w31 w32"], "w20 {}"
    found = [pipe(text, candidate_labels=labels, hypothesis_template=template) for text in ENDS]
    assert found[0]["scores"] != pytest.approx(found[1]["scores"], abs=1e-6)
    # By hand: a row whose last tokens, [SEP] hypothesis [SEP], are read by every chunk.
    stock = pipeline("zero-shot-classification", "BertForSequenceClassification", False).model
    encoder, scores = lckernels.LongEncoder(stock.bert, summary="mean"), {}
    for label in labels:
        inputs = word_tokenizer(10**6)(ENDS[0], template.format(label), return_tensors="pt")
        with torch.no_grad():
            states = encoder(**inputs, num_trailing=[3 + len(label.split())]).last_hidden_state
            scores[label] = stock.classifier(stock.bert.pooler(states))[0, 2]
    expected = torch.stack(list(scores.values())).softmax(0).tolist()
    order = sorted(range(2), key=lambda i: -expected[i])
    assert found[0]["labels"] == [labels[i] for i in order]
    assert found[0]["scores"] == pytest.approx([expected[i] for i in order], abs=1e-6)
    cut = pipeline("zero-shot-classification", "BertForSequenceClassification", False)
    by_stock = [cut(text, candidate_labels=labels, hypothesis_template=template) for text in ENDS]
    assert by_stock[0]["scores"] == by_stock[1]["scores"]  # transformers truncates the text
