"""LongEncoder(..., linear="packed"): within its calls, in its thread, and with patch and lengthen."""

# ruff: noqa: E402

import copy
import threading

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.compare import assert_as_good_as
from helpers.encoder_models import FAMILIES, tiny, token_ids
from helpers.hf_patched import attributes
from helpers.packed_linear import count_products, linear_layers, packed_layers, packs, set_speed

import lckernels
from lckernels.hf.patch.linear import measure, onednn
from lckernels.hf.patch.linear.measure import Speed

pytestmark = pytest.mark.skipif(not packs(), reason="this torch has no packed weights")
IDS = token_ids(90)[None]


@pytest.fixture
def products(monkeypatch):
    set_speed(monkeypatch)
    return count_products(monkeypatch)


def states(encoder, ids=IDS):
    with torch.no_grad():
        return encoder(input_ids=ids).last_hidden_state


CASES = [(family, "final") for family in FAMILIES]
CASES += [(family, "layer") for family in ("bert", "roberta", "distilbert")]


@pytest.mark.parametrize(("family", "merge"), CASES)
def test_results_and_the_model_afterwards(family, merge, products):
    model = tiny(family)
    before = attributes(model)
    truth = states(lckernels.LongEncoder(copy.deepcopy(model).double(), merge=merge))
    own = states(lckernels.LongEncoder(model, merge=merge))
    encoder = lckernels.LongEncoder(model, merge=merge, linear="packed")
    assert encoder.linear_report is None and not products
    got = states(encoder)
    assert_as_good_as(got, truth, own)
    assert len(encoder.linear_report.packed) == len(linear_layers(model))
    assert ("gelu", "none") in products
    assert attributes(model) == before
    products.clear()
    with torch.no_grad():
        model(input_ids=IDS[:, :20])
    assert not products
    assert torch.equal(states(encoder), got) and products


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_feed_forwards_run_in_pieces(family, monkeypatch):
    """merge="layer" runs a feed-forward over at most max_tokens."""
    set_speed(monkeypatch)
    rows = []
    product = onednn.product
    monkeypatch.setattr(
        onednn, "product", lambda x, *given: rows.append((given[-1], x[..., 0].numel())) or product(x, *given)
    )
    encoder = lckernels.LongEncoder(tiny(family), merge="layer", linear="packed", max_tokens=40)
    states(encoder)
    assert {count for activation, count in rows if activation == ("gelu", "none")} <= set(range(41))
    assert max(count for _, count in rows) >= 90


def test_one_chunk_and_empty_packing(monkeypatch):
    set_speed(monkeypatch, Speed())
    model = tiny("bert")
    encoder = lckernels.LongEncoder(model, linear="packed")
    ids = IDS[:, :12]
    assert torch.equal(states(encoder, ids), states(lckernels.LongEncoder(model), ids))
    assert encoder.linear_report.packed == () and encoder.linear_report.nbytes == 0


def test_other_threads_run_the_models_own(products):
    model = tiny("bert")
    encoder = lckernels.LongEncoder(model, linear="packed")
    states(encoder)
    seen = []

    def other():
        products.clear()
        with torch.no_grad():
            model(input_ids=IDS[:, :20])
        seen.append(list(products))

    def hook(module, *_):
        thread = threading.Thread(target=other)
        handle.remove()
        thread.start()
        thread.join()

    handle = model.encoder.layer[1].register_forward_pre_hook(hook)
    states(encoder)
    assert seen == [[]] and products


def test_packed_once_until_the_layers_change(products, monkeypatch):
    from lckernels.hf.patch.linear import choice

    made, plan = [], choice.plan_linear
    monkeypatch.setattr(choice, "plan_linear", lambda model: made.append(1) or plan(model))
    model = tiny("bert")
    encoder = lckernels.LongEncoder(model, linear="packed")
    first = states(encoder)
    states(encoder)
    assert len(made) == 1
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.mul_(2)
    changed = states(encoder)
    assert len(made) == 1 and not torch.equal(changed, first)
    torch.testing.assert_close(changed, states(lckernels.LongEncoder(model)), rtol=1e-4, atol=1e-5)
    model.to(torch.float64)
    assert states(encoder).dtype is torch.float64 and len(made) == 2
    assert {row.reason for row in encoder.linear_report.rows} == {"its weight is float64"}
    model.to(torch.float32)
    products.clear()
    torch.testing.assert_close(states(encoder), changed, rtol=1e-4, atol=1e-5)
    assert len(made) == 3 and products


