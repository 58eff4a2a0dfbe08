"""A lengthened SentenceTransformer: short texts are unchanged, long ones are read whole."""

# ruff: noqa: E402
import copy

import pytest
import torch

sentence_transformers = pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers")

from helpers.minilm import requires_minilm

from bench.cases import minilm
from lckernels import LongEncoder, lengthen, unlengthen
from lckernels.long.text_limits import NO_LIMIT

WORDS = ["red", "green", "blue", "one", "two", "three", "fox", "dog"]
LETTERS = "abcdefg" * 10
LONG = " ".join(WORDS[i * i % 7] for i in range(200))


@pytest.fixture
def tiny(tmp_path):
    """A SentenceTransformer of a random BERT with 16 positions, mean pooling."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=13,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.2,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers.BertTokenizerFast(str(vocab)).save_pretrained(tmp_path)
    return sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")


def encode(model, texts):
    return model.encode(texts, convert_to_tensor=True)


def test_short_texts_are_as_before_and_long_ones_are_read_whole(tiny):
    short = ["red fox", "one two three blue dog", ""]
    before = encode(tiny, [*short, LONG])
    alone = encode(tiny, short)
    model = tiny[0].auto_model
    ids = tiny.tokenizer(LONG, truncation=False, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 202)
    with torch.no_grad():
        mean = LongEncoder(model, overlap=4, summary="mean")(ids).last_hidden_state[0].mean(0)
    report = lengthen(tiny, overlap=4)
    assert (report.chunk_len, report.overlap) == (16, 4)
    assert tiny[0].auto_model is model
    after = encode(tiny, [*short, LONG])
    torch.testing.assert_close(after[:3], before[:3])
    assert torch.equal(encode(tiny, short), alone)
    torch.testing.assert_close(after[3], mean)
    assert (after[3] - before[3]).abs().max() > 1e-3


@pytest.mark.parametrize("summary", ["mean", "first"])
def test_embed_is_the_mean_pooling_of_sentence_transformers(tiny, summary):
    sentences = ["red fox", "one two three blue dog"]
    expected = encode(tiny, sentences)
    inputs = tiny.tokenizer(sentences, padding=True, return_tensors="pt")
    encoder = LongEncoder(tiny[0].auto_model, summary=summary)
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(**inputs), expected)
        long = encoder.embed(**tiny.tokenizer([LONG, "red fox"], padding=True, return_tensors="pt"))
        torch.testing.assert_close(long[1], expected[0])
    lengthen(tiny, summary=summary)
    torch.testing.assert_close(encode(tiny, [LONG])[0], long[0])


def tiny_roberta(folder):
    """As tiny, with positions from padding_idx + 1: 18 of them, 16 usable."""
    folder.mkdir()
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *"abcdefgĠ"])}
    config = transformers.RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=18,
        initializer_range=0.2,
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    tokenizer = transformers.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    tokenizer.save_pretrained(folder)
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("times", [1, 2])
def test_saved_model_has_the_original_limit(tmp_path, times):
    model = tiny_roberta(tmp_path / "roberta")
    assert model.max_seq_length == 16
    before = encode(model, LETTERS)
    for time in range(times):
        if time:
            unlengthen(model)
            assert model.max_seq_length == 16
        lengthen(model)
    assert model.max_seq_length == NO_LIMIT
    model.save(str(tmp_path / "saved"))
    assert model.max_seq_length == NO_LIMIT
    copy.deepcopy(model).save(str(tmp_path / "copied"))
    # As a trainer saves its processing class, apart from the model.
    model.tokenizer.save_pretrained(tmp_path / "saved")
    for name in ("saved", "copied"):
        again = sentence_transformers.SentenceTransformer(str(tmp_path / name), device="cpu")
        assert again.max_seq_length == 16
        torch.testing.assert_close(encode(again, LETTERS), before)


def test_texts_are_not_joined_to_one_row(tiny):
    if not hasattr(tiny[0], "unpad_inputs"):
        pytest.skip("unpad_inputs is new in sentence-transformers 5.4")
    tiny[0].can_flatten_inputs = True
    unpad_inputs = tiny[0].unpad_inputs
    lengthen(tiny)
    assert tiny[0].can_flatten_inputs is False
    # What is saved keeps the setting.
    assert tiny[0].unpad_inputs is unpad_inputs
    unlengthen(tiny)
    assert tiny[0].can_flatten_inputs is True


def test_training_step(tiny):
    lengthen(tiny)
    features = tiny.tokenize([LONG, "red fox"])
    tiny(features)["sentence_embedding"].square().sum().backward()
    assert tiny[0].auto_model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_another_module_raises():
    with pytest.raises(TypeError, match="model: got Linear, in which no encoder is found; expected a model"):
        lengthen(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="model: got str; expected a model"):
        lengthen("x")


@requires_minilm
def test_minilm():
    path = minilm.model_folder()
    model = sentence_transformers.SentenceTransformer(path, device="cpu")
    filler = "The weather was mild and nothing of note happened that day. " * 40
    text = filler + "Penguins live in Antarctica and cannot fly."
    before = model.similarity(model.encode(text), model.encode("Where do penguins live?")).item()
    short = model.encode("Where do penguins live?")
    lengthen(model, chunk_len=256)
    states = model.encode(text, output_value="token_embeddings")
    assert len(states) > 450
    after = model.similarity(states[-12:].mean(0), model.encode("Where do penguins live?")).item()
    # The truncated model never read the last sentence.
    assert after > before + 0.2
    torch.testing.assert_close(model.encode("Where do penguins live?"), short)


@pytest.mark.parametrize("mode", ["lasttoken", ("mean", "lasttoken")])
def test_a_pooling_that_reads_the_last_token(tiny, mode):
    tiny[1].pooling_mode = mode
    message = (
        "model: got SentenceTransformer, whose pooling reads the last state of a row, which only the last"
    )
    with pytest.raises(TypeError, match=message):
        lengthen(tiny)
