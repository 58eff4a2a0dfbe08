"""One model, eager against patched: what the parity sweep runs."""

import copy
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from compare import assert_as_good_as
from hf_models import MODELS, VOCAB, build
from torch import Tensor, nn

import lckernels
import lckernels.hf.attention as served

SEQLEN, PADDED, PROMPT, NEW = 23, 5, 13, 10
TEXTS = (9, 1, 13)
RELATIVE = 1e-5


class NotPossible(Exception):
    """transformers itself cannot do it with this model, under eager attention."""


def inputs_of(name: str, padding: str = "none", rows: int = 2) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of a forward, and which tokens of its output count."""
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
    """The rows of tokens that count; all of a decoder's, which is not padded."""
    return out[valid] if out.shape[:2] == valid.shape else out


def eager(model: nn.Module, work: Any, *args: Any) -> Any:
    """What the model gives under eager attention. Raises NotPossible where transformers raises."""
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


def forward(name: str, model: nn.Module, padding: str) -> None:
    inputs, valid = inputs_of(name, padding)
    with torch.no_grad():
        expected = eager(model, run, inputs)
        got = patched(model, run, inputs)
    assert_near(valid_rows(got, valid), valid_rows(expected, valid), padding)


def packed(name: str, model: nn.Module) -> None:
    """Two texts in a row, told by their positions; as eager does it, which for some models is not at all."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise NotPossible("it takes no position_ids")
    inputs, valid = inputs_of(name)
    positions = torch.cat([torch.arange(9), torch.arange(SEQLEN - 9)])
    inputs["position_ids"] = positions.expand(2, -1).clone()
    with torch.no_grad():
        expected = eager(model, run, inputs)
        got = patched(model, run, inputs)
    assert_near(valid_rows(got, valid), valid_rows(expected, valid), "packed")


def texts_of(name: str) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    """Texts in one row, as transformers' collator gives them to flash attention, and each alone."""
    ids = inputs_of(name, rows=1)[0]["input_ids"]
    texts = ids.split(TEXTS, dim=1)
    collate = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    inputs = collate([{"input_ids": text[0].tolist()} for text in texts])
    del inputs["labels"]
    inputs["position_ids"] += MODELS[name].first_position
    return inputs, texts


def each_text(model: nn.Module, texts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([run(model, {"input_ids": text}) for text in texts], dim=1)


def hands_on(model: nn.Module, inputs: dict[str, Any], option: str) -> bool:
    """Whether an argument of the model comes to its attention modules."""
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
    """Texts in a row, told by cu_seq_lens_q and cu_seq_lens_k, against each of them alone under eager.

    With a cache, where there can be one: then their positions tell the mask nothing.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise NotPossible("it takes no position_ids")
    if MODELS[name].recurrent:
        raise NotPossible("its layers that are no attention run over all texts")
    if model.config.is_encoder_decoder:
        raise NotPossible("it hands the same cu_seq_lens to its encoder and its decoder")
    inputs, parts = texts_of(name)
    inputs.update(with_cache(model, True))
    with torch.no_grad():
        if not hands_on(model, inputs, "cu_seq_lens_q"):
            raise NotPossible("it does not hand cu_seq_lens to its attention")
        expected = eager(model, each_text, parts)
        got = patched(model, run, inputs)
    assert_near(got, expected, "texts")


def _generate(model: nn.Module, inputs: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "output_logits": True}
    with torch.no_grad():
        result = model.generate(**inputs, **settings, return_dict_in_generate=True, **options)
    return result.sequences, torch.stack(result.logits)


def generate(name: str, model: nn.Module, **options: Any) -> None:
    inputs, _ = inputs_of(name, "left")
    rows = 1 if "prompt_lookup_num_tokens" in options else 2
    inputs = {key: value[:rows, :PROMPT] for key, value in inputs.items()}
    sequences, logits = eager(model, _generate, inputs, options)
    got, got_logits = patched(model, _generate, inputs, options)
    assert torch.equal(got, sequences), "other tokens"
    assert_near(got_logits, logits, "logits")


def gradients_of(
    model: nn.Module, inputs: Any, valid: Tensor, forward: Callable[..., Tensor] = run
) -> dict[str, Tensor]:
    model.zero_grad()
    out = valid_rows(forward(model, inputs), valid)
    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * target).mean().backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def far_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """The parameters whose gradients differ by more than rounding."""
    assert got.keys() == expected.keys()
    largest = max(x.norm().item() for x in expected.values())
    return [
        key
        for key, gradient in expected.items()
        if (got[key] - gradient).norm() > RELATIVE * max(gradient.norm().item(), 0.01 * largest)
    ]


def gradients(name: str, model: nn.Module) -> None:
    # Under eager a row that sees nothing is NaN in fp64.
    inputs, valid = inputs_of(name, "none" if MODELS[name].sound else "right")
    expected = eager(model, gradients_of, inputs, valid)
    got = patched(model, gradients_of, inputs, valid)
    far = far_gradients(got, expected)
    if far:  # then it may be as far from fp64 as twice eager itself
        exact = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
        twin = copy.deepcopy(model).double()
        twin.set_attn_implementation("eager")
        twin.config._experts_implementation = "eager"  # the others have no fp64
        truth = gradients_of(twin, exact, valid)
        for key in far:
            assert_as_good_as(got[key], truth[key], expected[key], key)


def bfloat16(name: str, model: nn.Module) -> None:
    """Against fp32 with the same weights; eager in bf16 is honest torch arithmetic.

    Over many rows: where a rounding sends a token to another expert, it does so for either in some of them.
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
    "bf16": bfloat16,
}


_GENERATES = ("generate", "static", "prefill", "assisted")
_SOUNDS = ("forward", "gradients", "bf16")


def checks_of(name: str) -> list[str]:
    """The checks that mean something for a model: not every one generates, and sounds are not padded here."""
    model = MODELS[name]
    known = _SOUNDS if model.sound else CHECKS
    return [check for check in known if model.causal or check not in _GENERATES]


@cache
def tiny(name: str) -> nn.Module:
    model = build(name)
    model.truth = MODELS[name].truth if name in MODELS else "eager"
    return model


def counted(work: Any) -> int:
    """How often lckernels' kernel ran meanwhile."""
    calls, op = [], served.windowed_attention
    served.windowed_attention = lambda *args, **options: calls.append(1) or op(*args, **options)
    try:
        work()
    finally:
        served.windowed_attention = op
    return len(calls)
