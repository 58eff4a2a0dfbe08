"""Layers on packed weights: weights that change, inputs of all forms, hooks, modes, transforms and graphs."""

# ruff: noqa: E402

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_patched import IDS, attributes, logits
from helpers.packed_linear import count_products, packed_layers, packs, set_speed
from torch.utils.flop_counter import FlopCounterMode

import lckernels
from lckernels.hf.patch.linear import weight as packed_weight

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not packs(), reason="this torch has no packed weights"),
]
X = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def products(monkeypatch):
    set_speed(monkeypatch)
    return count_products(monkeypatch)


@pytest.fixture
def model(products):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        initializer_range=0.3,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    lckernels.patch(model, linear="packed")
    return model


@pytest.fixture
def layer(model):
    return model.pooler.dense


def check(layer, x=X):
    """The layer's result is that of its present weight."""
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def optimizer_step(layer):
    layer.weight.grad = torch.ones_like(layer.weight)
    torch.optim.AdamW([layer.weight], lr=0.1).step()


def merged_by_peft(layer):
    layer.weight.data += torch.ones_like(layer.weight)  # PEFT's merge


def shared_memory(layer):
    layer.weight.share_memory_()
    with torch.no_grad():
        layer.weight.mul_(2)


def other_stride(layer):
    layer.weight.data = layer.weight.data.t()


def in_inference_mode(layer):
    with torch.inference_mode():
        layer.weight.mul_(3)


CHANGES = {
    "optimizer": optimizer_step,
    "load_state_dict": lambda layer: layer.load_state_dict(nn.Linear(32, 32).state_dict()),
    "assign": lambda layer: layer.load_state_dict(nn.Linear(32, 32).state_dict(), assign=True),
    "data in place": lambda layer: layer.weight.data.mul_(-1),
    "data": lambda layer: setattr(layer.weight, "data", torch.randn(32, 32)),
    "data +=": merged_by_peft,
    "parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(32, 32))),
    "init": lambda layer: nn.init.normal_(layer.weight),
    "shared memory": shared_memory,
    "stride": other_stride,
    "inference mode": in_inference_mode,
    "bias": lambda layer: layer.bias.data.fill_(7),
    "no bias": lambda layer: setattr(layer, "bias", None),
    "vector": lambda layer: nn.utils.vector_to_parameters(torch.randn(32 * 33), layer.parameters()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_seen_at_the_next_call(change, layer, products):
    check(layer)
    for _ in range(2):
        CHANGES[change](layer)
        check(layer)
        check(layer)
    assert products


def test_a_changed_weight_is_packed_again_once(layer, monkeypatch):
    packed = []
    pack = packed_weight.onednn.pack
    monkeypatch.setattr(packed_weight.onednn, "pack", lambda *given: packed.append(1) or pack(*given))
    check(layer)
    assert not packed
    nn.init.normal_(layer.weight)
    check(layer)
    check(layer)
    assert len(packed) == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (32, 32), (384, 1536), (1536, 384), (1000, 256)])
