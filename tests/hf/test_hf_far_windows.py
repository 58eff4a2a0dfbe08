"""A window or chunk longer than any sequence is no window, whatever its source."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_models import ENDS, SWA, make_config
from helpers.hf_patched import IDS, MASK, close, logits, model_of

import lckernels
from lckernels.hf import NAME

pytestmark = pytest.mark.usefixtures("one_thread")

NO_WINDOW = 10**12
# Architecture: class of the model, of the config, and the sizes that are NO_WINDOW.
FAR = {
    "mistral": ("MistralForCausalLM", "MistralConfig", {"sliding_window": NO_WINDOW}),
    "mistral, 2**31": ("MistralForCausalLM", "MistralConfig", {"sliding_window": 2**31}),
    "mistral, 2**31 - 1": ("MistralForCausalLM", "MistralConfig", {"sliding_window": 2**31 - 1}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**SWA, "sliding_window": NO_WINDOW}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {"sliding_window": NO_WINDOW}),
    "gemma3, encoder": (
        "Gemma3TextModel", "Gemma3TextConfig",
        {"sliding_window": NO_WINDOW, "use_bidirectional_attention": True},
    ),
    "modernbert": (
        "ModernBertModel", "ModernBertConfig",
        {**ENDS, "local_attention": NO_WINDOW, "global_attn_every_n_layers": 2},
    ),
    "llama4": (
        "Llama4ForCausalLM", "Llama4TextConfig",
        {"attention_chunk_size": NO_WINDOW, "layer_types": ["chunked_attention", "full_attention"],
         "intermediate_size_mlp": 32},
    ),
}  # fmt: skip


def far(name):
    kind, config, sizes = FAR[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(make_config(config, **sizes))
    model.set_attn_implementation("eager")
    return model.eval()


@pytest.mark.parametrize("name", FAR)
def test_a_window_beyond_every_sequence(name):
    model = far(name)
    expected = logits(model)
    report = lckernels.patch(model)
    assert report.exact and len(report.taken) == 2
    assert {row.kind for row in report.rows} <= {"causal", "bidirectional"}
    assert {row.window for row in report.rows} <= {(-1, 0), (-1, -1)}
    close(logits(model), expected)
    lckernels.unpatch(model)
    model.set_attn_implementation(NAME)
    close(logits(model), expected)


@pytest.mark.parametrize("name", ["mistral", "gemma3", "modernbert", "llama4"])
def test_compiled(name):
    model = far(name)
    expected = logits(model)
    lckernels.patch(model)
    torch._dynamo.reset()
    close(logits(torch.compile(model, backend="eager")), expected)


def test_compiled_another_window_than_in_the_dry_run():
    """A config that was changed after the patch: the traced mask has the new window."""
    model = model_of("mistral")
    lckernels.patch(model)
    for change in (NO_WINDOW, 4):
        model.config.sliding_window = change
        torch._dynamo.reset()
        ours = logits(torch.compile(model, backend="eager"))
        other = model_of("mistral")
        other.config.sliding_window = change
        close(ours, logits(other))


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}])
def test_generate(options):
    model = far("mistral")
    options = {"attention_mask": MASK, "max_new_tokens": 5, "do_sample": False, **options}
    if "cache_implementation" in options:
        options["disable_compile"] = True
    expected = model.generate(IDS, **options)
    lckernels.patch(model)
    assert torch.equal(model.generate(IDS, **options), expected)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt_oss"])
def test_a_window_of_the_patch(name):
    model = model_of(name)
    expected = logits(model)
    report = lckernels.patch(model, window=NO_WINDOW)
    assert report.exact
    close(logits(model), expected)


def test_sides_of_the_patch():
    model = model_of("bert")
    with pytest.raises(TypeError, match="it has no full attention that a window could narrow"):
        lckernels.patch(model, window=(NO_WINDOW, NO_WINDOW))
    expected = lckernels.patch(model, window=(-1, 2)), logits(model)
    lckernels.unpatch(model)
    assert (lckernels.patch(model, window=(NO_WINDOW, 2)), logits(model))[0] == expected[0]
    close(logits(model), expected[1])


def test_sink_tokens_beyond_every_sequence():
    model = model_of("llama")
    expected = logits(model)
    lckernels.patch(model, window=4, sink_tokens=NO_WINDOW)
    close(logits(model), expected)
