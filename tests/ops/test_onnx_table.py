"""lckernels.onnx.translation_table: windowed_attention and merge_attention_states in onnxruntime."""

# ruff: noqa: E402
import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="an export to ONNX needs onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from helpers.onnx_sessions import session

from lckernels import Layout, Score, merge_attention_states, windowed_attention
from lckernels.onnx import translation_table

HEADS, KV_HEADS, DIM = 4, 2, 20
SINKS, BIAS = torch.linspace(-1, 2, HEADS), torch.randn(HEADS, 9, generator=torch.Generator().manual_seed(5))
# name -> window, options of the layout, score. Each list is what the cases of self attention become.
BY_WINDOW = {
    "causal": ((-1, 0), {}, {}),
    "causal window": ((3, 0), {}, {}),
    "window of one key": ((0, 0), {}, {}),
    "window beyond the sequence": ((500, 0), {}, {}),
    "no window in a config": ((2**30 - 1, 0), {}, {}),
    "both sides": ((3, 3), {}, {}),
    "more to the left": ((5, 2), {}, {}),
    "right bound alone": ((-1, 2), {}, {}),
    "both sides beyond the sequence": ((300, 300), {}, {}),
    "sinks of the softmax": ((3, 0), {}, {"sink_logits": SINKS}),
    "sinks of the softmax, both sides": ((3, 3), {}, {"sink_logits": SINKS}),
}
BY_BIAS = {
    "sink tokens": ((3, 0), {"sink_tokens": 2}, {}),
    "causal chunks": ((-1, 0), {"chunk": 4, "chunk_origin": 1}, {}),
    "causal bias": ((-1, 0), {}, {"rel_bias": BIAS, "bias_center": 7}),
    "causal bias, softcap and sinks": (
        (5, 0), {}, {"rel_bias": BIAS, "bias_center": 7, "softcap": 2.0, "sink_logits": SINKS},
    ),
}  # fmt: skip
PLAIN = {
    "more to the right": ((2, 5), {}, {}),
    "left bound alone": ((3, -1), {}, {}),
    "softcap on both sides": ((3, 3), {}, {"softcap": 2.0}),
    "sink tokens, both sides": ((3, 3), {"sink_tokens": 2}, {}),
    "bias on both sides": ((-1, -1), {}, {"rel_bias": BIAS, "bias_center": 4}),
    "full with sinks": ((-1, -1), {}, {"sink_logits": SINKS}),
    "offset": ((3, 0), {"offset": -2}, {}),
    "chunks of an origin per row": ((4, 1), {"chunk": 4}, {}),
}
FULL = {"full": ((-1, -1), {}, {})}
CASES = {**BY_WINDOW, **BY_BIAS, **PLAIN, **FULL}
SIZES = ((2, 9), (1, 1), (3, 2), (2, 23), (1, 150))


class Attentions(torch.nn.Module):
    """One output per case."""

    def __init__(self, cases, lse=False):
        super().__init__()
        self.cases, self.lse = cases, lse

    def forward(self, q, k, v, valid=None, segments=None):
        outs = []
        for name, (window, layout, score) in self.cases.items():
            if name == "chunks of an origin per row":
                layout = {**layout, "chunk_origin": torch.arange(q.shape[0])}
            layout = Layout(kv_mask=valid, segment_ids=segments, **layout)
            options = {"window_size": window, "layout": layout, "score": Score(**score)}
            states = windowed_attention(q, k, v, **options, return_lse=True)
            outs += states if self.lse else states[:1]
        return tuple(outs)


