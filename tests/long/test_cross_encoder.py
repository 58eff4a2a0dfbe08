"""A lengthened CrossEncoder: each chunk reads the query, the head reads the whole document once."""

# ruff: noqa: E402
import pytest
import torch

sentence_transformers = pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers")

from helpers.tiny_sentence_models import CHUNK, LONG, OTHER, OVERLAP, merged_row, save

from lckernels import lengthen, lengthened, unlengthen

PAIRS = [
    ("red fox", LONG),
    ("one two three blue dog", OTHER),
    ("dog", "red fox"),
    ("blue", f"{OTHER} {LONG}"),
]


@pytest.fixture(params=["BertForSequenceClassification", "DistilBertForSequenceClassification"])
def reranker(request, tmp_path):
    """With token types, and with separators alone."""
    folder = save(tmp_path / "model", request.param, num_labels=1)
    return sentence_transformers.CrossEncoder(folder, device="cpu")


def head(model, states):
    """The logit of a row's merged states, by the parts of the model."""
    with torch.no_grad():
        if hasattr(model, "bert"):
            return model.classifier(model.bert.pooler(states[None]))[0, 0]
        return model.classifier(model.pre_classifier(states[:1]).relu())[0, 0]


def by_hand(reranker, query, document):
    """The score, and the number of chunks: a plain loop, then the head."""
    inputs = reranker.tokenizer(query, document, return_tensors="pt", truncation=False)
    ids, types = inputs["input_ids"][0], inputs.get("token_type_ids")
    lead = len(reranker.tokenizer(query)["input_ids"])  # [CLS] query [SEP]
    encoder = reranker.model.base_model
    types = types[0] if types is not None and hasattr(reranker.model, "bert") else None
    states, chunks = merged_row(encoder, ids, lead, types=types)
    return head(reranker.model, states).sigmoid(), chunks


def test_the_score_is_that_of_the_merged_states(reranker):
    before = reranker.predict(PAIRS, convert_to_tensor=True)
    expected, chunks = zip(*(by_hand(reranker, *pair) for pair in PAIRS), strict=True)
    assert chunks[2] == 1 and min(chunks[0], chunks[1], chunks[3]) > 5
    expected = torch.stack(expected)
    calls = []
    reranker.model.classifier.register_forward_hook(lambda *_: calls.append(1))
    report = lengthen(reranker, overlap=OVERLAP)
    assert report.chunk_len == CHUNK
    scores = reranker.predict(PAIRS, convert_to_tensor=True)
    assert len(calls) == 1  # of the whole batch
    torch.testing.assert_close(scores, expected, rtol=0, atol=5e-7)
    assert (scores - before).abs()[[0, 1, 3]].min() > 1e-3
    unlengthen(reranker)
    assert torch.equal(reranker.predict(PAIRS, convert_to_tensor=True), before)


def test_short_pairs_are_unchanged_to_the_bit(reranker):
    pairs = [("red fox", "dog"), ("one", "two three")]
    before = reranker.predict(pairs, convert_to_tensor=True)
    with lengthened(reranker):
        assert torch.equal(reranker.predict(pairs, convert_to_tensor=True), before)


def test_rank_reads_the_end_of_a_document(reranker):
    documents = [f"{LONG} red", f"{LONG} dog", "fox", OTHER]
    with lengthened(reranker, overlap=OVERLAP):
        ranked = reranker.rank("two fox", documents)
        scores = reranker.predict([("two fox", document) for document in documents])
    by_score = sorted(range(4), key=lambda i: -scores[i])
    assert [hit["corpus_id"] for hit in ranked] == by_score
    assert abs(scores[0] - scores[1]) > 1e-5
    truncated = reranker.predict([("two fox", document) for document in documents])
    assert truncated[0] == truncated[1]


def test_a_query_longer_than_a_chunk(reranker):
    lengthen(reranker)
    with pytest.raises(ValueError, match="prefix: got a first segment of 92 tokens in row 0"):
        reranker.predict([(OTHER, LONG)])


def test_a_prompt_is_part_of_the_query(reranker):
    query, document = PAIRS[0]
    expected, _ = by_hand(reranker, f"one two {query}", document)
    lengthen(reranker, overlap=OVERLAP)
    try:
        score = reranker.predict([(query, document)], prompt="one two ", convert_to_tensor=True)
    except TypeError:
        pytest.skip("the prompt of CrossEncoder.predict is new in sentence-transformers 5.4")
    torch.testing.assert_close(score[0], expected, rtol=0, atol=5e-7)
