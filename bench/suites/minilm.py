"""MiniLM over pages of the book: LongEncoder on packed weights and without, torch's attention, onnxruntime.

All read the same chunks of 512 tokens and merge them by `overlap_merge`. `bench.suites.encoder` reads the
whole book.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases.minilm import CHUNK_LEN, OVERLAP, encoder
from bench.harness.check import check, truth_dtype
from bench.harness.comparison import OWN, UNPACKED, Subject, collect, make_rows
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import measure
from bench.peers.onnx_encoder import onnxruntime_bert
from lckernels import LongEncoder, overlap_merge

SDPA, ONNX = "torch_attention", "onnxruntime"
ROWS = 8  # chunks of a call of onnxruntime, as in a micro-batch of LongEncoder
_SECONDS = 20.0


@dataclass(frozen=True)
class PagesCase:
    """Pages of the book.

    Attributes:
        num_chunks: a multiple of ROWS; all are full.
        dtype: of the weights.
    """

    num_chunks: int
    dtype: torch.dtype

    @property
    def tokens(self) -> int:
        """Without the two special tokens."""
        return CHUNK_LEN - 2 + (self.num_chunks - 1) * (CHUNK_LEN - 2 - OVERLAP)

    @property
    def label(self) -> str:
        return f"chunks{self.num_chunks}-{dtype_name(self.dtype)}"

    def shape(self) -> dict[str, int]:
        return {"tokens": self.tokens, "chunk_len": CHUNK_LEN, "overlap": OVERLAP}


CASES = (PagesCase(16, torch.float32), PagesCase(16, torch.bfloat16))


def minilm_rows(case: PagesCase, model: nn.Module, ids: Tensor, rounds: int = 5) -> list[Row]:
    """Our row and those of the peers.

    Raises:
        AssertionError: a result is wrong.
    """
    model = copy.deepcopy(model).to(case.dtype)
    ours, sdpa = encoder(model, linear="packed"), encoder(model, attention="model")
    encoders = {OWN: ours, UNPACKED: encoder(model), SDPA: sdpa}
    calls = {name: partial(_states, of_name, ids) for name, of_name in encoders.items()}
    found, left_out = collect({ONNX: partial(_by_onnxruntime, model, ids)})
    calls |= found
    exact = copy.deepcopy(model).to(truth_dtype(case.dtype))
    want, plain = _states(encoder(exact, attention="model"), ids), _states(sdpa, ids)
    checks = {name: check(name, (call(),), (want,), (plain,)) for name, call in calls.items()}
    subject = Subject(
        suite="encoder",
        op="LongEncoder_final",
        direction="forward",
        shape=case.shape(),
        dtype=dtype_name(case.dtype),
        work=ours.explain(ids.shape[1]).flops,
        unit="GFLOP/s",
        backend="cpu",
    )
    timings = measure(calls, rounds=rounds, budget=_SECONDS)
    notes = {OWN: _packed_layers(ours, subject.dtype), UNPACKED: "has none"}
    return make_rows(subject, timings, checks, {}, (), notes=notes, left_out=left_out)


def _packed_layers(of_chunks: LongEncoder, dtype: str) -> str:
    """How many linear layers run a micro-batch on packed weights, as the end of a sentence about them."""
    report = of_chunks.linear_report
    packed = sum(len(row.layers) for row in report.rows if row.packed[-1])
    return f"has {packed} of {sum(len(row.layers) for row in report.rows)} linear layers packed in {dtype}"


@torch.no_grad()
def _states(of_chunks: LongEncoder, ids: Tensor) -> Tensor:
    return of_chunks(input_ids=ids).last_hidden_state[0, 1:-1]


def _by_onnxruntime(model: nn.Module, ids: Tensor) -> Callable[[], Tensor]:
    """The same chunks, ROWS at a time, and the same merge."""
    content, step = CHUNK_LEN - 2, CHUNK_LEN - 2 - OVERLAP
    run = onnxruntime_bert(model, ROWS, CHUNK_LEN)
    plan = encoder(model, attention="model").plan(ids.shape[1])
    starts = range(0, ids.shape[1] - 1 - content, step)
    chunks = torch.stack(
        [torch.cat([ids[0, :1], ids[0, 1 + at : 1 + at + content], ids[0, -1:]]) for at in starts]
    )
    return lambda: overlap_merge(torch.cat([run(rows) for rows in chunks.split(ROWS)]), plan)[1:-1]
