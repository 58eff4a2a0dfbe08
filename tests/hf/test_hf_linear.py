"""patch(model, linear="packed"): results, which calls run on packed weights, the report, and the way back."""

# ruff: noqa: E402

import copy
import io

import pytest
import torch
from torch.nn import functional as F

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.compare import assert_as_good_as
from helpers.hf_patched import IDS, VALID, attributes, logits, model_of, tiny_mistral
from helpers.packed_linear import count_products, linear_layers, packed_layers, packs, set_speed

import lckernels
from lckernels.hf.patch.linear import measure, onednn
from lckernels.hf.patch.linear.measure import Speed

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not packs(), reason="this torch has no packed weights"),
]
MODELS = ["bert", "roberta", "distilbert", "modernbert", "mistral", "llama4_text", "gemma2"]
FUSED = {"bert": 2, "roberta": 2, "distilbert": 2, "mistral": 2, "gemma2": 2}  # layers with an activation


@pytest.fixture
def all_packed(monkeypatch):
    set_speed(monkeypatch)


@pytest.fixture
def products(monkeypatch, all_packed):
    return count_products(monkeypatch)


def encoder(dtype=torch.float32, activation="gelu"):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, hidden_act=activation,
    )  # fmt: skip
    return transformers.BertModel(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", "mistral"])
def test_results_are_as_close_to_fp64(name, dtype, products):
    if not packs(dtype):
        pytest.skip(f"oneDNN packs no {dtype} here")
    model = encoder() if name == "bert" else tiny_mistral()
    truth = logits(copy.deepcopy(model).double(), input_ids=IDS)
    model.to(dtype)
    own = logits(model, input_ids=IDS)
    lckernels.patch(model, linear="packed")
    got = logits(model, input_ids=IDS)
    assert len(products) == len(linear_layers(model))
    assert_as_good_as(got, truth, own)


def test_unpatch_restores_every_attribute(products):
    for model in (encoder(), tiny_mistral()):
        before, names = attributes(model), list(model.state_dict())
        report = lckernels.patch(model, linear="packed")
        assert len(packed_layers(model)) == len(linear_layers(model)) == len(report.linear.packed)
        assert list(model.state_dict()) == names
        lckernels.unpatch(model)
        assert attributes(model) == before
        own = logits(model, input_ids=IDS)
        assert not products
        with lckernels.patched(model, linear="packed"):
            logits(model, input_ids=IDS)
            assert products
        products.clear()
        assert torch.equal(logits(model, input_ids=IDS), own) and not products


def test_without_the_argument_linear_layers_are_left(products):
    model = encoder()
    report = lckernels.patch(model)
    assert report.linear is None and not packed_layers(model) and "linear" not in str(report)


def test_an_unknown_value_raises_before_any_change():
    model = encoder()
    before = attributes(model)
    with pytest.raises(ValueError, match="linear: got 'int3'; allowed are None and 'packed'"):
        lckernels.patch(model, linear="int3")
    assert attributes(model) == before


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "silu"])
def test_activations_are_in_the_product(activation, products):
    model = encoder(activation=activation)
    truth = logits(copy.deepcopy(model).double(), input_ids=IDS)
    own = logits(model, input_ids=IDS)
    lckernels.patch(model, linear="packed")
    got = logits(model, input_ids=IDS)
    expected = {"silu": ("swish", ""), "gelu": ("gelu", "none")}.get(activation, ("gelu", "tanh"))
    assert products.count(expected) == 2
    assert_as_good_as(got, truth, own)


@pytest.mark.parametrize("activation", ["relu", "gelu_10", "quick_gelu"])
def test_other_activations_run_after_the_product(activation, products):
    """ReLU too: oneDNN's is 0 for NaN."""
    model = encoder(activation=activation)
    own = logits(model, input_ids=IDS)
    lckernels.patch(model, linear="packed")
    torch.testing.assert_close(logits(model, input_ids=IDS), own, rtol=1e-4, atol=1e-5)
    assert set(products) == {onednn.IDENTITY}


