"""A SentenceTransformer over LongEncoder: short texts are unchanged, long ones are read whole."""

# ruff: noqa: E402
import copy

import pytest
import torch

sentence_transformers = pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers")

from helpers.minilm import requires_minilm

from bench.cases import minilm
from lckernels import LongEncoder
from lckernels.long.sentence_transformer import NO_LIMIT, lengthen

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


def test_short_texts_are_as_before_and_long_ones_are_read_whole(tiny):
    short = ["red fox", "one two three blue dog", ""]
    before = tiny.encode([*short, LONG], convert_to_tensor=True)
    model = tiny[0].auto_model
    encoder = lengthen(tiny, overlap=4)
    assert isinstance(encoder, LongEncoder)
    assert tiny[0].auto_model is encoder
    assert encoder.model is model
    after = tiny.encode([*short, LONG], convert_to_tensor=True)
    torch.testing.assert_close(after[:3], before[:3])
    ids = tiny.tokenizer(LONG, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 202)
    with torch.no_grad():
        mean = LongEncoder(model, overlap=4)(ids).last_hidden_state[0].mean(0)
    torch.testing.assert_close(after[3], mean)
    assert (after[3] - before[3]).abs().max() > 1e-3


def test_embed_is_the_mean_pooling_of_sentence_transformers(tiny):
    sentences = ["red fox", "one two three blue dog"]
    expected = tiny.encode(sentences, convert_to_tensor=True)
    inputs = tiny.tokenizer(sentences, padding=True, return_tensors="pt")
    encoder = LongEncoder(tiny[0].auto_model)
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(**inputs), expected)
        long = encoder.embed(**tiny.tokenizer([LONG, "red fox"], padding=True, return_tensors="pt"))
        torch.testing.assert_close(long[1], expected[0])
    lengthen(tiny)
    torch.testing.assert_close(tiny.encode([LONG], convert_to_tensor=True)[0], long[0])


def test_saved_model_is_the_encoder_that_was_there(tiny, tmp_path):
    lengthen(tiny, max_seq_length=100)
    tiny.save(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert type(again[0].auto_model).__name__ == "BertModel"
    assert tiny.max_seq_length == 100


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
    before = model.encode(LETTERS, convert_to_tensor=True)
    for _ in range(times):
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
        torch.testing.assert_close(again.encode(LETTERS, convert_to_tensor=True), before)


def test_lengthened_twice_has_one_long_encoder(tiny):
    model = tiny[0].auto_model
    lengthen(tiny)
    encoder = lengthen(tiny, overlap=4, chunk_len=12)
    assert encoder.model is model
    assert encoder.chunk_len == 12


def test_texts_are_not_joined_to_one_row(tiny):
    tiny[0].can_flatten_inputs = True
    unpad_inputs = tiny[0].unpad_inputs
    lengthen(tiny)
    assert tiny[0].can_flatten_inputs is False
    # What is saved keeps the setting.
    assert tiny[0].unpad_inputs is unpad_inputs


def test_training_step(tiny):
    encoder = lengthen(tiny)
    features = tiny.tokenize([LONG, "red fox"])
    tiny(features)["sentence_embedding"].square().sum().backward()
    assert encoder.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_another_module_raises():
    with pytest.raises(TypeError, match="transformer: got Linear; expected a SentenceTransformer"):
        lengthen(torch.nn.Linear(2, 2))


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


def test_lengthen_of_no_module():
    with pytest.raises(TypeError, match="transformer: got str; expected a SentenceTransformer"):
        lengthen("x")
