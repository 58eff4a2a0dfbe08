"""CTranslate2 writes the same translations as the model that it was converted from."""

import pytest
from helpers.word_map import tokenizer, trained

from lckernels.tasks import rewrite

ctranslate2 = pytest.importorskip("ctranslate2")
pytest.importorskip("transformers")

TEXT = "River Mountain, Winter. Not River Garden.\n\n  - Letter Silver.\n\n\u3000\u3000山水风。不山水。\n12\n"


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def translator(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    # Attributes of BART's older configs, which the converter reads.
    model.config.update({"normalize_before": False, "add_final_layer_norm": False})
    model.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    ctranslate2.converters.TransformersConverter(str(folder / "model")).convert(str(folder / "converted"))
    return ctranslate2.Translator(str(folder / "converted"), device="cpu", intra_threads=1)


def test_it_writes_what_the_model_writes(model, translator):
    assert rewrite(translator, tokenizer(), TEXT, num_beams=1) == rewrite(model, tokenizer(), TEXT)


def test_outputs_that_are_cut_off(translator):
    found = rewrite(translator, tokenizer(), TEXT, max_new_tokens=4)
    assert [part.problem[:7] for part in found.parts] == ["stopped", "stopped", "", "stopped", "stopped"]


def test_arguments(translator):
    with pytest.raises(
        TypeError, match=r"^generation arguments: got beams; expected arguments of Translator"
    ):
        rewrite(translator, tokenizer(), TEXT, beams=3)
    with pytest.raises(ValueError, match=r"^max_input_length: got a value; rewrite sets this argument"):
        rewrite(translator, tokenizer(), TEXT, max_input_length=3)
    with pytest.raises(ValueError, match=r"^context_sentences: got 1 for a Translator of CTranslate2"):
        rewrite(translator, tokenizer(), TEXT, context_sentences=1)
    with pytest.raises(TypeError, match=r"^model: got a Translator of CTranslate2 for 'summarize'"):
        rewrite(translator, tokenizer(), TEXT, "summarize")