def inputs(batch, seqlen, *, seqlen_k=None, dtype=torch.float32, padded=False, segmented=False, dim_v=DIM):
    """q, k, v, and a mask in which the first row has no valid key at its beginning."""
    made = torch.Generator().manual_seed(seqlen)
    keys = seqlen if seqlen_k is None else seqlen_k
    shapes = ((batch, seqlen, HEADS, DIM), (batch, keys, KV_HEADS, DIM), (batch, keys, KV_HEADS, dim_v))
    found = [torch.randn(shape, generator=made).to(dtype) for shape in shapes]
    valid = torch.rand(batch, keys, generator=made) > 0.4
    valid[0, : keys // 2] = False
    segments = torch.arange(keys).div(5, rounding_mode="floor").expand(batch, keys).contiguous()
    found += [valid] if padded or segmented else []
    return (*found, segments) if segmented else tuple(found)


def exported(module, example, *, cross=False, **options):
    """The ONNX program; batch and lengths are dynamic."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    keys = {0: batch, 1: torch.export.Dim("keys") if cross else length}
    shapes = ({0: batch, 1: length}, *[keys] * (len(example) - 1))
    table = translation_table(**options)
    return torch.onnx.export(
        module.eval(), example, dynamic_shapes=shapes, dynamo=True, verbose=False,
        custom_translation_table=table,
    )  # fmt: skip


def check(program, module, examples, names, rtol=2e-5, atol=2e-5):
    run = session(program)
    given = [x.name for x in run.get_inputs()]
    for example in examples:
        found = run.run(None, dict(zip(given, (x.numpy() for x in example), strict=True)))
        for name, ours, expected in zip(names, found, module(*example), strict=True):
            note = f"{name}, {tuple(example[0].shape)}"
            np.testing.assert_allclose(
                ours.astype(np.float64), expected.double().numpy(), rtol=rtol, atol=atol, err_msg=note
            )


def operators(program):
    """Names of the nodes, and how many GroupQueryAttention nodes have a bias."""
    nodes = list(program.model.graph)
    biased = [
        node for node in nodes
        if node.op_type == "GroupQueryAttention" and len(node.inputs) > 10 and node.inputs[10] is not None
    ]  # fmt: skip
    return [node.op_type for node in nodes], len(biased)


@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_self_attention(padded):
    module = Attentions(CASES)
    program = exported(module, inputs(2, 9, padded=padded))
    check(program, module, [inputs(*size, padded=padded) for size in SIZES], CASES)
    names, biased = operators(program)
    assert names.count("GroupQueryAttention") == len(BY_WINDOW) + len(BY_BIAS)
    assert biased == len(BY_BIAS)
    assert names.count("MultiHeadAttention") == len(FULL)


@pytest.mark.slow
def test_only_operators_of_onnx():
    module = Attentions(CASES)
    program = exported(module, inputs(2, 9, padded=True), standard=True)
    assert {node.domain for node in program.model.graph} == {""}
    check(program, module, [inputs(*size, padded=True) for size in SIZES], CASES)


def test_segments():
    cases = {name: CASES[name] for name in ("causal", "both sides", "sink tokens", "full")}
    module = Attentions(cases)
    program = exported(module, inputs(2, 9, segmented=True))
    check(program, module, [inputs(*size, segmented=True) for size in SIZES], cases)
    assert operators(program)[1] == 2  # causal ones


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(dtype):
    """fp64 has operators of ONNX alone."""
    names = ("causal window", "both sides", "sink tokens", "sinks of the softmax", "full", "left bound alone")
    cases = {name: CASES[name] for name in names}
    module = Attentions(cases)
    program = exported(module, inputs(2, 9, padded=True, dtype=dtype))
    close = {"rtol": 2e-3, "atol": 2e-3} if dtype == torch.float16 else {"rtol": 1e-12, "atol": 1e-12}
    check(program, module, [inputs(*size, padded=True, dtype=dtype) for size in SIZES], cases, **close)
    assert ("GroupQueryAttention" in operators(program)[0]) == (dtype == torch.float16)


def test_values_of_another_width():
    cases = {name: CASES[name] for name in ("causal window", "both sides", "sink tokens", "full")}
    module = Attentions(cases)
    for dim_v in (12, 28):
        program = exported(module, inputs(2, 9, padded=True, dim_v=dim_v))
        check(program, module, [inputs(*size, padded=True, dim_v=dim_v) for size in SIZES], cases)


def test_more_keys_than_queries():
    """A step with a cache: the window ends at the last key."""
    cases = {name: CASES[name] for name in ("causal", "causal window", "sink tokens", "both sides", "full")}
    module = Attentions(cases)
    sizes = ((2, 3, 9), (1, 1, 40), (3, 4, 4))
    examples = [inputs(b, s, seqlen_k=k, padded=True) for b, s, k in sizes]
    program = exported(module, examples[0], cross=True)
    check(program, module, examples, cases)
    assert operators(program)[0].count("GroupQueryAttention") == 0


def test_states_and_their_merge():
    class Merged(torch.nn.Module):
        def forward(self, q, k, v, valid):
            window = {"window_size": (4, 0), "return_lse": True}
            out, lse = windowed_attention(q, k, v, layout=Layout(kv_mask=valid), **window)
            other, other_lse = windowed_attention(q, k, v, layout=Layout(kv_mask=~valid), **window)
            return (lse, *merge_attention_states([out, other], [lse, other_lse]))

    module = Merged()
    program = exported(module, inputs(2, 9, padded=True))
    check(program, module, [inputs(*size, padded=True) for size in SIZES], ("lse", "out", "merged lse"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dropout_p": 0.5}, "dropout_p: got 0.5"),
        (
            {"layout": Layout(cu_seqlens_q=torch.tensor([0, 9]), cu_seqlens_k=torch.tensor([0, 9]))},
            "cu_seqlens_q",
        ),
    ],
)
def test_what_is_not_translated(options, message):
    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return windowed_attention(q, k, v, **options)

    with pytest.raises(torch.onnx.errors.OnnxExporterError, match=message):
        exported(Attention(), inputs(1, 9))
