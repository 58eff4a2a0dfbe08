"""Packed weights: MiniLM over pages of the book, and SmolLM2's forward, against the same without them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases import book, smollm2
from bench.cases.minilm import CHUNK_LEN, OVERLAP, model_folder
from bench.harness.check import check
from bench.harness.comparison import OWN, Subject, make_rows
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import measure
from lckernels.flops import encoder_flops
from lckernels.hf import patch
from lckernels.long.encoder import LongEncoder

UNPACKED = "lckernels, linear=None"
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
    import transformers

    folder = model_folder()
    ids = book.token_ids(transformers.AutoTokenizer.from_pretrained(folder), case.tokens)[None, : case.tokens]
    model = transformers.AutoModel.from_pretrained(folder, dtype=case.dtype).eval()
    sizes = {"chunk_len": CHUNK_LEN, "overlap": OVERLAP}
    encoders = {OWN: LongEncoder(model, linear="packed", **sizes), UNPACKED: LongEncoder(model, **sizes)}
    double = LongEncoder(copy.deepcopy(model).double(), **sizes)
    config, widths = model.config, [min(CHUNK_LEN, case.tokens)] * encoders[OWN].num_chunks(case.tokens)
    layers = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    calls = {name: partial(_states, encoder, ids) for name, encoder in encoders.items()}
    return calls, _states(double, ids), encoder_flops(sum(widths), widths, *layers)


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