def test_gradients_are_those_of_the_model(products):
    model = tiny("bert")
    results = []
    for linear in (None, "packed"):
        model.zero_grad()
        encoder = lckernels.LongEncoder(model, linear=linear)
        encoder(input_ids=IDS).last_hidden_state.square().mean().backward()
        results.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(map(torch.equal, *results)) and not products


@pytest.mark.parametrize("order", ["encoder first", "patch first"])
def test_with_a_patch(order, products):
    model = tiny("bert")
    own = states(lckernels.LongEncoder(model))
    before = attributes(model)
    encoder = lckernels.LongEncoder(model, linear="packed")
    if order == "encoder first":
        states(encoder)
    lckernels.patch(model, linear="packed")
    patched = attributes(model)
    torch.testing.assert_close(states(encoder), own, rtol=1e-4, atol=1e-5)
    assert attributes(model) == patched
    lckernels.unpatch(model)
    assert attributes(model) == before
    torch.testing.assert_close(states(encoder), own, rtol=1e-4, atol=1e-5)
    assert attributes(model) == before and products


@pytest.mark.parametrize("order", ["patch first", "lengthen first"])
def test_a_lengthened_model_is_patched(order, products):
    model = tiny("bert")
    before = attributes(model)
    steps = {
        "patch": lambda: lckernels.patch(model, linear="packed"),
        "lengthen": lambda: lckernels.lengthen(model),
    }
    own = states(lckernels.LongEncoder(copy.deepcopy(model), summary="mean"))
    steps[order.split()[0]]()
    steps["lengthen" if order == "patch first" else "patch"]()
    torch.testing.assert_close(states(model), own, rtol=1e-4, atol=1e-5)
    assert products
    lckernels.unpatch(model)
    lckernels.unlengthen(model)
    assert attributes(model) == before


def test_the_option(products):
    model = tiny("bert")
    with pytest.raises(ValueError, match="linear: got 'packd'; allowed are None and 'packed'"):
        lckernels.LongEncoder(model, linear="packd")
    encoder = lckernels.LongEncoder(model, linear="packed")
    assert encoder.options["linear"] == "packed" and lckernels.LongEncoder(model).options["linear"] is None
    expected = states(encoder)
    other = copy.deepcopy(encoder)
    assert other.linear_report is None and torch.equal(states(other), expected)
    assert not packed_layers(other.model) and list(other.state_dict()) == list(encoder.state_dict())


def test_same_bits_for_any_number_of_threads(products):
    encoder = lckernels.LongEncoder(tiny("bert"), linear="packed")
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(states(encoder))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, found[0]) for x in found)


def test_a_measurement_stays_within_its_time(monkeypatch):
    """The clock stands still in a call and moves between them; each shape has a part of the time."""
    now = [0.0]

    def perf_counter():
        now[0] += 0.001
        return now[0]

    monkeypatch.setattr(measure, "_known", {})
    monkeypatch.setattr(measure.time, "perf_counter", perf_counter)
    weights = [torch.nn.Parameter(torch.randn(8 * n, 16)) for n in range(1, 5)]
    begin = now[0]
    found = measure.speeds(weights)
    assert set(found) == {(16, 8 * n, torch.float32) for n in range(1, 5)}
    assert now[0] - begin < measure.SECONDS + 0.1
    ratios = [ratio for speed in found.values() for ratio in (speed.one, speed.few, speed.many)]
    assert all(ratio >= 0 for ratio in ratios) and any(speed.many for speed in found.values())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_shapes_are_measured_in_a_context_without_gradients(mode, monkeypatch):
    monkeypatch.setattr(measure, "_known", {})
    weight = torch.nn.Parameter(torch.randn(256, 256))
    with mode():
        (speed,) = measure.speeds([weight]).values()
    assert speed.many and not speed.error


def test_a_slower_product_is_not_chosen(monkeypatch):
    product = onednn.product

    def slower(*given):
        for _ in range(4):
            product(*given)
        return product(*given)

    monkeypatch.setattr(measure, "_known", {})
    monkeypatch.setattr(onednn, "product", slower)
    (speed,) = measure.speeds([torch.nn.Parameter(torch.randn(256, 256))]).values()
    assert not speed.rows


def test_a_processor_without_a_dtype_leaves_its_layers(monkeypatch):
    from lckernels.hf.patch.linear import weight

    def pack(*given):
        raise RuntimeError("fp16 path needs avx512_fp16\nmore")

    monkeypatch.setattr(measure, "_known", {})
    monkeypatch.setattr(weight.onednn, "pack", pack)
    (speed,) = measure.speeds([torch.nn.Parameter(torch.randn(16, 16))]).values()
    assert speed.error == "fp16 path needs avx512_fp16" and not speed.rows
