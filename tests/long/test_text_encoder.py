"""TextEncoder: models and tokenizers that load, their identity, and the tokens of a text."""

# ruff: noqa: E402
import json
import re
import shutil

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
safetensors = pytest.importorskip("safetensors.torch")

from helpers.tiny_bert import save_tiny_bert, save_tiny_xlmr

from lckernels.errors import InputError
from lckernels.long.fingerprint import tokenizer_sha256, weights_sha256
from lckernels.long.text_encoder import TextEncoder


@pytest.fixture
def folder(tmp_path):
    return save_tiny_bert(tmp_path / "model")


def without(folder, part):
    """Removes the parameters whose name holds `part` from a saved model."""
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in safetensors.load_file(path).items() if part not in name}
    safetensors.save_file(kept, path, {"format": "pt"})


def refusal(folder):
    with pytest.raises(InputError) as caught:
        TextEncoder(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pooler_that_no_file_gives_does_not_count(folder):
    without(folder, "pooler")
    torch.manual_seed(1)
    one = TextEncoder(str(folder))
    torch.manual_seed(2)
    two = TextEncoder(str(folder))
    weight = "pooler.dense.weight"
    assert not torch.equal(one.encoder.model.state_dict()[weight], two.encoder.model.state_dict()[weight])
    assert one.identity("en") == two.identity("en")


def test_other_missing_weights_are_named(folder):
    without(folder, "layer.1.output")
    said = refusal(folder)
    assert f"the model {folder} has no weights for encoder.layer.1.output.LayerNorm.bias, " in said
    assert said.endswith(" and 1 more of BertModel")


def test_weights_of_another_size_are_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    expected = "has shape (32,) for encoder.layer.0.intermediate.dense.bias, the config has (48,)"
    assert expected in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_folders(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refusal(folder).startswith(f"the model folder {folder} cannot be loaded: ")


def test_a_folder_without_a_tokenizer(folder):
    """transformers would make a BertTokenizer with an empty vocabulary."""
    for name in ("vocab.txt", "tokenizer.json"):
        (folder / name).unlink()
    missing = "it has no file of a tokenizer, such as tokenizer.json, which tokenizer.save_pretrained writes"
    assert refusal(folder) == f"the model folder {folder} cannot be loaded: {missing}"


def test_a_folder_without_a_config(folder):
    (folder / "config.json").unlink()
    missing = "it has no config.json, which model.save_pretrained writes"
    assert refusal(folder) == f"the model folder {folder} cannot be loaded: {missing}"


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_one_file_of_the_tokenizer_is_enough(folder, name):
    expected = TextEncoder(str(folder)).tokenize("river harbour.").input_ids
    (folder / name).unlink()
    assert torch.equal(TextEncoder(str(folder)).tokenize("river harbour.").input_ids, expected)


def test_a_file_is_no_model(folder):
    name = folder / "config.json"
    assert refusal(name) == f"the model {name} is a file; expected a folder or a name on the Hugging Face hub"
    assert "cannot be read: " in refusal("/" + 300 * "n")


def test_the_hash_depends_on_the_order_of_a_parameters_values(folder):
    model = TextEncoder(str(folder)).encoder.model
    before = weights_sha256(model)
    assert weights_sha256(model) == before
    with torch.no_grad():
        rows = model.embeddings.word_embeddings.weight
        rows.copy_(rows.flip(0).clone())
    assert weights_sha256(model) != before
    assert weights_sha256(model.bfloat16()) != before


def test_identity_differs_between_tokenizers(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    one, two = TextEncoder(str(folder)), TextEncoder(str(copy))
    assert one.identity("en") == two.identity("en")
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    three = TextEncoder(str(copy))
    assert three.tokenizer.tokenize("River") != one.tokenizer.tokenize("River")
    differing = {name for name, value in three.identity("en").items() if value != one.identity("en")[name]}
    assert differing == {"tokenizer_sha256"}


def test_calls_of_a_tokenizer_do_not_change_its_hash(folder):
    tokenizer = TextEncoder(str(folder)).tokenizer
    before = tokenizer_sha256(tokenizer)
    tokenizer("river winter", truncation=True, max_length=3, padding="max_length")
    truncation = tokenizer.backend_tokenizer.truncation
    assert tokenizer_sha256(tokenizer) == before
    assert tokenizer.backend_tokenizer.truncation == truncation


def test_pieces_that_are_special_tokens_become_unknown(tmp_path):
    encoder = TextEncoder(str(save_tiny_xlmr(tmp_path / "xlmr")))
    text = "river </s> winter</s>x <s> <pad> <unk> garden"
    tokens = encoder.tokenize(text)
    ids = tokens.input_ids[0].tolist()
    assert (ids[0], ids[-1]) == (0, 2)
    assert not {0, 1, 2} & set(ids[1:-1])
    unknown = [text[start:end] for start, end in tokens.offsets[torch.tensor(ids[1:-1]) == 3].tolist()]
    assert unknown == ["</s>", "</s>", "<s>", "<pad>", "<unk>"]
    torch.testing.assert_close(encoder.embed("river </s>"), encoder.embed("river <unk>"))


def test_special_pieces_without_an_unknown_token_raise(tmp_path):
    encoder = TextEncoder(str(save_tiny_xlmr(tmp_path / "xlmr")))
    encoder.tokenizer.unk_token = None
    assert encoder.tokenize("river").input_ids.tolist() == [[0, 4, 2]]
    with pytest.raises(
        InputError, match=r"the text holds </s>, a special token of .*xlmr, which has no unknown"
    ):
        encoder.tokenize("river </s> winter")


def test_the_tokenizer_of_another_model(folder):
    """Where the text has an id that the model lacks, the error comes before the model runs."""
    config = transformers.BertConfig.from_pretrained(folder)
    config.vocab_size = 40
    transformers.BertModel(config).save_pretrained(folder)
    together = f"the tokenizer and the model of {folder} do not belong together"
    outside = "a token of the text has the id 43, and the model's embedding has the ids 0 to 39"
    assert refusal(folder) == f"{together}: {outside}"
    config.vocab_size = 60
    transformers.BertModel(config).save_pretrained(folder)
    encoder = TextEncoder(str(folder))
    encoder.tokenize("x river")
    with pytest.raises(InputError, match=re.escape(together)):
        encoder.tokenize("rivers")


def test_loading_changes_no_setting_of_the_libraries(folder, capfd):
    hub = pytest.importorskip("huggingface_hub")

    def settings():
        bars = transformers.logging.is_progress_bar_enabled(), hub.utils.are_progress_bars_disabled()
        return transformers.logging.get_verbosity(), hub.logging.get_verbosity(), *bars

    before, seen = settings(), []
    load = transformers.AutoModel.from_pretrained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            transformers.AutoModel,
            "from_pretrained",
            lambda *args, **kwargs: seen.append(settings()) or load(*args, **kwargs),
        )
        TextEncoder(str(folder))
    assert seen == [(transformers.logging.CRITICAL, hub.logging.ERROR, False, True)]
    assert settings() == before
    assert capfd.readouterr() == ("", "")
    with pytest.raises(InputError):
        TextEncoder(str(folder / "config.json"))
    (folder / "config.json").unlink()
    with pytest.raises(InputError):
        TextEncoder(str(folder))
    assert settings() == before


def test_bars_that_were_off_stay_off(folder):
    transformers.logging.disable_progress_bar()
    try:
        TextEncoder(str(folder))
        assert not transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.enable_progress_bar()


def test_weights_are_hashed_at_request_only(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        "lckernels.long.text_encoder.weights_sha256", lambda *args: hashed.append(1) or "hash"
    )
    encoder = TextEncoder(str(folder), chunk_len=16)
    encoder.encode(encoder.tokenize("river winter " * 20))
    assert not hashed
    assert encoder.identity("en")["weights_sha256"] == "hash"


def test_messages_go_to_the_callers_function(folder, capfd):
    encoder, messages = TextEncoder(str(folder), chunk_len=16, overlap=4), []
    tokens = encoder.tokenize("river winter " * 20)
    encoded = encoder.encode(tokens, notify=messages.append)
    assert messages == [f"reading 40 tokens in {encoded.num_chunks} chunks"]
    assert capfd.readouterr() == ("", "")


def test_input_errors_are_value_errors():
    assert issubclass(InputError, ValueError)


def with_a_head(folder):
    """The encoder of the folder as a classifier."""
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def test_a_task_head_that_is_not_loaded_is_a_warning(folder, recwarn):
    TextEncoder(str(folder))
    assert not [x for x in recwarn if "task head" in str(x.message)]
    with_a_head(folder)
    message = f"^{re.escape(str(folder))} was saved from BertForSequenceClassification; its task head is not"
    with pytest.warns(UserWarning, match=message):
        TextEncoder(str(folder))


def test_arguments_of_another_type(folder):
    with pytest.raises(TypeError, match=r"model: got BertModel; expected .*; LongEncoder takes a model$"):
        TextEncoder(transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, vocab_size=9)))
    with pytest.raises(TypeError, match=r"model: got int; expected a folder or a name$"):
        TextEncoder(7)
    encoder = TextEncoder(folder)
    assert encoder.name == str(folder)
    with pytest.raises(TypeError, match=r"text: got list; expected a str, one text$"):
        encoder.embed(["a", "b"])
