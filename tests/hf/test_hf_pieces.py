"""A gated MLP on packed weights runs in pieces of rows: same bits, which calls do, and which do not."""

# ruff: noqa: E402

import copy

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.compare import assert_as_good_as
from helpers.hf_patched import tiny_mistral
from helpers.packed_linear import packs, set_speed

import lckernels
from lckernels.hf import fused
from lckernels.hf.patch.linear import onednn
from lckernels.hf.pieces import in_pieces

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not packs(), reason="this torch has no packed weights"),
]
ROWS = 70  # of a piece


@pytest.fixture
def rows(monkeypatch):
    """The numbers of rows of the products, in order."""
    set_speed(monkeypatch)
    monkeypatch.setattr(fused, "_GATED_ROWS", ROWS)
    found, product = [], onednn.product
    monkeypatch.setattr(
        onednn, "product", lambda x, *given: found.append(x.numel() // x.shape[-1]) or product(x, *given)
    )
    return found


def mlp_of(dtype=torch.float32, packed=True):
    torch.manual_seed(0)
    model = tiny_mistral().to(dtype)
    if packed:
        lckernels.patch(model, linear="packed")
    return model, model.model.layers[0].mlp


def inputs(model, *shape, dtype=torch.float32):
    return torch.randn(*shape, model.config.hidden_size, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 140), (1, 141), (2, 139), (3, 7, 20), (419,)])
def test_same_bits_as_whole(dtype, shape, rows, monkeypatch):
    if not packs(dtype):
        pytest.skip(f"oneDNN packs no {dtype} here")
    model, mlp = mlp_of(dtype)
    x = inputs(model, *shape, dtype=dtype)
    count = x.numel() // x.shape[-1]
    with torch.no_grad():
        got = mlp(x)
        pieces = count // ROWS
        assert sum(rows) == 3 * count and len(rows) == 3 * pieces and min(rows) >= ROWS
        monkeypatch.setattr(fused, "_GATED_ROWS", 1 << 40)
        rows.clear()
        whole = mlp(x)
    assert rows == [count] * 3
    assert torch.equal(got, whole) and got.shape == x.shape and got.stride() == whole.stride()


def test_results_are_as_close_to_fp64(rows):
    model, mlp = mlp_of()
    x = inputs(model, 1, 300)
    with torch.no_grad():
        _, own = mlp_of(packed=False)
        truth = copy.deepcopy(own).double()(x.double())
        assert_as_good_as(mlp(x), truth, own(x))
    assert len(rows) == 3 * 4


def test_pieces_are_rows_of_each_thread(rows):
    model, mlp = mlp_of()
    x = inputs(model, 1, 4 * ROWS)
    torch.set_num_threads(2)
    with torch.no_grad():
        mlp(x)
    assert rows == [2 * ROWS] * 6


def hook_on(name):
    def change(mlp):
        getattr(mlp, name).register_forward_hook(lambda *_: None)

    return change


def class_of(name):
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x) - x.mean(0)[..., :1]  # of other rows

    def change(mlp):
        getattr(mlp, name).__class__ = Mine

    return change


def forward_of(name):
    def change(mlp):
        own = getattr(mlp, name)
        own.forward = lambda x: nn.functional.linear(x, own.weight) - x.mean(0)[..., :1]

    return change


def activation(mlp):
    mlp.act_fn = nn.Softmax(dim=0)


LAYERS = ("gate_proj", "up_proj", "down_proj")
CHANGES = {f"{f.__name__} {name}": f(name) for f in (hook_on, class_of, forward_of) for name in LAYERS}
CHANGES |= {"hook_on act_fn": hook_on("act_fn"), "activation": activation}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_other_modules_get_all_rows(change, when, rows):
    model, mlp = mlp_of(packed=False)
    x = inputs(model, 150)
    with torch.no_grad():
        own = copy.deepcopy(mlp)
        CHANGES[change](own)
        expected = own(x)
        if when == "before":
            CHANGES[change](mlp)
        lckernels.patch(model, linear="packed")
        if when == "after":
            CHANGES[change](mlp)
        got = mlp(x)
    assert set(rows) <= {150}
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_calls_that_run_whole():
    sizes = []

    def function(x):
        sizes.append(x.shape)
        return x * 2

    x = torch.randn(6, 4)
    others = x.t().contiguous().t(), torch.empty(0, 4), torch.empty(6, 0), torch.tensor(1.0), x.to("meta")
    for given in (x, *others):
        sizes.clear()
        with torch.no_grad():
            result = in_pieces(function, given, 2)
        split = given is x
        assert len(sizes) == (3 if split else 1), given
        assert result.shape == given.shape
    sizes.clear()
    in_pieces(function, x, 2)  # under grad mode
    with torch.no_grad(), torch.autocast("cpu"):
        in_pieces(function, x, 2)
    with torch.no_grad():
        torch.func.vmap(lambda x: in_pieces(function, x, 2))(x[None])
        in_pieces(function, nn.Parameter(x), 2)
    assert sizes == [x.shape] * 4


def test_a_subclass_of_tensor_runs_whole(rows):
    class Mine(torch.Tensor):
        pass

    sizes = []
    with torch.no_grad():
        in_pieces(lambda x: sizes.append(x.shape) or x, torch.randn(6, 4).as_subclass(Mine), 2)
    assert sizes == [(6, 4)]


def test_the_model_and_its_gradients(rows):
    model, _ = mlp_of(packed=False)
    ids = torch.arange(300)[None] % model.config.vocab_size
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    lckernels.patch(model, linear="packed")
    with torch.no_grad():
        got = model(input_ids=ids).logits
    assert 75 in rows
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    rows.clear()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert not rows
