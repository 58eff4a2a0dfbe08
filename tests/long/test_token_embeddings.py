"""Lengthened models whose result has a row per token, or a maximum over them: ColBERT's kind, and SPLADE."""

# ruff: noqa: E402
import pytest
import torch

sentence_transformers = pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers")

from helpers.tiny_sentence_models import LONG, OTHER, OVERLAP, merged_row, save

from lckernels import lengthen, lengthened, unlengthen

TOLERANCE = {"rtol": 0, "atol": 5e-7}  # twice the largest difference found


@pytest.fixture
def colbert(tmp_path):
    """Dense, a mask and normalization after a BERT; queries are padded to 8 tokens."""
    if not hasattr(sentence_transformers, "MultiVectorEncoder"):
        pytest.skip("MultiVectorEncoder is new in sentence-transformers 6")
    torch.manual_seed(1)
    model = sentence_transformers.MultiVectorEncoder(save(tmp_path / "model"), device="cpu")
    model[0].query_expansion = {"strategy": "fixed", "length": 8}
    model[0].query_length, model[0].document_length = 8, 12
    return model


def ids_of(model, text):
    return model.tokenizer(text, return_tensors="pt", truncation=False)["input_ids"][0]


def projected(colbert, states):
    with torch.no_grad():
        return torch.nn.functional.normalize(colbert[1].linear(states), dim=-1)


def test_a_document_of_any_length_has_a_row_per_token(colbert):
    texts = [LONG, "red fox", OTHER]
    assert [len(rows) for rows in colbert.encode_document(texts)] == [12, 4, 12]
    encoder = colbert[0].auto_model
    expected = [merged_row(encoder, ids_of(colbert, text), 1) for text in texts]
    assert [count > 5 for _, count in expected] == [True, False, True]
    query = colbert.encode_query("red fox")
    lengthen(colbert, overlap=OVERLAP)
    rows = colbert.encode_document(texts)
    for found, (states, _) in zip(rows, expected, strict=True):
        torch.testing.assert_close(found, projected(colbert, states), **TOLERANCE)
    assert torch.equal(colbert.encode_query("red fox"), query)
    maxsim = torch.stack([(query @ found.T).max(1).values.sum() for found in rows])
    torch.testing.assert_close(colbert.similarity([query], rows)[0], maxsim)


def test_a_long_query_is_not_truncated_and_a_short_one_keeps_its_expansion(colbert):
    before = colbert.encode_query(["red fox", "dog"])
    assert [len(rows) for rows in before] == [8, 8]
    assert len(colbert.encode_query(LONG)) == 8
    states, _ = merged_row(colbert[0].auto_model, ids_of(colbert, LONG), 1)
    lengthen(colbert, overlap=OVERLAP)
    assert colbert[0].query_expansion["strategy"] == "min"
    short, long, other = colbert.encode_query(["red fox", LONG, "dog"])
    for found, rows in zip((short, other), before, strict=True):
        torch.testing.assert_close(found, rows, **TOLERANCE)
        assert found.norm(dim=-1).min() > 0.9
    torch.testing.assert_close(long, projected(colbert, states), **TOLERANCE)


def test_an_expansion_longer_than_a_chunk_raises(colbert):
    colbert[0].query_length = None
    colbert[0].query_expansion = {"strategy": "fixed", "length": 20}
    lengthen(colbert)
    with pytest.raises(ValueError, match="query_expansion: got length 20; expected at most chunk_len, 16"):
        colbert.encode_query(["red fox"])


def test_padding_alone_is_longer_than_a_chunk(colbert):
    lengthen(colbert, overlap=OVERLAP)
    features = colbert.preprocess(["red fox", "dog"], task="query")
    wide = {
        name: torch.nn.functional.pad(x, (0, 10)) if isinstance(x, torch.Tensor) else x
        for name, x in features.items()
    }
    with torch.no_grad():
        expected = colbert(features)["token_embeddings"]
        found = colbert(wide)["token_embeddings"]
    assert (expected.shape[1], found.shape[1]) == (8, 18)
    torch.testing.assert_close(found[:, :8], expected, **TOLERANCE)


def test_every_chunk_reads_the_prompt(colbert):
    colbert.prompts = {"query": "", "document": "two , "}
    states, count = merged_row(colbert[0].auto_model, ids_of(colbert, f"two , {OTHER}"), 3)
    assert count > 5
    with lengthened(colbert, overlap=OVERLAP):
        found = colbert.encode_document(OTHER)
    torch.testing.assert_close(found, projected(colbert, states), **TOLERANCE)


def test_what_is_restored_and_saved(colbert):
    own = {name: getattr(colbert[0], name) for name in ("query_length", "document_length", "query_expansion")}
    config, printed = colbert[0].get_config_dict(), repr(colbert)
    before = dict(vars(colbert[0]))
    lengthen(colbert)
    assert colbert[0].query_length is None and colbert[0].document_length is None
    assert colbert[0].get_config_dict() == config
    assert repr(colbert) == printed
    unlengthen(colbert)
    assert {name: getattr(colbert[0], name) for name in own} == own
    assert vars(colbert[0]) == before


def test_splade_reads_the_whole_text(tmp_path):
    folder = save(tmp_path / "model", "BertForMaskedLM")
    splade = sentence_transformers.SparseEncoder(folder, device="cpu")
    model = splade[0].auto_model
    texts = [LONG, "red fox", OTHER]

    def encode():
        return torch.stack([row.to_dense() for row in splade.encode(texts)])

    before = encode()
    expected = []
    for text in texts:
        states, _ = merged_row(model.bert, ids_of(splade, text), 1)
        with torch.no_grad():
            expected.append(model.cls(states).relu().log1p().max(0).values)
    lengthen(splade, overlap=OVERLAP)
    after = encode()
    torch.testing.assert_close(after, torch.stack(expected), **TOLERANCE)
    torch.testing.assert_close(after[1], before[1], **TOLERANCE)
    assert (after - before).abs().amax(1)[[0, 2]].min() > 1e-3
