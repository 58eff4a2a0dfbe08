"""Models whose linear layers are quantized: the dry run does not run the code of these layers."""

# ruff: noqa: E402
import warnings

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_patched import VALID, logits, model_of

import lckernels
from lckernels.hf.patch.dry_run import padded_dry_run

pytestmark = pytest.mark.usefixtures("one_thread")


class Reads(nn.Linear):
    """A linear layer that reads a value of its weights, which have another shape than those of torch's."""

    @classmethod
    def of(cls, linear):
        made = cls(linear.in_features, linear.out_features, bias=False)
        made.weight = nn.Parameter(linear.weight.detach().flatten())
        made.bias = linear.bias
        return made

    def forward(self, x):
        scale = self.weight.abs().max().item()
        weight = self.weight.view(self.out_features, self.in_features)
        return nn.functional.linear(x, weight / scale * scale, self.bias)


def quantize_dynamic(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def quantize_by_class(model):
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, Reads.of(child))
    return model


QUANTIZE = {"quantize_dynamic": quantize_dynamic, "a class of its own": quantize_by_class}


@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize("name", ["bert", "mistral", "gemma2", "distilbert", "opt"])
def test_the_report_of_a_quantized_model(name, quantize):
    """The report of the model itself; the error of quantization is at most twice as large as before."""
    model, truth = QUANTIZE[quantize](model_of(name)), logits(model_of(name))[VALID]
    before = logits(model)
    report = lckernels.patch(model)
    assert report == lckernels.patch(model_of(name))
    assert len(report.taken) == len(report.rows) == 2
    assert relative_error(logits(model)[VALID], truth) <= 2 * relative_error(before[VALID], truth) + 1e-6
    lckernels.unpatch(model)
    assert torch.equal(logits(model), before)


def relative_error(ours, truth):
    return ((ours - truth).norm() / truth.norm()).item()


def test_a_window_of_a_quantized_model():
    model = quantize_dynamic(model_of("bart"))
    inputs = {"input_ids": torch.arange(5, 14)[None], "decoder_input_ids": torch.arange(5, 14)[None]}
    report = lckernels.patch(model, window=4)
    assert [(row.kind, row.window) for row in report.rows] == [
        ("bidirectional window", (2, 2)), ("causal window", (3, 0)), ("cross", (-1, -1)),
    ]  # fmt: skip
    assert logits(model, **inputs).shape == (1, 9, 50)


def test_a_dry_run_does_not_copy_packed_weights(monkeypatch):
    """A state that only the packed weights have is copied nowhere."""
    packed = torch.ao.nn.quantized.modules.linear.LinearPackedParams
    copies = []
    monkeypatch.setattr(packed, "__getstate__", lambda self: copies.append(1))
    assert not padded_dry_run(quantize_dynamic(model_of("bert"))).error
    assert not copies