@pytest.mark.parametrize("attr", ["gelu", "gelu_new", "silu"])
def test_nan_and_infinities_are_where_torch_has_them(attr):
    from transformers.activations import ACT2FN

    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1e30, -1e30, 20.0, -20.0])
    weight = torch.nn.Parameter(torch.eye(len(values)))
    packed = onednn.pack(weight, 64)
    x = values.repeat(3, 1)
    with torch.no_grad():
        got = onednn.product(x, packed, None, onednn.activation_of(ACT2FN[attr]))
        expected = F.linear(x, weight)
        torch.testing.assert_close(got, ACT2FN[attr](expected), equal_nan=True)


def test_an_activation_without_a_packed_layer_before_it(monkeypatch):
    set_speed(monkeypatch, Speed(2.0, 2.0, 0.5))  # not for 64 rows and more
    products = count_products(monkeypatch)
    model = encoder()
    ids = torch.randint(1, 50, (4, 20))
    own = logits(model, input_ids=ids)
    lckernels.patch(model, linear="packed")
    model.pooler.__dict__["forward"] = lambda states: None  # it has few rows
    model(input_ids=ids)
    assert not products
    torch.testing.assert_close(logits(model, input_ids=ids), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "name"), [(1, "one"), (2, "few"), (63, "few"), (64, "many"), (500, "many")])
def test_each_number_of_rows_has_its_choice(rows, name, monkeypatch):
    x = torch.randn(rows, 32)
    for gains in (True, False):
        set_speed(monkeypatch, Speed(**{"one": 2.0, "few": 2.0, "many": 2.0, name: 2.0 if gains else 1.0}))
        products = count_products(monkeypatch)
        model = encoder()
        report = lckernels.patch(model, linear="packed")
        with torch.no_grad():
            model.encoder.layer[0].attention.self.query(x)
        assert bool(products) == gains
        place = ("one", "few", "many").index(name)
        assert all(row.packed[place] == gains for row in report.linear.rows)


