"""Models of sentence-transformers after `lengthen`: saved files, copies, limits, prompts, other modules."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

sentence_transformers = pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers")

from helpers.minilm import requires_minilm
from helpers.tiny_sentence_models import CHUNK, LONG, OTHER, OVERLAP, TOKENS, files, merged_row, save

from bench.cases import minilm
from lckernels import lengthen, lengthened, unlengthen
from lckernels.long.text_limits import NO_LIMIT

TOLERANCE = {"rtol": 0, "atol": 5e-7}  # twice the largest difference found
KINDS = {
    "SentenceTransformer": "BertModel",
    "CrossEncoder": "DistilBertForSequenceClassification",
    "SparseEncoder": "BertForMaskedLM",
    "MultiVectorEncoder": "BertModel",
}


def load(kind, folder):
    if not hasattr(sentence_transformers, kind):
        pytest.skip(f"{kind} is newer than sentence-transformers {sentence_transformers.__version__}")
    torch.manual_seed(1)
    return getattr(sentence_transformers, kind)(save(folder, KINDS[kind]), device="cpu")


@pytest.fixture
def model(tmp_path):
    return load("SentenceTransformer", tmp_path / "model")


def result(model, texts=(LONG, "red fox")):
    if isinstance(model, sentence_transformers.CrossEncoder):
        return torch.as_tensor(model.predict([("two", text) for text in texts]))
    rows = model.encode(list(texts))
    rows = [torch.as_tensor(row.to_dense() if hasattr(row, "to_dense") else row) for row in rows]
    return torch.cat([row.reshape(-1) for row in rows])


def by_hand(model, text, lead=1):
    ids = model.tokenizer(text, return_tensors="pt", truncation=False)["input_ids"][0]
    return merged_row(model[0].auto_model, ids, lead)[0]


@pytest.mark.filterwarnings("error:tokenizer")
@pytest.mark.parametrize("kind", KINDS)
def test_saved_files_are_those_from_before(kind, tmp_path):
    model = load(kind, tmp_path / "model")
    backend = model.tokenizer.backend_tokenizer

    def truncate():
        """A tokenizer.json with a limit and a length of its own, as MiniLM's; each call sets others."""
        backend.enable_truncation(max_length=12)
        backend.enable_padding(length=12)

    files(model, tmp_path / "first")  # completes the config
    truncate()
    before = files(model, tmp_path / "before")
    assert b'"max_length": 12' in before["tokenizer.json"]
    truncate()
    lengthen(model)
    assert files(model, tmp_path / "lengthened") == before
    result(model)
    assert files(model, tmp_path / "called") == before
    unlengthen(model)
    assert files(model, tmp_path / "restored") == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_lengthened_by_itself(kind, copied, tmp_path):
    model = load(kind, tmp_path / "model")
    short = result(model)
    lengthen(model)
    expected = result(model)
    assert expected.shape != short.shape or (expected - short).abs().max() > 1e-3
    other = copied(model)
    assert torch.equal(result(other), expected)
    unlengthen(other)
    assert torch.equal(result(other), short)
    assert torch.equal(result(model), expected)
    assert files(other, tmp_path / "other") == files(model, tmp_path / "model_again")


def test_the_limit_may_be_set_afterwards(model):
    with lengthened(model, overlap=OVERLAP):
        assert model.max_seq_length == NO_LIMIT
        model.max_seq_length = 50
        with pytest.warns(UserWarning, match="tokenizer: dropped 152 of 202 tokens") as caught:
            states = model.encode(LONG, output_value="token_embeddings")
        assert caught[0].filename == __file__
        assert len(states) == 50
        words = LONG.split()[:48]
        torch.testing.assert_close(states, by_hand(model, " ".join(words)), **TOLERANCE)
    assert model.max_seq_length == CHUNK


def test_the_first_module_alone(model):
    whole, before = copy.deepcopy(model), [set(vars(x)) for x in (model, model[0])]
    lengthen(whole)
    report = lengthen(model[0])
    assert report.model == "Transformer" and report.prefix.startswith("the prompt of a call, or the first")
    assert torch.equal(result(model), result(whole))
    with pytest.raises(ValueError, match="model: got SentenceTransformer, lengthened already"):
        lengthen(model)
    unlengthen(model)
    assert model.max_seq_length == CHUNK
    assert [set(vars(x)) for x in (model, model[0])] == before


@pytest.mark.parametrize("copied", [False, True])
def test_unlengthen_of_the_encoder_alone(model, copied):
    before = result(model, ["red fox", "dog"])
    lengthen(model)
    whole = result(model)
    if copied:
        model = copy.deepcopy(model)
    unlengthen(model[0].auto_model)
    if not copied:  # all that was lengthened is as before
        assert model.max_seq_length == CHUNK and "forward" not in vars(model[0])
        assert model.encode(LONG).shape == (16,)
    assert torch.equal(result(model, ["red fox", "dog"]), before)
    lengthen(model)
    assert torch.equal(result(model), whole)
    unlengthen(model)
    assert not {"forward", "save"} & {*vars(model[0]), *vars(model)}
    assert copied or model.max_seq_length == CHUNK


def test_a_replaced_forward_of_the_reader_leaves_all_lengthened(model):
    lengthen(model)
    whole, ours = result(model), model[0].forward
    model[0].forward = lambda *args, **kwargs: ours(*args, **kwargs)
    with pytest.raises(ValueError, match="model: got Transformer, whose forward was replaced after"):
        unlengthen(model)
    assert torch.equal(result(model), whole)
    model[0].forward = ours
    unlengthen(model)
    assert model.max_seq_length == CHUNK


