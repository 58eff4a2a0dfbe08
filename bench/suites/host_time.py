"""Calls that are mostly host time, in turns with torch's: attention over 64 keys, a decode step of SmolLM2.

A direction is "decode" (no gradients), "recorded" (a forward whose inputs require gradients) or "training"
(such a forward and its backward).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.cases import book, smollm2
from bench.cases.attention import AttentionCase
from bench.harness.check import check, truth_dtype
from bench.harness.comparison import OWN, Subject, chosen_backend, make_rows
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import Call, measure, short_clock
from bench.peers import model_attention
from bench.suites import attention

SUITE, KEYS = "host_time", 64
DIRECTIONS = ("decode", "recorded", "training")
_ROUNDS, _SECONDS = 41, 4.0


def attention_rows(direction: str, dtype: torch.dtype) -> list[Row]:
    """One query against 64 keys, 8 heads of 64: our row and that of SDPA.

    Raises:
        AssertionError: A result is wrong.
    """
    case = AttentionCase(KEYS, (-1, 0), dtype, num_queries=1)
    inputs = attention.make_inputs(case)
    ways = {
        OWN: _attention_call(attention.own_attention(case), direction, inputs),
        "sdpa": _attention_call(F.scaled_dot_product_attention, direction, attention.by_head(inputs)),
    }
    checked_direction = "backward" if direction == "training" else "forward"
    want = attention.truth(case, checked_direction, inputs)
    baseline = attention.baseline(case, checked_direction, inputs)
    checks = {}
    for name, call in ways.items():
        results = call() if direction == "training" else (call().detach(),)
        results = results if name == OWN else tuple(x.transpose(1, 2) for x in results)
        checks[name] = check(name, results, want, baseline)
    backend = chosen_backend("windowed_attention", *inputs[:3], score_bytes=case.score_bytes)
    subject = Subject(
        suite=SUITE,
        op="windowed_attention",
        direction=direction,
        shape=case.shape(),
        dtype=dtype_name(dtype),
        work=case.flops(checked_direction),
        unit="GFLOP/s",
        backend=backend,
    )
    return make_rows(subject, _timings(ways), checks, {}, ())


def _attention_call(
    attend: Callable[..., Tensor], direction: str, inputs: tuple[Tensor, ...]
) -> Callable[[], Tensor | tuple[Tensor, ...]]:
    q, k, v, dout = inputs
    if direction == "decode":
        return torch.no_grad()(lambda: attend(q, k, v))
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    if direction == "recorded":
        return lambda: attend(q, k, v)
    return lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), dout)


def model_rows() -> list[Row]:
    """SmolLM2's step from 64 cached tokens to the next token's logits: our patch and transformers' SDPA.

    Raises:
        AssertionError: A result is wrong.
        ModuleNotFoundError: SmolLM2 is not installed.
    """
    from lckernels import patched

    model, tokenizer = smollm2.load(None)
    ids = book.token_ids(tokenizer, KEYS + 1)[None]
    stock = model_attention.with_attention(model, "sdpa")
    ours = model_attention.with_attention(model, "sdpa")
    plain = model_attention.with_attention(model, "eager")
    exact = model_attention.in_dtype(plain, truth_dtype(torch.float32))
    want, baseline = (_decode_step(x, ids)() for x in (exact, plain))
    del exact
    with patched(ours):
        ways = {OWN: _decode_step(ours, ids), "sdpa": _decode_step(stock, ids)}
        checks = {name: check(name, (step(),), (want,), (baseline,)) for name, step in ways.items()}
        timings = _timings(ways)
    subject = Subject(
        suite=SUITE,
        op="SmolLM2",
        direction="decode",
        shape={"cached": KEYS, "layers": model.config.num_hidden_layers},
        dtype="float32",
        work=2 * sum(x.numel() for x in model.parameters()),
        unit="GFLOP/s",
        backend="cpu",
    )
    return make_rows(subject, timings, checks, {}, ())


def _decode_step(model: nn.Module, ids: Tensor) -> Callable[[], Tensor]:
    """Returns the logits of the last of the ids; the cache has those before it, before and after the call."""
    with torch.inference_mode():
        cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values

    @torch.inference_mode()
    def step() -> Tensor:
        logits = model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True).logits
        cache.crop(-1)
        return logits

    return step


def _timings(ways: dict[str, Call]) -> dict:
    return measure(ways, rounds=_ROUNDS, budget=_SECONDS, clock=short_clock)
