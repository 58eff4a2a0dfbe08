"""quantize: a token's result is its own alone, closeness, which layers and calls, and the way back."""

# ruff: noqa: E402

import copy
import io
import warnings

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="quantize reads transformers models")

from helpers.fresh_python import run
from helpers.hf_patched import attributes

import lckernels
from lckernels.hf import int8

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(bool(int8.missing()), reason=f"no int8 products: {int8.missing()}"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def bert(dtype=torch.float32, labels=0):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, max_position_embeddings=64, num_labels=labels or 2,
    )  # fmt: skip
    cls = transformers.BertForTokenClassification if labels else transformers.BertModel
    return cls(config).to(dtype).eval()


def rows(count=6, length=40):
    return torch.randint(1, 50, (count, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def states(model, ids):
    return model(ids)[0]


def error(got, truth):
    return ((got.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_has_the_bits_of_any_batch(dtype):
    """Also beside an outlier: the embedding of one token is 1,000 times as large."""
    model, ids = bert(dtype), rows()
    with torch.no_grad():
        model.embeddings.LayerNorm.weight[::7] *= 8
        model.embeddings.word_embeddings.weight[49] *= 1000
    ids[ids == 49] = 3
    outlier = ids[:1].clone()
    outlier[0, 5] = 49
    lckernels.quantize(model)
    together = states(model, ids)
    for i, row in enumerate(ids):
        assert torch.equal(states(model, row[None])[0], together[i])
        assert torch.equal(states(model, torch.cat([outlier, row[None]]))[1], together[i])


def test_torchs_own_quantization_fails_that():
    """The same of torch's quantize_dynamic: its rows depend on their batch, so the test above can fail."""
    model, ids = bert(), rows(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not torch.equal(states(own, ids[:1])[0], states(own, ids)[0])


@pytest.mark.parametrize("count", [1, 2, 17, int8.ROWS - 1, int8.ROWS, int8.ROWS + 1, 2 * int8.ROWS + 5])
def test_the_result_is_that_of_the_definition(count):
    """By integers in float64: two scales, rounded values, exact sums."""
    torch.manual_seed(2)
    layer = nn.Linear(50, 37)
    x = torch.randn(count, 50) * torch.logspace(-3, 3, count)[:, None]
    x[: count - 1 : 3] = 0
    matrix = int8.quantize_weight(layer.weight)
    with torch.no_grad():
        got = int8.int8_linear(x, matrix, layer.bias)
        scale = x.abs().amax(1, keepdim=True).mul(1 / 127).clamp_min(1e-30)
        by_feature = layer.weight.abs().amax(1) / 127
        integers = torch.floor(x / scale + 128.5) - 128, torch.round(layer.weight / by_feature[:, None])
        exact = (integers[0].double() @ integers[1].double().T) * by_feature * scale + layer.bias
        pieces = torch.cat([int8.int8_linear(part, matrix, layer.bias) for part in x[-40:].split(1)])
    assert integers[0].abs().max() == 127 == integers[1].abs().max()
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(pieces, got[-40:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_that_of_eight_bits(dtype):
    model, ids = bert(), rows()
    truth = states(copy.deepcopy(model).double(), ids)
    model.to(dtype)
    honest = error(states(model, ids), truth)
    report = lckernels.quantize(model)
    got = states(model, ids)
    assert got.dtype is dtype and len(report.layers) == 13 and not report.left
    assert honest < error(got, truth) < 0.05
    assert "13 of 13 linear layers in int8" in str(report)


def test_a_nan_stays_in_its_row():
    layer = nn.Linear(64, 64).requires_grad_(False)
    x = torch.randn(3, 64)
    clean = x.clone()
    x[1, 7] = float("nan")
    with lckernels.quantized(layer):
        got, expected = layer(x), layer(clean)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], expected[[0, 2]])


def test_the_way_back_restores_everything():
    model, ids = bert(), rows()
    before, names, own = states(model, ids), attributes(model), model.state_dict()
    with lckernels.quantized(model):
        assert not torch.equal(states(model, ids), before)
        assert model.state_dict().keys() == own.keys()
    assert torch.equal(states(model, ids), before)
    assert attributes(model) == names


def test_calls_with_gradients_run_the_layers_own_code():
    model, ids = bert(), rows()
    before = model(ids)[0]
    lckernels.quantize(model)
    after = model(ids)[0]
    assert torch.equal(after, before)
    after.sum().backward()
    assert model.encoder.layer[0].output.dense.weight.grad is not None


@pytest.mark.parametrize("change", ["step", "data", "load_state_dict"])
def test_a_changed_weight_is_quantized_again(change):
    model, other, ids = bert(), bert(), rows()
    layer, changed = model.encoder.layer[1].output.dense, other.encoder.layer[1].output.dense
    with torch.no_grad():
        changed.weight.mul_(-1)
    lckernels.quantize(model)
    states(model, ids)
    if change == "step":
        with torch.no_grad():
            layer.weight.mul_(-1)
    elif change == "data":
        layer.weight.data = changed.weight.data
    else:
        model.load_state_dict(other.state_dict())
    lckernels.quantize(other)
    assert torch.equal(states(model, ids), states(other, ids))


def test_copies_are_quantized_too():
    model, ids = bert(), rows()
    lckernels.quantize(model)
    expected = states(model, ids)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(states(copied, ids), expected)
        lckernels.unquantize(copied)
        assert not torch.equal(states(copied, ids), expected)
    assert torch.equal(states(model, ids), expected)


def test_heads_and_adapters_are_left():
    model = bert(labels=3)
    report = lckernels.quantize(model)
    assert report.left == {"classifier": "fewer than 32 features"}
    assert len(report.layers) == 12
    assert "left 1: fewer than 32 features" in str(report)


def test_a_lengthened_model_and_a_long_encoder():
    """A text of several chunks: the states of quantized layers, closer to fp32 than another text's."""
    model, ids = bert(), rows(1, 150)
    encoder = lckernels.LongEncoder(model, special_tokens=(0, 0), chunk_len=32, overlap=8).eval()
    plain = states(encoder, ids)
    with lckernels.quantized(encoder):
        in_int8 = states(encoder, ids)
    assert 0 < error(in_int8, plain.double()) < 0.05
    with (
        lckernels.quantized(model),
        lckernels.lengthened(model, special_tokens=(0, 0), chunk_len=32, overlap=8),
    ):
        assert torch.equal(states(model, ids), in_int8)


def test_peft_and_its_merge():
    """The base layers are in int8; merged weights are rounded again, and unmerged ones as before."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query", "value"], r=4, init_lora_weights=False)
    model, ids = peft.get_peft_model(bert(), config).eval(), rows()
    truth = states(model, ids).double()
    with lckernels.quantized(model) as report:
        assert len(report.layers) == 13 and len(report.left) == 8  # two matrices for each adapted layer
        apart = states(model, ids)
        model.merge_adapter()
        merged = states(model, ids)
        assert 0 < error(apart, truth) < 0.05 and 0 < error(merged, truth) < 0.05
        assert not torch.equal(merged, apart)
        model.unmerge_adapter()
        assert error(states(model, ids), apart.double()) < error(apart, truth) / 4
    assert error(states(model, ids), truth) < 1e-5


def test_patched_attention_and_packed_weights():
    """patch has no effect on int8 layers; linear="packed" leaves them."""
    model, ids = bert(), rows()
    lckernels.quantize(model)
    expected = states(model, ids)
    with lckernels.patched(model, linear="packed") as report:
        assert report.linear is None or not report.linear.packed
        assert error(states(model, ids), expected.double()) < 0.02
    assert torch.equal(states(model, ids), expected)


def test_bad_input():
    model = bert()
    with pytest.raises(TypeError, match=r"model: got str; expected a torch.nn.Module"):
        lckernels.quantize("model")
    with pytest.raises(ValueError, match="model: got BertModel, not quantized; expected a model after"):
        lckernels.unquantize(model)
    with pytest.raises(
        ValueError, match=r"13 left: its weight is on meta\); expected linear layers on the CPU"
    ):
        lckernels.quantize(copy.deepcopy(model).to("meta"))
    with pytest.raises(ValueError, match=r"Tanh \(no torch.nn.Linear\); expected linear layers"):
        lckernels.quantize(nn.Tanh())
    with pytest.raises(ValueError, match="13 left: its weight is float64"):
        lckernels.quantize(copy.deepcopy(model).double())
    lckernels.quantize(model)
    with pytest.raises(
        ValueError, match=r"model: got BertModel, quantized; lckernels.unquantize restores it"
    ):
        lckernels.quantize(model)


def test_a_machine_without_exact_products(monkeypatch):
    monkeypatch.setattr(int8, "_products_are_exact", lambda: False)
    int8.missing.cache_clear()
    try:
        with pytest.raises(ValueError, match="its int8 products overflow"):
            lckernels.quantize(bert())
    finally:
        int8.missing.cache_clear()


def test_below_vnni_the_check_sees_what_overflows():
    """oneDNN limited to AVX-512 without VNNI: its products are exact there, or `missing` has the reason."""
    program = """
import torch
from lckernels.hf import int8
matrix = int8.quantize_weight(torch.full((32, 64), 127.0))
rows = torch.full((2, 64), 255, dtype=torch.uint8)
exact = torch.equal(matrix.product(rows), torch.full((2, 32), 127.0 * 127 * 64))
assert exact or "overflow" in int8.missing(), int8.missing()
"""
    done = run(program, ONEDNN_MAX_CPU_ISA="AVX512_CORE")
    assert done.returncode == 0, done.stderr
