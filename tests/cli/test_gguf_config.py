"""A GGUF file's scaling of positions and sliding window are those of the model that is scored."""

# ruff: noqa: E402
import json
import math
import re

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")
pytest.importorskip("typer")

from helpers.cli import error_message, run
from helpers.gguf_models import decoder, save_gguf
from helpers.tiny_bert import tiny_text
from helpers.tiny_decoder import POSITIONS

from lckernels.errors import InputError
from lckernels.long.gguf_config import Header, _layer_types, _set_rope_scaling
from lckernels.perplexity import score
from lckernels.perplexity.tokens import tokenize

THETA = 10_000.0
DIMS = 8  # of a head
FACTORS = [1.0, 1.5, 3.0, 4.0]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": FACTORS,
    "long_factor": FACTORS[::-1],
    "attention_factor": 1.1,
    "original_max_position_embeddings": 20,
}


def llama3_factors():
    """The tensor rope_freqs that llama.cpp's converter writes for LLAMA3."""
    found, low, high = [], 32 / 1.0, 32 / 4.0
    for pair in range(DIMS // 2):
        length = 2 * math.pi * THETA ** (2 * pair / DIMS)
        smooth = (32 / length - 1.0) / (4.0 - 1.0)
        between = 1 / ((1 - smooth) / 4.0 + smooth)
        found.append(1.0 if length < high else 4.0 if length > low else between)
    return found


CASES = {
    "linear": (
        "llama",
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {},
        {"rope_parameters": {"rope_theta": THETA, "rope_type": "linear", "factor": 4.0}},
    ),
    "linear is the default type": (
        "llama",
        {"rope.scaling.factor": 4.0},
        {},
        {"rope_parameters": {"rope_theta": THETA, "rope_type": "linear", "factor": 4.0}},
    ),
    "yarn": (
        "llama",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
        },
        {},
        {"rope_parameters": {"rope_theta": THETA, **YARN}},
    ),
    "llama3": (
        "llama",
        {},
        {"rope_freqs": llama3_factors()},
        {"rope_parameters": {"rope_theta": THETA, **LLAMA3}},
    ),
    "longrope": (
        "phi3",
        {"rope.scaling.attn_factor": 1.1, "rope.scaling.original_context_length": 20},
        {"rope_factors_short": FACTORS, "rope_factors_long": FACTORS[::-1]},
        {
            "rope_parameters": {"rope_theta": THETA, "partial_rotary_factor": 1.0, **LONGROPE},
            "original_max_position_embeddings": 20,
        },
    ),
    "attention factor alone": (
        "llama",
        {"rope.scaling.attn_factor": 1.5},
        {},
        {
            "rope_parameters": {
                **LONGROPE,
                "rope_theta": THETA,
                "short_factor": [1.0] * len(FACTORS),
                "long_factor": [1.0] * len(FACTORS),
                "attention_factor": 1.5,
                "original_max_position_embeddings": POSITIONS,
            }
        },
    ),
    "sliding window": ("phi3", {"attention.sliding_window": 5}, {}, {"sliding_window": 5}),
}


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(tiny_text(6))
    return path


def perplexity_of_file(folder, book, **options):
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = ("perplexity", book, "--model", folder, "--gguf-file", "m.gguf", "--json", "-q")
    result = run(*command, "--max-tokens", 60, *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["perplexity"]


def perplexity_of(model, folder, book):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf")
    tokens = tokenize(tokenizer, book.read_text(), 60)
    return score(model, tokens.input_ids, given=tokens.given).perplexity


@pytest.mark.parametrize("case", CASES)
def test_the_model_of_the_file_is_scored(tmp_path, book, case):
    architecture, keys, factors, config = CASES[case]
    save_gguf(tmp_path / "m.gguf", architecture, keys, factors)
    found = perplexity_of_file(tmp_path, book)
    assert found == pytest.approx(perplexity_of(decoder(architecture, **config), tmp_path, book), rel=1e-5)
    assert found != pytest.approx(perplexity_of(decoder(architecture), tmp_path, book), rel=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.0},
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
        {"attention.sliding_window": 0},
    ],
)
def test_what_changes_nothing_is_no_error(tmp_path, book, architecture, keys):
    save_gguf(tmp_path / "m.gguf", architecture, keys)
    expected = perplexity_of(decoder(architecture), tmp_path, book)
    assert perplexity_of_file(tmp_path, book) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("keys", "factors", "message"),
    [
        ({"attention.sliding_window": 5}, {}, "llama.attention.sliding_window = 5, but LlamaConfig has no"),
        ({"rope.scaling.alpha": 2.0}, {}, "llama.rope.scaling.alpha = 2.0, which no config"),
        ({"rope.scaling.type": "ntk"}, {}, "llama.rope.scaling.type = ntk, allowed are none, linear"),
        ({"rope.scaling.yarn_log_multiplier": 0.1}, {}, "llama.rope.scaling.yarn_log_multiplier = 0.1"),
        ({}, {"rope_factors_long": FACTORS}, "a tensor rope_factors_long, but not the other of the two"),
        ({"rope.scaling.type": "yarn"}, {"rope_freqs": FACTORS}, "rope.scaling.type = yarn, and a tensor"),
    ],
)
def test_what_no_config_can_have_is_named(tmp_path, book, keys, factors, message):
    save_gguf(tmp_path / "m.gguf", "llama", keys, factors)
    for command in (("perplexity", book, "--model"), ("explain",)):
        assert message in error_message(*command, tmp_path, "--gguf-file", "m.gguf")


@pytest.mark.parametrize(
    ("keys", "factors", "stated"),
    [
        ({"rope.scaling.attn_factor": 1.1}, {}, "gpt2.rope.scaling.attn_factor = 1.1"),
        ({"rope.scaling.factor": 2.0}, {"rope_freqs": FACTORS}, "gpt2.rope.scaling.factor = 2.0"),
        ({}, {"rope_freqs": FACTORS}, "a tensor rope_freqs"),
    ],
)
def test_a_config_without_rotary_positions(keys, factors, stated):
    message = f"^its GGUF file has {re.escape(stated)}, for which GPT2Config has no rope_parameters$"
    with pytest.raises(InputError, match=message):
        _set_rope_scaling(transformers.GPT2Config(), Header(keys, "gpt2", factors))


def test_explain_reads_the_sliding_window(tmp_path):
    save_gguf(tmp_path / "m.gguf", "phi3", {"attention.sliding_window": 5})
    result = run("explain", tmp_path, "--gguf-file", "m.gguf", "--json", "--seqlen", 60)
    assert result.exit_code == 0, result.output
    assert [layer["window"] for layer in json.loads(result.stdout)["layers"]] == [[4, 0], [4, 0]]


def test_patterns_of_layers():
    wide, narrow = "full_attention", "sliding_attention"
    assert _layer_types(3, 4) == [narrow, narrow, wide, narrow]
    assert _layer_types([True, False], 2) == [narrow, wide]
    assert _layer_types(0, 2) == [wide, wide]
