"""Vision and audio towers that loop over images or windows: patched, a layer makes one packed call."""

# ruff: noqa: E402
import sys
import threading

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers import hf_images
from helpers.hf_parity import far_gradients
from helpers.hf_towers import ONE, TOWERS, build_tower, result
from transformers import AttentionInterface

import lckernels
from lckernels.hf import interface
from lckernels.hf.family import packs_sequences
from lckernels.hf.patch.modules import lckernels_attention

PART = ("qwen2_5_vl", "qwen2_5_omni, audio", "pixtral", "radio", "minicpmv4_6", "hunyuan_vl", "exaone4_5")
# What an older version of transformers has no code for.
NO_GRIDS, MIXES, MASKED = "images of several sizes", "mixes the images of a batch", "has a dense mask"
OLD = {
    "5.17.0": {"kimi_k25": NO_GRIDS, "minicpmv4_6": NO_GRIDS, "radio": NO_GRIDS, "minimax_m3_vl": MIXES,
               "pixtral": MASKED},
}  # fmt: skip
NAMES = [name for name in TOWERS if TOWERS[name].cls and name not in OLD.get(transformers.__version__, {})]
PACKED_ROW = "bidirectional, packed"


@pytest.fixture(params=[pytest.param(n, marks=() if n in PART else pytest.mark.slow) for n in NAMES])
def name(request):
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """The calls of windowed_attention."""
    found, attention = [], interface.served_attention
    monkeypatch.setattr(interface, "served_attention", lambda *x: found.append(x[3]) or attention(*x))
    return found


@pytest.fixture
def sdpa_calls():
    """The number of calls of sdpa, as the only entry of a list."""
    found, sdpa = [0], AttentionInterface()["sdpa"]

    def count(*args, **options):
        found[0] += 1
        return sdpa(*args, **options)

    AttentionInterface.register("sdpa", count)
    yield found
    AttentionInterface.register("sdpa", sdpa)


def forward(tower, inputs):
    with torch.no_grad():
        return result(tower, inputs)


def assert_equal(got, expected, relative=1e-5):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= relative * expected.abs().max()


def sizes_of(call):
    return call.layout.cu_seqlens_q.diff().tolist()


@pytest.mark.parametrize("truth", ["sdpa", "eager"])
def test_a_layer_makes_one_call(name, truth, calls, sdpa_calls, one_thread):
    tower = build_tower(name, truth)
    inputs = TOWERS[name].inputs(tower, TOWERS[name].grids)
    expected, loop = forward(tower, inputs), sdpa_calls[0]
    with lckernels.patched(tower) as report:
        got = forward(tower, inputs)
    assert_equal(got, expected)
    assert report.exact
    assert len(calls) == len(report.rows)
    assert all(call.kind.packed and len(sizes_of(call)) > 1 for call in calls)
    if truth == "sdpa" and name != "pixtral":  # whose own attention has a dense mask
        assert loop == sum(len(sizes_of(call)) for call in calls)
    assert sdpa_calls[0] == loop
    calls.clear()
    assert_equal(forward(tower, inputs), expected, 0)
    assert not calls


def test_the_report_says_packed(name):
    tower = build_tower(name)
    with lckernels.patched(tower) as report:
        pass
    # Radio packs where it gets the sizes of the images, which a dry run does not pass.
    expected = "bidirectional" if name == "radio" else PACKED_ROW
    assert {(row.kind, row.window, row.verdict) for row in report.rows} == {(expected, (-1, -1), "exact")}
    assert not report.unknown


def test_gradients(name, one_thread):
    """In fp64; sdpa is the truth, since eager attention has its softmax in fp32."""
    tower = build_tower(name).double()
    inputs = TOWERS[name].inputs(tower, TOWERS[name].grids)
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}

    def gradients():
        tower.zero_grad()
        out = result(tower, inputs)
        target = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
        (out * target).sum().backward()
        return {key: p.grad.clone() for key, p in tower.named_parameters() if p.grad is not None}

    expected = gradients()
    with lckernels.patched(tower):
        got = gradients()
    assert far_gradients(got, expected, 1e-10) == []
    assert any(x.norm() > 0 for key, x in expected.items() if "attn" in key or "attention" in key)


def test_one_image(name, calls, one_thread):
    tower = build_tower(name)
    inputs = TOWERS[name].inputs(tower, ONE)
    expected = forward(tower, inputs)
    with lckernels.patched(tower) as report:
        assert_equal(forward(tower, inputs), expected)
    assert len(calls) == len(report.rows)


def test_weights_are_those_of_eager(name, one_thread):
    """A call that collects the weights has those of each image, as eager attention returns them."""
    tower = build_tower(name, "eager")
    inputs = {**TOWERS[name].inputs(tower, TOWERS[name].grids), "output_attentions": True}
    with torch.no_grad():
        expected = tower(**inputs)
        with lckernels.patched(tower):
            got = tower(**inputs)
    assert_equal(got[0], expected[0])
    pairs = zip(tensors(getattr(got, "attentions", ())), tensors(expected.attentions or ()), strict=True)
    for one, other in pairs:
        assert_equal(one, other)


