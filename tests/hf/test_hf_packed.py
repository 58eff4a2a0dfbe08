"""Sequences packed by `cu_seq_lens_q` and `cu_seq_lens_k`: each has the results that it has alone."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from functorch.compile import make_boxed_func
from helpers.hf_masks import REMAP
from helpers.hf_models import VOCAB
from helpers.hf_parity import (
    LENGTHS,
    assert_near,
    count_kernel_calls,
    eager,
    far_gradients,
    gradients_of,
    packed_sequences,
    run,
    run_each_sequence,
    tiny,
)
from helpers.hf_patched import model_of, with_cache
from torch._dynamo.backends.common import aot_autograd

import lckernels
from lckernels.hf.masks.descriptor import NotServed

pytestmark = pytest.mark.usefixtures("one_thread")
# Window, windowed and full, softcap, sinks, D != Dv, chunks, both sides, full.
NAMES = (
    "mistral", "qwen2", "gemma2", "gpt_oss", "mimo_v2_flash", "llama4_text", "modernbert", "bert", "llama",
)  # fmt: skip
ENCODERS = ("modernbert", "bert")
NOT_POSSIBLE = [
    ("llama4_text", "padded"),
    *((name, "cache") for name in ENCODERS),
    *(() if REMAP else [("llama4_text", "no cache")]),  # 5.17 counts packed chunks in slots
]
CASES = [
    (name, how)
    for name in NAMES
    for how in ("no cache", "cache", "ones", "padded")
    if (name, how) not in NOT_POSSIBLE
]


def packed_inputs(name, how):
    """The row, with three tokens of padding at its end for "padded", and each sequence."""
    inputs, texts = packed_sequences(name)
    if how == "ones":
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    elif how == "padded":  # it is part of the last sequence
        mask = torch.ones_like(inputs["input_ids"])
        mask[:, -3:] = 0
        inputs["attention_mask"] = mask
        texts = (*texts[:-1], texts[-1][:, :-3])
    elif how == "cache":
        inputs["use_cache"] = True
    return inputs, texts


@pytest.mark.parametrize(("name", "how"), CASES)
def test_each_sequence_equals_itself_alone(name, how):
    model = tiny(name)
    inputs, texts = packed_inputs(name, how)
    with torch.no_grad():
        expected = eager(model, run_each_sequence, texts)
        with lckernels.patched(model) as report:
            outputs = []
            calls = count_kernel_calls(lambda: outputs.append(run(model, inputs)))
    assert calls == len(report.taken) == 2
    assert_near(outputs[0][:, : expected.shape[1]], expected, how)


@pytest.mark.parametrize(("name", "how"), [case for case in CASES if case[1] in ("no cache", "ones")])
def test_gradients_equal_those_of_each_alone(name, how):
    model = tiny(name)
    inputs, texts = packed_inputs(name, how)
    every = torch.ones(1, sum(LENGTHS), dtype=torch.bool)
    expected = eager(model, gradients_of, texts, every, run_each_sequence)
    with lckernels.patched(model):
        got = gradients_of(model, inputs, every)
    assert far_gradients(got, expected) == []


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_window_and_its_sink_tokens_count_in_each_sequence(name):
    model = tiny(name)
    inputs, texts = packed_sequences(name)
    with torch.no_grad(), lckernels.patched(model, window=5, sink_tokens=2 if name == "llama" else 0):
        assert_near(run(model, inputs), run_each_sequence(model, texts), name)


@pytest.mark.parametrize("name", ["mistral", "gpt_oss", "modernbert"])
def test_compiled(name):
    model = model_of(name)
    inputs, texts = packed_inputs(name, "no cache")
    # A cache would be another input of the graph.
    inputs = inputs if name in ENCODERS else {**inputs, "use_cache": False}
    with torch.no_grad():
        expected = eager(model, run_each_sequence, texts)
    lckernels.patch(model)
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return make_boxed_func(graph)

    compiled = torch.compile(model, backend=aot_autograd(fw_compiler=keep), fullgraph=True)
    with torch.no_grad():
        assert_near(compiled(**inputs)[0], expected, "compiled")
    assert [graph.count("lckernels.windowed_attention") for graph in graphs] == [2]


def test_a_padded_row_of_chunks_is_an_error():
    inputs, _ = packed_inputs("llama4_text", "padded")
    with (
        lckernels.patched(tiny("llama4_text")),
        pytest.raises(NotServed, match="got a tensor, padding and chunks"),
    ):
        run(tiny("llama4_text"), inputs)


def test_calls_that_would_mix_sequences_are_errors():
    model, (inputs, _) = tiny("gpt_oss"), packed_inputs("gpt_oss", "no cache")
    full = torch.zeros(1, 1, sum(LENGTHS), sum(LENGTHS))
    with torch.no_grad(), lckernels.patched(model):
        for dense in ({"output_attentions": True}, {"attention_mask": full}):
            with pytest.raises(
                NotServed, match="cu_seq_lens_q: got a tensor in a call that runs as dense attention"
            ):
                run(model, {**inputs, **dense})
        more = {
            **inputs,
            "use_cache": True,
            **with_cache(model, transformers.DynamicCache(config=model.config)),
        }
        run(model, more)
        with pytest.raises(NotServed, match="cu_seq_lens_q: got a tensor and keys of a cache"):
            run(model, more)


@pytest.mark.parametrize("missing", ["cu_seq_lens_q", "cu_seq_lens_k"])
def test_one_of_two_is_an_error(missing):
    inputs, _ = packed_inputs("gpt_oss", "no cache")
    del inputs[missing]
    with lckernels.patched(tiny("gpt_oss")), pytest.raises(ValueError, match="got one of cu_seqlens_q and"):
        run(tiny("gpt_oss"), inputs)


def test_two_rows_are_an_error():
    inputs, _ = packed_inputs("gpt_oss", "no cache")
    inputs["input_ids"] = torch.randint(5, VOCAB, (2, sum(LENGTHS)))
    with (
        lckernels.patched(tiny("gpt_oss")),
        pytest.raises(ValueError, match=r"q: got batch 2; packed input \(cu_seqlens\) has batch 1"),
    ):
        run(tiny("gpt_oss"), inputs)