def test_the_sampled_values_are_of_many_rows_and_columns(size):
    rows, columns = size
    places = torch.arange(rows * columns)[:: packed_weight._sample_step(*size)][: packed_weight.SAMPLE]
    assert len(places) == min(packed_weight.SAMPLE, rows * columns)
    assert len((places // columns).unique()) >= min(rows, packed_weight.SAMPLE) * 0.9
    assert len((places % columns).unique()) >= min(columns, packed_weight.SAMPLE) * 0.6


def test_another_dtype_is_the_layers_own(layer, products):
    layer.to(torch.float64)
    check(layer, X.double())
    assert not products
    layer.to(torch.float32)
    check(layer)
    assert products


def test_another_shape_is_the_layers_own(layer, products):
    layer.weight.data = layer.weight.data[:10]
    layer.bias.data = layer.bias.data[:10]
    check(layer)
    assert not products


@pytest.mark.parametrize("way", ["parametrize", "weight_norm", "prune"])
def test_a_computed_weight_is_the_layers_own(way, layer, products):
    if way == "parametrize":
        nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
    elif way == "weight_norm":
        nn.utils.parametrizations.weight_norm(layer)
    else:
        prune.l1_unstructured(layer, "weight", 0.5)
    check(layer)
    assert not products


def test_untied_weights_are_packed_apart(products):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    model = transformers.BertModel(config).eval()
    attention = model.encoder.layer[0].attention.self
    attention.key.weight = attention.query.weight
    lckernels.patch(model, linear="packed")
    attention.key.weight = nn.Parameter(torch.randn(32, 32))
    check(attention.key)
    check(attention.query)


INPUTS = {
    "no row": torch.randn(0, 32),
    "one dimension": torch.randn(32),
    "one row": torch.randn(1, 32),
    "four dimensions": torch.randn(2, 3, 4, 32),
    "transposed": torch.randn(32, 7).t(),
    "strided": torch.randn(7, 64)[:, ::2],
    "expanded": torch.randn(1, 32).expand(9, 32),
    "offset": torch.randn(5, 33)[:, 1:],
    "parameter": nn.Parameter(torch.randn(3, 32)),
    "many rows": torch.randn(3, 100, 32),
}


@pytest.mark.parametrize("form", INPUTS)
def test_inputs_of_all_forms(form, layer):
    x = INPUTS[form]
    with torch.no_grad():
        got, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert got.shape == expected.shape and got.is_contiguous() and not got.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(layer(input=x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "x",
    [torch.randn(3, 31), torch.randn(3, 32).double(), torch.tensor(1.0), torch.ones(3, 32).long(), "text"],
)
def test_bad_input_has_torchs_own_error(x, layer):
    own = nn.Linear(32, 32)
    with torch.no_grad():
        with pytest.raises((RuntimeError, TypeError)) as expected:
            own(x)
        with pytest.raises(expected.type) as got:
            layer(x)
    assert str(got.value) == str(expected.value)


def test_an_inference_tensor(layer, products):
    with torch.inference_mode():
        got = layer(X.clone())
    torch.testing.assert_close(got, F.linear(X, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
    assert products and got.is_inference()


@pytest.mark.parametrize("trained", ["input", "weight", "bias"])
def test_gradients_are_the_layers_own(trained, layer, products):
    layer.requires_grad_(False)
    x = X.clone()
    {"input": x, "weight": layer.weight, "bias": layer.bias}[trained].requires_grad_()
    assert layer(x).requires_grad and not products


@pytest.mark.parametrize("name", ["dense", "intermediate_act_fn"])
def test_hooks_run_once_per_call(name, model, products):
    first = model.encoder.layer[0].intermediate
    seen = []
    expected = logits(model, input_ids=IDS)
    assert products.count(("gelu", "none")) == 1
    handle = getattr(first, name).register_forward_hook(lambda module, args, output: seen.append(output))
    got = logits(model, input_ids=IDS)
    assert len(seen) == 1 and products.count(("gelu", "none")) == 1
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    handle.remove()
    logits(model, input_ids=IDS)
    assert products.count(("gelu", "none")) == 2


def test_hooks_of_all_modules_run(model):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    logits(model, input_ids=IDS)
    handle.remove()
    first = model.encoder.layer[0].intermediate
    assert first.dense in seen and first.intermediate_act_fn in seen


def test_autocast_is_the_layers_own(layer, products):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(X).dtype is torch.bfloat16 and not products


def test_flops_are_counted(layer, products):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(X)
    assert counter.get_total_flops() == 2 * 5 * 32 * 32 and not products


def test_mkldnn_may_be_disabled(layer, products):
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        layer(X)
    assert not products


def test_functional_call_has_its_own_weights(layer, products):
    given = {"weight": torch.zeros(32, 32), "bias": torch.ones(32)}
    with torch.no_grad():
        got = torch.func.functional_call(layer, given, (X,))
    assert torch.equal(got, torch.ones(5, 32)) and not products


def test_transforms_of_torch_func(layer, products):
    with torch.no_grad():
        expected = F.linear(X, layer.weight, layer.bias)
        torch.testing.assert_close(torch.func.vmap(layer)(X), expected)
        _, tangent = torch.func.jvp(layer, (X,), (torch.ones_like(X),))
        torch.testing.assert_close(tangent, F.linear(torch.ones_like(X), layer.weight))
    assert not products


def test_fake_and_meta_tensors(model, products):
    from torch._subclasses import FakeTensorMode

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model.pooler.dense(mode.from_tensor(X)).shape == (5, 32)
    meta = copy.deepcopy(model).to("meta").pooler.dense
    with torch.no_grad():
        assert meta(X.to("meta")).shape == (5, 32) and not products


def test_traces_have_torchs_own_op(layer, products):
    with torch.no_grad():
        graph = str(torch.jit.trace(layer, X, check_trace=False).graph)
    assert "aten::linear" in graph and not products


def test_torch_compile_and_export(model, products):
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(input_ids=IDS).last_hidden_state
        count = len(products)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(input_ids=IDS).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
        exported = torch.export.export(model, (), {"input_ids": IDS}, strict=False)
    assert "linear_pointwise" not in str(exported.graph) and len(products) == count


def test_peft_and_its_merge(products):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    lora = peft.LoraConfig(target_modules=["query", "dense"], r=4, init_lora_weights=False)
    model = peft.get_peft_model(transformers.BertModel(config), lora).eval()
    own = logits(model, input_ids=IDS)
    lckernels.patch(model, linear="packed")
    torch.testing.assert_close(logits(model, input_ids=IDS), own, rtol=1e-4, atol=1e-5)
    assert products
    model.merge_adapter()
    torch.testing.assert_close(logits(model, input_ids=IDS), own, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model, input_ids=IDS), own, rtol=1e-4, atol=1e-5)
    lckernels.unpatch(model)
    assert not packed_layers(model)


@pytest.mark.parametrize("hooked", ["before", "after"])
def test_hooks_of_accelerate(hooked, model, products):
    hooks = pytest.importorskip("accelerate.hooks")
    layer = model.pooler.dense
    lckernels.unpatch(model)
    before = attributes(model)
    if hooked == "after":
        lckernels.patch(model, linear="packed")
    hooks.add_hook_to_module(layer, hooks.ModelHook())
    if hooked == "before":
        lckernels.patch(model, linear="packed")
    check(layer)
    lckernels.unpatch(model)
    check(layer)
    products.clear()
    hooks.remove_hook_from_module(layer)
    check(layer)
    assert not products and not packed_layers(model)
    layer.__dict__.pop("forward", None)  # accelerate leaves the class's own
    assert attributes(model) == before


def test_threads_share_a_changed_weight(layer):
    import threading

    errors = []

    def call():
        try:
            for _ in range(20):
                check(layer)
        except AssertionError as error:
            errors.append(error)

    nn.init.normal_(layer.weight)
    threads = [threading.Thread(target=call) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors
