"""late_chunks with a SentenceTransformer: its tokenizer, its limit, and the modules behind its pooling."""

import warnings

import pytest
import torch
from helpers.late import late_by_loop
from helpers.minilm import requires_minilm
from helpers.tiny_bert import save_tiny_bert, tiny_text

import lckernels
from bench.cases import minilm
from lckernels.tasks import late_chunks

sentence_transformers = pytest.importorskip("sentence_transformers")
from sentence_transformers import models  # noqa: E402

TEXT = tiny_text(30)
SPANS = [(300, 421), (0, 5), (90, 350)]


@pytest.fixture
def bert(tmp_path):
    return str(save_tiny_bert(tmp_path / "bert"))


def sentence_transformer(path, pooling="mean", *rest, limit=20):
    first = models.Transformer(path, max_seq_length=limit)
    modules = [first, models.Pooling(16, pooling_mode=pooling), *rest]
    return sentence_transformers.SentenceTransformer(modules=modules, device="cpu")


def test_chunks_have_the_length_of_its_limit(bert):
    model = sentence_transformer(bert)
    inner, tokenizer = model[0].auto_model, model.tokenizer
    expected = late_by_loop(inner, tokenizer, TEXT, SPANS, chunk_len=20, overlap=18 // 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = late_chunks(model, None, TEXT, SPANS)
    torch.testing.assert_close(found.embeddings, expected, rtol=0, atol=2e-6)
    expected = late_by_loop(inner, tokenizer, TEXT, SPANS, chunk_len=32, overlap=5)
    found = late_chunks(model, None, TEXT, SPANS, chunk_len=32, overlap=5)
    torch.testing.assert_close(found.embeddings, expected, rtol=0, atol=2e-6)
    with lckernels.lengthened(model, chunk_len=32, overlap=5):
        torch.testing.assert_close(late_chunks(model, None, TEXT, SPANS).embeddings, found.embeddings)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(late_chunks(model, None, TEXT, SPANS).embeddings, found.embeddings)


def test_what_is_behind_the_pooling_runs_on_each_span(bert):
    torch.manual_seed(0)
    dense = models.Dense(16, 8)
    model = sentence_transformer(bert, "mean", dense, models.Normalize())
    means = late_by_loop(model[0].auto_model, model.tokenizer, TEXT, SPANS, chunk_len=20, overlap=4)
    scale = late_chunks(model[0], model.tokenizer, TEXT, SPANS, normalize=False).embeddings.norm(dim=1)
    expected = torch.nn.functional.normalize(dense.linear(means * scale[:, None]).tanh(), dim=1)
    for normalize in (True, False):  # the model itself normalizes
        found = late_chunks(model, None, TEXT, SPANS, normalize=normalize).embeddings
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=2e-6)
    assert late_chunks(model, None, "", []).embeddings.shape == (0, 8)


def test_another_pooling_warns(bert):
    with pytest.warns(UserWarning, match=r"^model: its pooling is 'cls'; spans are pooled by their mean"):
        late_chunks(sentence_transformer(bert, "cls"), None, TEXT, SPANS)


@pytest.mark.parametrize("name", ["document", "passage", "as_default"])
def test_every_chunk_reads_the_prompt_for_documents(bert, name):
    model = sentence_transformer(bert)
    plain = late_chunks(model, None, TEXT, SPANS).embeddings
    model.prompts = {"query": "river: ", name: "garden: "}
    model.default_prompt_name = name if name == "as_default" else "query"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompted = late_chunks(model, None, TEXT, SPANS).embeddings
        assert torch.equal(late_chunks(model, None, TEXT, SPANS, prefix="garden: ").embeddings, prompted)
        assert torch.equal(late_chunks(model, None, TEXT, SPANS, prefix=None).embeddings, plain)
    assert (plain - prompted).abs().max() > 1e-3
    with (
        lckernels.lengthened(model, chunk_len=20),
        pytest.warns(UserWarning, match=r"^model: its prompt for documents 'garden: ' is not read; unlength"),
    ):
        found = late_chunks(model, None, TEXT, SPANS).embeddings
    torch.testing.assert_close(found, plain)


def test_the_embedding_has_truncate_dim_numbers(bert):
    model = sentence_transformer(bert)
    whole = late_chunks(model, None, TEXT, SPANS, normalize=False).embeddings
    model.truncate_dim = 5
    assert torch.equal(late_chunks(model, None, TEXT, SPANS, normalize=False).embeddings, whole[:, :5])
    torch.testing.assert_close(
        late_chunks(model, None, TEXT, SPANS).embeddings, torch.nn.functional.normalize(whole[:, :5], dim=1)
    )


def test_other_models_raise(bert):
    model = sentence_transformers.SentenceTransformer(modules=[models.Transformer(bert)], device="cpu")
    with pytest.raises(TypeError, match=r"^model: got SentenceTransformer of Transformer; expected a"):
        late_chunks(model, None, TEXT, SPANS)
    model = sentence_transformer(bert, "mean", models.Dropout(0.5))
    with pytest.raises(ValueError, match=r"^model: got SentenceTransformer in training mode"):
        late_chunks(model, None, TEXT, SPANS)
    model.eval()
    late_chunks(model, None, TEXT, SPANS)


@requires_minilm
def test_minilm_finds_a_sentence_that_does_not_name_its_subject():
    model = sentence_transformers.SentenceTransformer(minilm.model_folder(), device="cpu")
    filler = "The weather was mild and nothing of note happened that day. " * 40
    sentences = [
        "Berlin is the capital of Germany.",
        "The city has more than three million inhabitants and nine castles.",
    ]
    text = f"{filler}{sentences[0]} {sentences[1]} {filler}"
    span = (text.index(sentences[1]), text.index(sentences[1]) + len(sentences[1]))
    query = model.encode("Berlin", convert_to_tensor=True)
    late = late_chunks(model, None, text, [span]).embeddings[0] @ query
    alone = model.encode(sentences[1], convert_to_tensor=True) @ query
    assert late > alone + 0.1
