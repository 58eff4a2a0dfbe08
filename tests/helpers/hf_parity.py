"""One model, eager and patched: its inputs, its results and the tolerance."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from helpers.hf_models import MODELS, VOCAB, build
from torch import Tensor, nn

import lckernels
from lckernels.hf import interface

SEQLEN, PADDED, PROMPT = 23, 5, 13
LENGTHS = (9, 1, 13)  # of packed sequences
RELATIVE = 1e-5


class NotPossible(Exception):
    """transformers raises under eager attention with this model, or lckernels does not support it."""


def inputs_of(name: str, padding: str = "none", rows: int = 2) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of a forward, and a mask of the output's tokens that are compared."""
    generator = torch.Generator().manual_seed(1)
    if MODELS[name].sound:
        shape = (rows, *MODELS[name].sound)
        valid = torch.ones(shape[0], shape[-1], dtype=torch.bool)
        inputs = {"input_values": torch.randn(shape, generator=generator)}
        return inputs, valid
    ids = torch.randint(5, VOCAB, (rows, SEQLEN), generator=generator)
    valid = torch.ones(rows, SEQLEN, dtype=torch.bool)
    if padding == "left":
        valid[1, :PADDED] = False
    elif padding == "right":
        valid[1, -PADDED:] = False
    elif padding == "middle":
        valid[1, SEQLEN // 2 : SEQLEN // 2 + PADDED] = False
    inputs = {"input_ids": ids}
    if padding != "none":
        inputs["attention_mask"] = valid.long()
    return inputs, valid


def with_cache(model: nn.Module, wanted: bool) -> dict[str, bool]:
    return {"use_cache": wanted} if "use_cache" in inspect.signature(model.forward).parameters else {}


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """(batch, seqlen, dim): the logits, or the last hidden state."""
    if model.config.is_encoder_decoder and "decoder_input_ids" not in inputs and "input_ids" in inputs:
        inputs = {**inputs, "decoder_input_ids": inputs["input_ids"].flip(1)[:, :17]}
    output = model(**{**with_cache(model, False), **inputs})
    for part in ("logits", "last_hidden_state", "encoder_last_hidden_state", "audio_values"):
        if isinstance(getattr(output, part, None), Tensor):
            return getattr(output, part)
    raise AssertionError(f"{type(output).__name__} has no states")


def valid_rows(out: Tensor, valid: Tensor) -> Tensor:
    """The rows of tokens that are compared; of a decoder all, since it is not padded."""
    return out[valid] if out.shape[:2] == valid.shape else out


def eager(model: nn.Module, work: Any, *args: Any) -> Any:
    """The result of `work` under eager attention. Raises NotPossible where transformers raises."""
    model.set_attn_implementation(getattr(model, "truth", "eager"))
    torch.manual_seed(0)
    try:
        return work(model, *args)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise NotPossible(f"{type(error).__name__}: {said[:140]}") from error


def patched(model: nn.Module, work: Any, *args: Any) -> Any:
    with lckernels.patched(model):
        torch.manual_seed(0)
        return work(model, *args)


def assert_near(got: Tensor, expected: Tensor, name: str) -> None:
    assert got.shape == expected.shape, name
    assert torch.isfinite(expected).all(), f"{name}: eager is not finite"
    error = (got - expected).abs().max().item()
    allowed = RELATIVE * max(expected.abs().max().item(), 1.0)
    assert error <= allowed, f"{name}: off by {error:.2e}, allowed {allowed:.2e}"


def packed_sequences(name: str) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    """Packed sequences, as transformers' collator makes them for flash attention, and each alone."""
    ids = inputs_of(name, rows=1)[0]["input_ids"]
    texts = ids.split(LENGTHS, dim=1)
    collate = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    inputs = collate([{"input_ids": text[0].tolist()} for text in texts])
    del inputs["labels"]
    inputs["position_ids"] += MODELS[name].first_position
    return inputs, texts


def run_each_sequence(model: nn.Module, texts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([run(model, {"input_ids": text}) for text in texts], dim=1)


def gradients_of(
    model: nn.Module, inputs: Any, valid: Tensor, forward: Callable[..., Tensor] = run
) -> dict[str, Tensor]:
    model.zero_grad()
    out = valid_rows(forward(model, inputs), valid)
    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * target).mean().backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def far_gradients(
    got: dict[str, Tensor], expected: dict[str, Tensor], relative: float = RELATIVE
) -> list[str]:
    """The parameters whose gradients differ by more than `relative`, in norms."""
    assert got.keys() == expected.keys()
    largest = max(x.norm().item() for x in expected.values())
    return [
        key
        for key, gradient in expected.items()
        if (got[key] - gradient).norm() > relative * max(gradient.norm().item(), 0.01 * largest)
    ]


def make(name: str) -> nn.Module:
    model = build(name)
    model.truth = MODELS[name].truth if name in MODELS else "eager"
    return model


tiny = cache(make)


def count_kernel_calls(work: Any) -> int:
    """The number of calls of windowed_attention during `work`."""
    calls, attention = [], interface.served_attention
    interface.served_attention = lambda *args: calls.append(1) or attention(*args)
    try:
        work()
    finally:
        interface.served_attention = attention
    return len(calls)
