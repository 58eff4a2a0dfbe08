"""Packed weights: MiniLM over pages of the book, and SmolLM2's forward, against the same without them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases import book, minilm, smollm2
from bench.harness.check import check
from bench.harness.comparison import OWN, UNPACKED, Subject, make_rows
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import measure
from lckernels.hf import patch
from lckernels.long.encoder import LongEncoder

WINDOW = 1024
_SECONDS = 60.0


@dataclass(frozen=True)
class PackedCase:
    """One text through one model.

    Attributes:
        model: "MiniLM" (in chunks) or "SmolLM2" (patched, with its window).
        tokens: of the text.
        dtype: of the model.
    """

    model: str
    tokens: int
    dtype: torch.dtype

    @property
    def label(self) -> str:
        return f"{self.model}-n{self.tokens}-{dtype_name(self.dtype)}"


CASES = tuple(
    PackedCase(model, tokens, dtype)
    for dtype in (torch.float32, torch.bfloat16)
    for model, tokens in (("MiniLM", 8_000), ("MiniLM", 12), ("SmolLM2", 2048))
)
FULL_CASES = tuple(PackedCase("SmolLM2", 8192, dtype) for dtype in (torch.float32, torch.bfloat16))


def packed_linear_rows(case: PackedCase, rounds: int = 7) -> list[Row]:
    """Our row and that without packed weights.

    Raises:
        AssertionError: a result is wrong.
    """
    calls, truth, work = (_minilm if case.model == "MiniLM" else _smollm2)(case)
    results = {name: call() for name, call in calls.items()}
    honest = (results[UNPACKED],)
    checks = {name: check(name, (x,), (truth,), honest) for name, x in results.items()}
    subject = Subject(
        suite="packed_linear",
        op=case.model,
        direction="forward",
        shape={"tokens": case.tokens},
        dtype=dtype_name(case.dtype),
        work=work,
        unit="GFLOP/s",
        backend="cpu",
    )
    return make_rows(subject, measure(calls, rounds=rounds, budget=_SECONDS), checks, {}, ())


def _minilm(case: PackedCase) -> tuple[dict[str, Callable[[], Tensor]], Tensor, int]:
    """The calls, the states in fp64, and the FLOPs of the chunks."""
    model, tokenizer = minilm.load(case.dtype)
    ids = minilm.token_ids(tokenizer, case.tokens - 2)
    encoders = {OWN: minilm.encoder(model, linear="packed"), UNPACKED: minilm.encoder(model)}
    double = minilm.encoder(copy.deepcopy(model).double())
    calls = {name: partial(_states, encoder, ids) for name, encoder in encoders.items()}
    return calls, _states(double, ids), encoders[OWN].explain(ids.shape[1]).flops


def _smollm2(case: PackedCase) -> tuple[dict[str, Callable[[], Tensor]], Tensor, int]:
    """The calls, the last logits in fp64, and the FLOPs of the linear layers."""
    model, tokenizer = smollm2.load(WINDOW, case.dtype)
    ids = book.token_ids(tokenizer, case.tokens)[None, : case.tokens]
    own = copy.deepcopy(model)
    patch(own, linear="packed")
    double = copy.deepcopy(model).double()
    for plain in (model, double):
        patch(plain)
    truth = _logits(double, ids)
    values = sum(layer.weight.numel() for layer in model.model.modules() if isinstance(layer, nn.Linear))
    return (
        {OWN: partial(_logits, own, ids), UNPACKED: partial(_logits, model, ids)},
        truth,
        2 * values * case.tokens,
    )


@torch.no_grad()
def _states(encoder: LongEncoder, ids: Tensor) -> Tensor:
    return encoder(input_ids=ids).last_hidden_state


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False, logits_to_keep=1).logits
