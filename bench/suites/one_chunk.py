"""LongEncoder, or a lengthened model, on a row of one chunk against the model: what remains is host time."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.harness.check import check
from bench.harness.comparison import OWN, Subject, make_rows
from bench.harness.rows import Row
from bench.harness.timing import measure, primed_clock
from lckernels.flops import encoder_flops
from lckernels.long.encoder import LongEncoder
from lckernels.long.lengthen import lengthen

LAYERS, VOCABULARY = 6, 1024
_SECONDS = 4.0


@dataclass(frozen=True)
class OneChunkCase:
    """One row through a BERT of 6 layers with random weights.

    Attributes:
        tokens: of the row.
        dim: of the hidden states; 384 is MiniLM.
        labels: in the config, which LongEncoder must not copy.
        op: "LongEncoder" or "lengthen".
    """

    tokens: int
    dim: int
    labels: int = 2
    op: str = "LongEncoder"

    @property
    def label(self) -> str:
        return f"n{self.tokens}-dim{self.dim}-labels{self.labels}"

    def model(self) -> nn.Module:
        """The model, in eval mode."""
        import transformers

        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.dim,
            intermediate_size=4 * self.dim,
            num_hidden_layers=LAYERS,
            num_attention_heads=self.dim // 32,
            num_labels=self.labels,
        )
        return transformers.BertModel(config).eval()


CASES = (
    OneChunkCase(12, 64),
    OneChunkCase(12, 64, labels=20_000),
    OneChunkCase(128, 64),
    OneChunkCase(12, 384),
    OneChunkCase(128, 384),
)


def one_chunk_rows(case: OneChunkCase, rounds: int = 101) -> list[Row]:
    """Our row and that of the model.

    Raises:
        AssertionError: A result is wrong.
    """
    model = case.model()
    ids = torch.randint(5, VOCABULARY, (1, case.tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ours = LongEncoder(model)
    if case.op == "lengthen":
        ours = copy.deepcopy(model)
        lengthen(ours)
    calls = {name: partial(_states, way, inputs) for name, way in ((OWN, ours), ("model", model))}
    want = (_states(copy.deepcopy(model).double(), inputs),)
    checks = {name: check(name, (call(),), want, (_states(model, inputs),)) for name, call in calls.items()}
    subject = Subject(
        suite="host_time",
        op=case.op,
        direction="forward",
        shape={"tokens": case.tokens, "layers": LAYERS, "dim": case.dim, "labels": case.labels},
        dtype="float32",
        work=encoder_flops(case.tokens, [case.tokens], LAYERS, case.dim, 4 * case.dim),
        unit="GFLOP/s",
        backend="",
    )
    timings = measure(calls, rounds=rounds, budget=_SECONDS, clock=primed_clock)
    return make_rows(subject, timings, checks, {}, ())


@torch.no_grad()
def _states(way: Any, inputs: dict[str, Tensor]) -> Tensor:
    return way(**inputs).last_hidden_state