@pytest.mark.parametrize("include", [True, False])
def test_every_chunk_reads_the_prompt(model, include):
    prompt = "two , blue . "
    model.set_pooling_include_prompt(include)
    states = by_hand(model, prompt + LONG, 5)
    short = model.encode("red fox", prompt=prompt, convert_to_tensor=True)
    lengthen(model, overlap=OVERLAP)
    found = model.encode([LONG, "red fox"], prompt=prompt, convert_to_tensor=True)
    torch.testing.assert_close(found[0], states[0 if include else 5 :].mean(0), **TOLERANCE)
    torch.testing.assert_close(found[1], short, **TOLERANCE)
    # Without a prompt in the next call, and without any prefix.
    torch.testing.assert_close(model.encode(LONG, convert_to_tensor=True), by_hand_mean(model), **TOLERANCE)
    unlengthen(model)
    lengthen(model, overlap=OVERLAP, prefix=None)
    alone = model.encode(LONG, prompt=prompt, convert_to_tensor=True)
    expected = by_hand(copy.deepcopy(model), prompt + LONG)[0 if include else 5 :].mean(0)
    torch.testing.assert_close(alone, expected, **TOLERANCE)
    assert (alone - found[0]).abs().max() > 1e-3


def by_hand_mean(model):
    other = copy.deepcopy(model)
    unlengthen(other)
    return by_hand(other, LONG).mean(0)


def test_a_limit_of_the_tokenizers_call_is_removed(model):
    if not hasattr(model[0], "processing_kwargs"):
        pytest.skip("processing_kwargs is new in sentence-transformers 5.4")
    given = {"text": {"max_length": 10, "padding": "max_length"}}
    model[0].processing_kwargs = given
    assert len(model.encode(LONG, output_value="token_embeddings")) == 10
    config = model[0].get_config_dict()
    lengthen(model)
    assert len(model.encode(LONG, output_value="token_embeddings")) == 202
    assert model[0].get_config_dict() == config
    unlengthen(model)
    assert model[0].processing_kwargs is given


def test_another_tokenizer(model):
    lengthen(model, model.tokenizer)
    unlengthen(model)
    other = copy.deepcopy(model.tokenizer)
    with pytest.raises(ValueError, match=r"tokenizer: got .*; SentenceTransformer reads texts with its own"):
        lengthen(model, other)


def test_a_module_without_an_encoder(model):
    from sentence_transformers.models import StaticEmbedding

    static = StaticEmbedding(model.tokenizer, embedding_dim=8)
    other = sentence_transformers.SentenceTransformer(modules=[static], device="cpu")
    with pytest.raises(TypeError, match="model: got SentenceTransformer, in which no encoder is found"):
        lengthen(other)


def test_a_router_is_lengthened_route_by_route(model):
    from sentence_transformers.models import Pooling, Router, StaticEmbedding

    static = StaticEmbedding(model.tokenizer, embedding_dim=16)
    router = Router.for_query_document([static], [model[0], Pooling(16)])
    both = sentence_transformers.SentenceTransformer(modules=[router], device="cpu")
    inside = r"pass the one in it, 0\.sub_modules\.document\.0 \(Transformer\)"
    with pytest.raises(TypeError, match=inside):
        lengthen(both)
    lengthen(router.sub_modules["document"][0], overlap=OVERLAP)
    found = both.encode_document(LONG, convert_to_tensor=True)
    torch.testing.assert_close(found, by_hand_mean(model), **TOLERANCE)


def test_a_decoder_raises(tmp_path):
    config = transformers.Qwen3Config(
        vocab_size=len(TOKENS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, intermediate_size=16,
    )  # fmt: skip
    folder = save(tmp_path / "model")
    transformers.Qwen3Model(config).save_pretrained(folder)
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    with pytest.raises(TypeError, match=r"model: got Qwen3Model.* decoder"):
        lengthen(model)
    assert model.tokenizer.model_max_length != NO_LIMIT


@pytest.mark.slow
def test_encode_in_several_processes(model):
    lengthen(model)
    texts = [LONG, OTHER, "red fox", "dog"]
    expected = model.encode(texts)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = model.encode(texts, pool=pool, chunk_size=2)
    finally:
        model.stop_multi_process_pool(pool)
    assert abs(found - expected).max() < 1e-6


@requires_minilm
def test_the_published_minilm_truncates_and_pads_to_128_by_itself(tmp_path):
    path = minilm.model_folder()
    model = sentence_transformers.SentenceTransformer(path, device="cpu")
    backend, text = model.tokenizer.backend_tokenizer, "one two three four five " * 60
    assert [len(backend.encode(x).ids) for x in (text, "one")] == [128, 128]
    before = files(model, tmp_path / "before")
    report = lengthen(model)
    assert (report.chunk_len, report.special_tokens) == (256, (1, 1))
    assert report.limit == "limit 256 removed until unlengthen: texts are not truncated"
    assert [len(backend.encode(x).ids) for x in (text, "one")] == [302, 3]
    assert len(model.encode(text, output_value="token_embeddings")) == 302
    assert files(model, tmp_path / "lengthened") == before
    unlengthen(model)
    assert [len(backend.encode(x).ids) for x in (text, "one")] == [128, 128]
