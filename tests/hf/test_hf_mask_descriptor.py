"""A mask descriptor under tools that copy, move, record or query the tensors that a layer gets."""

# ruff: noqa: E402
import contextlib
import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import tiny, token_ids
from helpers.hf_patched import IDS, MASK, close, logits, model_of
from transformers import masking_utils as mu

import lckernels
from lckernels.hf.masks.create import key_mask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.options import Layout

pytestmark = pytest.mark.usefixtures("one_thread")

VALID = torch.ones(2, 11, dtype=torch.bool)
VALID[1, 5:7] = False


def descriptor(device="cpu"):
    function = mu.chunked_causal_mask_function(4, torch.tensor([0, 3]))
    return key_mask(2, 11, 11, 0, 0, function, VALID, device=device)


def assert_same(made, mask):
    assert type(made) is KeyMask
    assert (made.shape, made.dtype, made.device) == (mask.shape, mask.dtype, mask.device)
    assert made.window == mask.window
    assert torch.equal(made.dense(), mask.dense())


METHODS = (
    *("numel", "nelement", "dim", "ndimension", "size", "stride", "storage_offset", "element_size", "type"),
    *("get_device", "is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_conj", "is_neg"),
    *("is_inference", "__len__"),
)
ATTRIBUTES = (
    *("shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "requires_grad", "is_leaf", "grad"),
    *("grad_fn", "is_cuda", "is_meta", "is_sparse", "is_nested", "is_quantized", "_version"),
)
QUERIES = {
    **{f"x.{name}()": getattr(torch.Tensor, name) for name in METHODS},
    **{f"x.{name}": getattr(torch.Tensor, name).__get__ for name in ATTRIBUTES},
    "torch.is_tensor": torch.is_tensor,
    "torch.numel": torch.numel,
    "torch.is_floating_point": torch.is_floating_point,
    "torch.is_complex": torch.is_complex,
    "torch.get_device": torch.get_device,
}


@pytest.mark.parametrize("name", QUERIES)
def test_metadata_is_that_of_a_dense_mask(name):
    mask = descriptor()
    assert QUERIES[name](mask) == QUERIES[name](mask.dense())


COPIES = {
    "torch.clone": torch.clone,
    "torch.detach": torch.detach,
    "clone": lambda x: x.clone(memory_format=torch.preserve_format),
    "detach": torch.Tensor.detach,
    "detach then requires_grad": lambda x: x.detach().requires_grad_(x.requires_grad),
    "contiguous": torch.Tensor.contiguous,
    "cpu": torch.Tensor.cpu,
    "bool": torch.Tensor.bool,
    "to a device": lambda x: x.to(torch.device("cpu"), non_blocking=True),
    "to a tensor's": lambda x: x.to(torch.ones(1, dtype=torch.bool)),
    "to, copied": lambda x: x.to("cpu", copy=True),
    "data": lambda x: x.data,
    "view_as": lambda x: x.view_as(x),
    "alias": torch.ops.aten.alias.default,
    "whole slice": lambda x: x[:, :, :, : x.shape[-1]],
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}


def saved(x):
    file = io.BytesIO()
    torch.save({"mask": x}, file)
    file.seek(0)
    return torch.load(file, weights_only=False)["mask"]


COPIES["torch.save"] = saved


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_descriptors(name):
    mask = descriptor()
    assert_same(COPIES[name](mask), mask)


def test_moved_to_another_device():
    mask = descriptor()
    moved = mask.to("meta")
    where = moved.visible
    assert type(moved) is KeyMask
    assert (moved.window, moved.shape) == (mask.window, mask.shape)
    tensors = (moved, where.kv_start, where.kv_end, where.kv_mask, where.chunk_origin)
    assert {x.device.type for x in tensors} == {"meta"}


ARITHMETIC = {
    "add": lambda x: x + 1,
    "rsub": lambda x: 1.0 - x.to(torch.float32),
    "mul": lambda x: x.float() * -1e9,
    "where": lambda x: torch.where(x, 0.0, -1e9),
    "bitwise_not": lambda x: ~x,
    "logical_and": lambda x: torch.logical_and(x, x),
    "masked_fill": lambda x: torch.zeros(2, 1, 11, 11).masked_fill(x, 1.0),
    "add, as the second operand": lambda x: torch.zeros(2, 1, 11, 11) + x,
    "index, as the index": lambda x: torch.zeros(2, 1, 11, 11)[x],
    "sum": torch.Tensor.sum,
    "all": torch.Tensor.all,
    "eq": lambda x: x == x,
    "equal": lambda x: torch.equal(x, x),
    "transpose": lambda x: x.mT,
    "view": lambda x: x.view(2, 11, 11),
    "squeeze": lambda x: x.squeeze(1),
    "pad": lambda x: F.pad(x, (0, 3)),
    "cat with a tensor": lambda x: torch.cat([x, torch.ones(2, 1, 11, 3, dtype=torch.bool)], dim=-1),
    "write": lambda x: x.fill_(True),
    "set an item": lambda x: x.__setitem__((0, 0), True),
    "set a slice": lambda x: x.__setitem__((..., slice(3)), True),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_is_one_clear_error(name):
    with pytest.raises(NotServed, match=r"computes with its attention mask itself .*outside transformers' "):
        ARITHMETIC[name](descriptor())


DENSE = {
    "cat": lambda x: torch.cat([x, x], dim=-1),
    "concat": lambda x: torch.concat([x, x]),
    "repeat": lambda x: x.repeat(1, 4, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=0),
    "expand": lambda x: x.expand(2, 4, 11, 11),
    "select": lambda x: x[:, 0],
    "index": lambda x: x[..., torch.tensor([1, 3])],
    "step": lambda x: x[..., ::2],
    "rows": lambda x: x[1:],
    "sdpa": lambda x: F.scaled_dot_product_attention(*torch.ones(3, 2, 4, 11, 8), attn_mask=x),
}


@pytest.mark.parametrize("name", DENSE)
def test_torch_gets_the_dense_mask(name):
    mask = descriptor()
    assert torch.equal(DENSE[name](mask), DENSE[name](mask.dense()))


class FakeDevices:
    """What torch.utils.checkpoint uses of torch.cuda."""

    def __init__(self):
        self.indices = []

    def device(self, index):
        self.indices.append(index)
        return contextlib.nullcontext()

    def get_rng_state(self):
        return torch.zeros(1)


def test_checkpoint_saves_the_random_state_of_the_device(monkeypatch):
    """torch queries every positional tensor of a checkpointed layer that is not on the CPU."""
    devices = FakeDevices()
    monkeypatch.setattr(torch.utils.checkpoint, "_get_device_module", lambda device: devices)
    mask = KeyMask.create((2, 1, 11, 11), torch.device("cuda", 1), (-1, 0), Layout(offset=0))
    assert torch.utils.checkpoint._infer_device_type(mask) == "cuda"
    indices, _ = torch.utils.checkpoint.get_device_states(torch.ones(2), mask)
    assert indices == devices.indices == [1]


HOOKS = {
    "full backward hook": lambda module, calls: module.register_full_backward_hook(
        lambda module, grad_input, grad_output: calls.append(module)
    ),
    "full backward pre-hook": lambda module, calls: module.register_full_backward_pre_hook(
        lambda module, grad_output: calls.append(module)
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("within", ["patch", "final", "layer"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_backward_hooks_of_layers(family, within, hook):
    model = tiny(family).double()
    ids, mask = torch.stack([token_ids(30)] * 2), torch.ones(2, 30, dtype=torch.long)
    mask[1, 20:] = 0
    if within == "patch":
        lckernels.patch(model)
        call = model
    else:  # in a LongEncoder, which merges the last states or those of each layer
        attention = {"attention": "lckernels"} if within == "final" else {}
        call = lckernels.LongEncoder(model, 20, 4, merge=within, **attention)

    def gradients():
        model.zero_grad()
        states = call(ids, attention_mask=mask).last_hidden_state
        (states * mask[..., None]).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected, calls = gradients(), []
    layers = list(model.encoder.layer)
    for layer in layers:
        HOOKS[hook](layer, calls)
    ours = gradients()
    assert set(calls) == set(layers)
    torch.testing.assert_close(ours, expected)


def test_a_hook_that_casts_floating_arguments():
    """As mixed precision of frameworks does before each layer."""
    model = model_of("mistral", "sdpa").bfloat16()
    lckernels.patch(model)
    expected = logits(model)

    def cast(module, args, kwargs):
        def one(x):
            floats = isinstance(x, torch.Tensor) and (torch.is_floating_point(x) or torch.is_complex(x))
            return x.to(torch.bfloat16) if floats else x

        return torch.utils._pytree.tree_map(one, (args, kwargs))

    for layer in model.model.layers:
        layer.register_forward_pre_hook(cast, with_kwargs=True)
    assert torch.equal(logits(model), expected)


def test_inputs_of_a_layer_are_recorded_and_replayed():
    """As tools for quantisation and debugging do: inputs are copied, stored, moved back and used again."""
    model = model_of("mistral")
    lckernels.patch(model)
    layer, seen = model.model.layers[0], []

    def move(x):
        return x.detach().clone().cpu() if isinstance(x, torch.Tensor) else x

    def record(module, args, kwargs, output):
        kept = {name: x for name, x in kwargs.items() if name != "past_key_values"}
        seen.append((pickle.dumps(torch.utils._pytree.tree_map(move, (args, kept))), output))

    handle = layer.register_forward_hook(record, with_kwargs=True)
    logits(model, input_ids=IDS, attention_mask=MASK, use_cache=False)
    handle.remove()
    (stored, output), (args, kwargs) = seen[0], pickle.loads(seen[0][0])
    assert type(kwargs["attention_mask"]) is KeyMask
    assert stored
    with torch.no_grad():
        close(layer(*args, **kwargs), output)