def test_layers_that_do_not_gain_are_left(monkeypatch):
    below = measure.SHORT_MARGIN - 0.001
    set_speed(monkeypatch, Speed(below, below, measure.MARGIN - 0.001))
    model = encoder()
    before = attributes(model)
    report = lckernels.patch(model, linear="packed")
    assert not packed_layers(model) and not report.linear.packed and report.linear.nbytes == 0
    assert f"left: not {measure.MARGIN}x as fast" in str(report)
    lckernels.unpatch(model)
    assert attributes(model) == before


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_number_of_rows_has_its_margin(place):
    """Below 64 rows it is larger."""
    margins = measure.SHORT_MARGIN, measure.SHORT_MARGIN, measure.MARGIN
    assert measure.SHORT_MARGIN > measure.MARGIN > 1
    ratios = [m - 0.001 for m in margins]
    assert not Speed(*ratios).rows
    ratios[place] = margins[place]
    rows = Speed(*ratios).rows
    assert [rows.take(n) for n in (1, 2, 63, 64)] == [
        [True, False, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ][place]


def test_the_report_has_layers_ratios_and_memory(all_packed):
    model = encoder()
    model.encoder.layer[1].output.dense.to(torch.float64)
    report = lckernels.patch(model, linear="packed").linear
    layers = linear_layers(model)
    assert sum(len(row.layers) for row in report.rows) == len(layers)
    assert report.nbytes == sum(4 * m.weight.numel() for m in layers[:-2] + layers[-1:])
    (left,) = [row for row in report.rows if row.reason]
    assert left.layers == ("encoder.layer.1.output.dense",) and left.reason == "its weight is float64"
    assert "12 of 13 linear layers packed by oneDNN" in str(report) and "2.00x" in str(report)


def test_a_subclass_is_left(all_packed):
    class Mine(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    model = encoder()
    model.pooler.dense.__class__ = Mine
    own = model(input_ids=IDS).pooler_output
    report = lckernels.patch(model, linear="packed").linear
    assert [row.reason for row in report.rows if "pooler.dense" in row.layers] == ["its class is Mine"]
    torch.testing.assert_close(model(input_ids=IDS).pooler_output, own)


def test_another_librarys_forward_is_left(products):
    model = encoder()
    layer = model.pooler.dense
    layer.forward = lambda x: torch.zeros_like(x)
    report = lckernels.patch(model, linear="packed").linear
    assert "pooler.dense" not in report.packed
    with torch.no_grad():
        assert not model(input_ids=IDS).pooler_output.any()


def test_tied_weights_share_one_copy(all_packed):
    model = tiny_mistral(tie_word_embeddings=True)
    model.model.layers[1].mlp.gate_proj.weight = model.model.layers[0].mlp.gate_proj.weight
    report = lckernels.patch(model, linear="packed").linear
    first, second = (layer.mlp.gate_proj.forward for layer in model.model.layers)
    assert first.weight is second.weight
    parameters = {id(m.weight): m.weight.numel() for m in linear_layers(model)}
    assert report.nbytes == 4 * sum(parameters.values())


@pytest.mark.parametrize("way", ["deepcopy", "save"])
def test_copies_are_patched(way, products):
    model = encoder()
    lckernels.patch(model, linear="packed")
    expected = logits(model, input_ids=IDS)
    if way == "deepcopy":
        other = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        other = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    products.clear()
    assert torch.equal(logits(other, input_ids=IDS), expected)
    assert len(products) == 13
    with torch.no_grad():
        other.pooler.dense.weight.zero_()
    assert torch.equal(logits(model, input_ids=IDS), expected)
    lckernels.unpatch(other)
    assert not packed_layers(other) and packed_layers(model)


def test_a_saved_model_is_the_models_own(tmp_path, all_packed):
    model = encoder()
    model.save_pretrained(tmp_path / "before")
    lckernels.patch(model, linear="packed")
    logits(model, input_ids=IDS)
    model.save_pretrained(tmp_path / "after")
    before, after = (sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("before", "after"))
    assert before == after
    assert all(
        (tmp_path / "before" / n).read_bytes() == (tmp_path / "after" / n).read_bytes() for n in before
    )


def test_gradients_are_the_models_own(products):
    model = tiny_mistral()

    def gradients():
        model.zero_grad()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    with lckernels.patched(model):
        expected = gradients()
    lckernels.patch(model, linear="packed")
    assert all(map(torch.equal, gradients(), expected)) and not products


def test_frozen_weights_are_packed_under_grad_mode(products):
    model = encoder().requires_grad_(False)
    lckernels.patch(model, linear="packed")
    model(input_ids=IDS)
    assert len(products) == 13


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_gives_the_same_tokens(cache, products):
    model = tiny_mistral()
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "cache_implementation": cache}
    expected = model.generate(IDS, **options)
    with lckernels.patched(model, linear="packed"):
        assert torch.equal(model.generate(IDS, **options), expected)
    assert products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(384, 384), (96, 200), (1536, 384)])
def test_bits_do_not_depend_on_threads_or_on_the_split_of_rows(size, dtype):
    if not packs(dtype):
        pytest.skip(f"oneDNN packs no {dtype} here")
    columns, features = size
    packed = onednn.pack(torch.randn(features, columns).to(dtype), 64)
    x = torch.randn(130, columns).to(dtype)

    def product(rows):
        return onednn.product(rows, packed, None, onednn.IDENTITY)

    whole = product(x)
    for cut in (2, 3, 7, 16, 31, 64, 65, 128):
        assert torch.equal(torch.cat([product(x[:cut]), product(x[cut:])]), whole), cut
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(product(x), whole)


def test_replicas_of_data_parallel_run_their_own(products):
    model = encoder()
    lckernels.patch(model, linear="packed")
    layer = model.pooler.dense
    replica = layer._replicate_for_data_parallel()
    replica._parameters = {"weight": torch.zeros_like(layer.weight), "bias": torch.ones_like(layer.bias)}
    with torch.no_grad():
        assert torch.equal(replica(torch.randn(2, 32)), torch.ones(2, 32)) and not products


@pytest.mark.parametrize("name", MODELS)
def test_other_architectures(name, products):
    model = model_of(name)
    own = logits(model)
    lckernels.patch(model, linear="packed")
    torch.testing.assert_close(logits(model)[VALID], own[VALID], rtol=1e-4, atol=1e-5)
    assert products and sum(x != onednn.IDENTITY for x in products) == FUSED.get(name, 0)
