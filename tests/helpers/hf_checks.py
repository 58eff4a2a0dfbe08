"""The checks of the parity sweep: each compares the patched model with the same model under eager."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.compare import assert_as_good_as
from helpers.hf_models import MODELS
from helpers.hf_parity import (
    PROMPT,
    SEQLEN,
    NotPossible,
    assert_near,
    eager,
    far_gradients,
    gradients_of,
    inputs_of,
    make,
    packed_sequences,
    patched,
    run,
    run_each_sequence,
    valid_rows,
    with_cache,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import lckernels
from lckernels.hf.masks.descriptor import NotServed

NEW = 10
EXACT = 1e-9  # relative, in fp64


def forward(name: str, model: nn.Module, padding: str) -> None:
    inputs, valid = inputs_of(name, padding)
    with torch.no_grad():
        expected = eager(model, run, inputs)
        got = patched(model, run, inputs)
    assert_near(valid_rows(got, valid), valid_rows(expected, valid), padding)


def packed(name: str, model: nn.Module) -> None:
    """Two sequences in a row, packed by position_ids; the truth is eager, even if it ignores them."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise NotPossible("it has no argument position_ids")
    inputs, valid = inputs_of(name)
    positions = torch.cat([torch.arange(9), torch.arange(SEQLEN - 9)])
    inputs["position_ids"] = positions.expand(2, -1).clone()
    with torch.no_grad():
        expected = eager(model, run, inputs)
        got = patched(model, run, inputs)
    assert_near(valid_rows(got, valid), valid_rows(expected, valid), "packed")


def passes_on(model: nn.Module, inputs: dict[str, Any], option: str) -> bool:
    """Whether the model passes an argument on to its attention modules."""
    seen = []
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, given: seen.append(option in given), with_kwargs=True
        )
        for module in model.modules()
        if "Attention" in type(module).__name__
    ]
    eager(model, run, inputs)
    for hook in hooks:
        hook.remove()
    return any(seen)


def texts(name: str, model: nn.Module) -> None:
    """Sequences packed by cu_seq_lens_q and cu_seq_lens_k, compared with each of them alone under eager.

    With a cache, where possible: then the mask cannot be derived from the positions.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise NotPossible("it has no argument position_ids")
    if MODELS[name].recurrent:
        raise NotPossible("its layers that are no attention run over all texts")
    if model.config.is_encoder_decoder:
        raise NotPossible("it hands the same cu_seq_lens to its encoder and its decoder")
    inputs, parts = packed_sequences(name)
    inputs.update(with_cache(model, True))
    with torch.no_grad():
        if not passes_on(model, inputs, "cu_seq_lens_q"):
            raise NotPossible("it does not hand cu_seq_lens to its attention")
        with lckernels.patched(model) as report:
            if any(row.kind == "dense" for row in report.rows):
                with pytest.raises(NotServed, match="runs as dense attention, which would mix its sequences"):
                    run(model, inputs)
                raise NotPossible("lckernels does not support it: one of its layers is dense")
        expected = eager(model, run_each_sequence, parts)
        got = patched(model, run, inputs)
    assert_near(got, expected, "texts")


def _generate(model: nn.Module, inputs: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "output_logits": True}
    with torch.no_grad():
        result = model.generate(**inputs, **settings, return_dict_in_generate=True, **options)
    return result.sequences, torch.stack(result.logits)


def generate(name: str, model: nn.Module, **options: Any) -> None:
    # In chunks of a prefill transformers 5.24 cuts the encoder's mask to the length of the decoder's prompt.
    cut = model.config.is_encoder_decoder and "prefill_chunk_size" in options
    inputs, _ = inputs_of(name, "none" if cut else "left")
    rows = 1 if "prompt_lookup_num_tokens" in options else 2
    inputs = {key: value[:rows, :PROMPT] for key, value in inputs.items()}
    truth = {} if "cache_implementation" in options and MODELS[name].wrong_static else options
    sequences, logits = eager(model, _generate, inputs, truth)
    got, got_logits = patched(model, _generate, inputs, options)
    assert torch.equal(got, sequences), "other tokens"
    assert_near(got_logits, logits, "logits")


class InFp64(TorchFunctionMode):
    """Converts to fp64 what models compute in fp32 in every dtype: norms and softmax."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args = tuple(torch.float64 if x is torch.float32 else x for x in args)
        kwargs = {key: torch.float64 if x is torch.float32 else x for key, x in (kwargs or {}).items()}
        return (Tensor.double if func is Tensor.float else func)(*args, **kwargs)


def gradients(name: str, model: nn.Module) -> None:
    # Under eager a row that sees no key is NaN in fp64.
    inputs, valid = inputs_of(name, "none" if MODELS[name].sound else "right")
    expected = eager(model, gradients_of, inputs, valid)
    assert far_gradients(patched(model, gradients_of, inputs, valid), expected) == []


def float64(name: str, model: nn.Module) -> None:
    """Results and gradients in fp64, where rounding hides no difference."""
    inputs, valid = inputs_of(name, "none" if MODELS[name].sound else "right")
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    model = make(name).double()
    model.config._experts_implementation = "eager"  # the other implementations have no fp64
    with InFp64():
        expected = eager(model, gradients_of, inputs, valid)
        got = patched(model, gradients_of, inputs, valid)
    assert {gradient.dtype for gradient in got.values()} == {torch.float64}
    assert far_gradients(got, expected, EXACT) == []


def bfloat16(name: str, model: nn.Module) -> None:
    """Compared with fp32 with the same weights; plain torch arithmetic is eager in bf16.

    With many rows: rounding may choose another expert for a token, in some rows for each of the two.
    """
    inputs, valid = inputs_of(
        name, "none" if MODELS[name].sound else "left", rows=2 if MODELS[name].sound else 16
    )
    half = copy.deepcopy(model).bfloat16()
    truth = copy.deepcopy(half).float()
    low = {k: x.bfloat16() if x.is_floating_point() else x for k, x in inputs.items()}
    exact = {k: x.float() if x.is_floating_point() else x for k, x in low.items()}
    with torch.no_grad():
        expected = valid_rows(eager(truth, run, exact), valid)
        honest = valid_rows(eager(half, run, low), valid)
        got = valid_rows(patched(half, run, low), valid)
    assert_as_good_as(got.float(), expected.float(), honest.float())


CHECKS = {
    "forward": lambda name, model: forward(name, model, "none"),
    "left": lambda name, model: forward(name, model, "left"),
    "right": lambda name, model: forward(name, model, "right"),
    "middle": lambda name, model: forward(name, model, "middle"),
    "packed": packed,
    "texts": texts,
    "generate": generate,
    "static": lambda name, model: generate(name, model, cache_implementation="static"),
    "prefill": lambda name, model: generate(name, model, prefill_chunk_size=5),
    "assisted": lambda name, model: generate(name, model, prompt_lookup_num_tokens=3),
    "gradients": gradients,
    "fp64": float64,
    "bf16": bfloat16,
}


_GENERATES = ("generate", "static", "prefill", "assisted")
_SOUNDS = ("forward", "gradients", "fp64", "bf16")


def checks_of(name: str) -> list[str]:
    """The checks that apply to a model: not every model generates, and audio is not padded here."""
    model = MODELS[name]
    known = _SOUNDS if model.sound else CHECKS
    return [check for check in known if model.causal or check not in _GENERATES]
