"""Linear layers on packed weights without a measurement: every shape is packed, or as a test sets it."""

import torch
from torch import nn

from lckernels.hf.patch.linear import measure, onednn, plan
from lckernels.hf.patch.linear.forward import PackedForward

ALL = measure.Speed(2.0, 2.0, 2.0)


def packs(dtype=torch.float32):
    """Whether oneDNN packs weights of this dtype on this machine."""
    if onednn.missing():
        return False
    try:
        onednn.pack(torch.ones(4, 4, dtype=dtype), 64)
    except RuntimeError:
        return False
    return True


def set_speed(monkeypatch, speed=ALL):
    """Every shape has this speed."""
    monkeypatch.setattr(
        plan, "speeds", lambda weights: {measure.shape_of(weight): speed for weight in weights}
    )


def count_products(monkeypatch):
    """The activations of the products with packed weights, in order."""
    calls, product = [], onednn.product

    def counted(x, packed, bias, activation):
        calls.append(activation)
        return product(x, packed, bias, activation)

    monkeypatch.setattr(onednn, "product", counted)
    return calls


def packed_layers(model):
    """The linear layers of a model whose forward is on a packed weight."""
    return [m for m in model.modules() if type(m.__dict__.get("forward")) is PackedForward]


def linear_layers(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]