def tensors(x):
    """The tensors in nested lists, in their order."""
    return [x] if isinstance(x, torch.Tensor) else [y for part in x or () for y in tensors(part)]


def attention_layer(tower):
    return next(m for m in tower.modules() if packs_sequences(type(m)) and hasattr(m, "scaling"))


@pytest.mark.parametrize("sizes", [[5, 0, 4, 0], [1] * 9, [9], [0, 9], []])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_any_sizes(sizes, dtype, calls, one_thread):
    """Empty images, on which sdpa raises, images of one patch, one image, none."""
    tower = build_tower("qwen2_5_vl", "eager")
    layer, seqlen = attention_layer(tower), sum(sizes)
    x = torch.randn(seqlen, 32, requires_grad=True)
    cu_seqlens = torch.tensor([0, *sizes]).cumsum(0).to(dtype)
    rotary = (torch.rand(seqlen, 8), torch.rand(seqlen, 8))

    def run():
        out = layer(x, cu_seqlens=cu_seqlens, position_embeddings=rotary)
        return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]

    if not sizes:  # torch.cat of no image; flash attention's code has no longest sequence
        for context in (lambda: None, lambda: lckernels.patch(tower)):
            context()
            with pytest.raises((RuntimeError, ValueError)):
                run()
        return
    expected = run()
    with lckernels.patched(tower):
        got = run()
    assert len(calls) == 1
    for one, other in zip(got, expected, strict=True):
        assert_equal(one, other)


def test_no_class_and_no_function_changes():
    tower, other = build_tower("qwen2_5_vl"), build_tower("qwen2_5_vl")
    layer = attention_layer(tower)
    module = sys.modules[type(layer).__module__]
    before, attributes = dict(vars(module)), dict(vars(type(layer)))
    config = tower.config
    inputs = TOWERS["qwen2_5_vl"].inputs(tower, ONE)
    with lckernels.patched(tower):
        forward(tower, inputs)
        assert vars(module) == before
        assert dict(vars(type(layer))) == attributes
        assert tower.config is config
        assert {m.config._attn_implementation for m in tower.modules() if hasattr(m, "config")} == {"sdpa"}
        assert "forward" not in vars(attention_layer(other))


def test_another_thread_loops(calls, one_thread):
    """lckernels' attention in a thread's context: the other thread's forward has the model's own."""
    tower = build_tower("qwen2_5_vl")
    inputs = TOWERS["qwen2_5_vl"].inputs(tower, TOWERS["qwen2_5_vl"].grids)
    expected, outs = forward(tower, inputs), []
    with lckernels_attention(tower):
        thread = threading.Thread(target=lambda: outs.append(forward(tower, inputs)))
        thread.start()
        thread.join()
        assert not calls
        assert_equal(outs[0], expected, 0)
        assert_equal(forward(tower, inputs), expected)
    assert len(calls) == 2


def test_an_implementation_that_is_set_later(calls, one_thread):
    tower = build_tower("qwen2_5_vl")
    inputs = TOWERS["qwen2_5_vl"].inputs(tower, TOWERS["qwen2_5_vl"].grids)
    expected = forward(tower, inputs)
    with lckernels.patched(tower):
        tower.set_attn_implementation("eager")
        assert_equal(forward(tower, inputs), expected)
        assert not calls


def test_dropout(calls):
    """Training: a layer has one call, and its dropout."""
    tower = build_tower("qwen2_vl").train()
    inputs = TOWERS["qwen2_vl"].inputs(tower, TOWERS["qwen2_vl"].grids)
    expected = forward(tower, inputs)
    for layer in tower.modules():
        if hasattr(layer, "attention_dropout"):
            layer.attention_dropout = 0.5
    with lckernels.patched(tower):
        outs = [forward(tower, inputs) for _ in range(2)]
    assert len(calls) == 4
    assert not torch.equal(*outs)
    assert not torch.allclose(outs[0], expected, rtol=1e-2)


def test_in_a_multimodal_model(calls, one_thread):
    """A window changes the text's layers; the tower's stay exact, and are in the report."""
    model, inputs = hf_images.build("qwen2_vl")
    with torch.no_grad():
        expected = model(**inputs).logits
        with lckernels.patched(model) as report:
            assert_equal(model(**inputs).logits, expected)
        assert [call.kind.packed for call in calls] == [True, True, False, False]
        with lckernels.patched(model, window=4) as narrowed:
            pass
    towers = [row for row in report.rows if "visual" in row.layer]
    assert [(row.kind, row.verdict, row.backend) for row in towers] == [(PACKED_ROW, "exact", "cpu")] * 2
    assert [row for row in narrowed.rows if "visual" in row.layer] == towers
    assert not report.unknown
