"""lckernels.patch under torch.compile, and in all modes of generate."""

# ruff: noqa: E402

from itertools import pairwise

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from functorch.compile import make_boxed_func
from helpers.hf_masks import REMAP
from helpers.hf_models import VOCAB
from helpers.hf_parity import NotPossible, eager
from helpers.hf_patched import IDS, MASK, VALID, close, logits, model_of, with_cache
from torch._dynamo.backends.common import aot_autograd

import lckernels
from lckernels.hf.masks.key_mask import KeyMask

pytestmark = pytest.mark.usefixtures("one_thread")


PACKED = torch.cat([torch.arange(9), torch.arange(12)]).expand(2, -1).clone()
COMPILED = [
    *(("mistral", inputs) for inputs in ("whole", "padded", "packed")),
    *(("llama4_text", inputs) for inputs in ("padded", "packed")),
    *(("gpt_oss", "padded"), ("qwen2", "packed"), ("gemma2", "whole"), ("modernbert", "padded")),
]


@pytest.mark.parametrize(("name", "inputs"), COMPILED)
def test_compiled_whole(name, inputs):
    """One graph with lckernels' op. The patch stores each layer's kind: closures cannot be traced."""
    given = {
        "whole": {"input_ids": IDS},
        "padded": {"input_ids": IDS, "attention_mask": MASK},
        "packed": {"input_ids": IDS, "position_ids": PACKED},
    }[inputs]
    model = model_of(name)
    # A cache would be another input of the graph.
    given = given if name == "modernbert" else {**given, "use_cache": False}
    expected = logits(model, **given)
    lckernels.patch(model)
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph.graph)
        return make_boxed_func(graph)

    backend = aot_autograd(fw_compiler=keep)
    ours = logits(torch.compile(model, backend=backend, fullgraph=True), **given)
    close(ours, expected, VALID if inputs == "padded" else slice(None))
    (graph,) = graphs
    assert str(graph).count("lckernels.windowed_attention") == 2
    assert "scaled_dot_product_attention" not in str(graph)
    values = [node.meta["val"] for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    assert not [value.shape for value in values if tuple(value.shape[-2:]) == (21, 21)]


def test_compiled_with_a_cache_of_fixed_size():
    model = model_of("mistral")
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    expected = model.generate(IDS, attention_mask=MASK, **options)
    lckernels.patch(model)
    torch._dynamo.reset()
    model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
    assert torch.equal(model.generate(IDS, attention_mask=MASK, **options), expected)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_compiled_layer_has_one_graph_for_all_steps(layer):
    """Its mask, of a window or causal, is an input of the graph; offset and length grow with the cache."""
    model = model_of("gpt_oss")
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": MASK}
    expected = model.generate(IDS, **options)
    lckernels.patch(model)
    torch._dynamo.reset()
    graphs = []
    compiled = model.model.layers[layer]
    compiled.compile(backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)
    assert torch.equal(model.generate(IDS, **options), expected)
    assert len(graphs) == 3  # the prompt, the first step, and all others


@pytest.mark.parametrize("cache", [pytest.param("static", marks=pytest.mark.slow), "dynamic"])
def test_compiled_step_by_step_without_a_mask(cache):
    """Chunks count positions, which are not the slots of a sliding cache."""
    model = model_of("llama4_text")

    def steps():
        made = transformers.StaticCache(model.config, max_cache_len=21) if cache == "static" else None
        made = made or transformers.DynamicCache(config=model.config)
        ends = [0, 9, *range(10, 15)]
        return [logits(model, input_ids=IDS[:, a:b], **with_cache(model, made)) for a, b in pairwise(ends)]

    expected = steps()
    lckernels.patch(model)
    torch._dynamo.reset()
    model.forward = torch.compile(model.forward, backend="eager")
    for one, other in zip(steps(), expected, strict=True):
        close(one, other, slice(None))


def test_compiled_a_window_does_not_change_chunks():
    model = model_of("llama4_text")
    lckernels.patch(model, window=3)
    given = {"input_ids": IDS, "position_ids": PACKED, "use_cache": False}
    expected = logits(model, **given)
    torch._dynamo.reset()
    close(logits(torch.compile(model, backend="eager", fullgraph=True), **given), expected, slice(None))


def test_a_compiled_mask_that_sees_ahead_is_an_error():
    """In Gemma 3 an image sees all of itself; traced, that looks like a causal mask."""
    config = model_of("gemma3_text", lckernels.hf.NAME).config
    blocks = torch.full((2, 21), -1)
    blocks[:, 4:9] = 0

    def run(ids):
        mask = transformers.masking_utils.create_sliding_window_causal_mask(
            config, torch.zeros(2, 21, 32), None, None, position_ids=PACKED, block_sequence_ids=blocks
        )
        return mask.dense_mask if isinstance(mask, KeyMask) else mask

    torch._dynamo.reset()
    if not REMAP:  # in 5.17 the images are the outermost function, which is read
        compiled = torch.compile(run, backend="eager", fullgraph=True)(IDS)
        assert torch.equal(compiled, run(IDS))
        return
    with pytest.raises(RuntimeError, match="a mask that sees ahead cannot be compiled"):
        torch.compile(run, backend="eager", fullgraph=True)(IDS)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.7},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": False, "cache_implementation": "static"},
        {"do_sample": False, "prefill_chunk_size": 5},
        {"do_sample": False, "use_cache": False},
        {"do_sample": False, "assistant": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["mistral", "gpt_oss", "gemma3_text", "llama4_text"])
def test_generate_in_all_its_modes(name, options):
    model, options = model_of(name), dict(options)
    rows = slice(1) if options.get("assistant") else slice(None)
    if options.pop("assistant", False):
        options["assistant_model"] = model_of(name)
        with torch.no_grad():  # so that some of its tokens are rejected
            options["assistant_model"].lm_head.weight += 0.2 * torch.randn(VOCAB, 32)

    def generate(model):
        torch.manual_seed(5)
        given = {"attention_mask": MASK[rows], "max_new_tokens": 9, "min_new_tokens": 9}
        return model.generate(IDS[rows], **given, **options)

    try:
        expected = eager(model, generate)
    except NotPossible as reason:
        pytest.skip(f"transformers under eager: {reason}")
    with lckernels.patched(model):
        assert torch.equal(generate(model), expected)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_decoder_model_with_its_default_cache_is_one_graph(name):
    """Its cache reads a copy of the config."""
    model = model_of(name, "sdpa")
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :7]}
    expected = logits(model, **given)
    lckernels.patch(model)
    torch._dynamo.reset()
    ours = logits(torch.compile(model, backend="eager", fullgraph=True), **given)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
