"""MiniLM over pages of the book: LongEncoder, the same on torch's attention, and onnxruntime.

All read the same chunks of 512 tokens and merge them by `overlap_merge`. `bench.suites.encoder` reads the
whole book.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases import book
from bench.cases.minilm import CHUNK_LEN, OVERLAP, model_folder
from bench.harness.check import check, truth_dtype
from bench.harness.comparison import OWN, Subject, collect, make_rows
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


def minilm() -> tuple[nn.Module, Callable[[int], Tensor]]:
    """MiniLM in fp32; and a function: number of tokens -> (1, tokens + 2) ids of the book."""
    import transformers

    folder = model_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = book.PATH.read_text(encoding="utf-8")[book.FIRST_CHARACTER :]

    def pages(tokens: int) -> Tensor:
        ids = torch.tensor(tokenizer(text[: 10 * tokens], verbose=False)["input_ids"])
        return torch.cat([ids[: tokens + 1], ids[-1:]])[None]

    return transformers.AutoModel.from_pretrained(folder).eval(), pages


def minilm_rows(case: PagesCase, model: nn.Module, ids: Tensor, rounds: int = 5) -> list[Row]:
    """Our row and those of the peers.

    Raises:
        AssertionError: a result is wrong.
    """
    model = copy.deepcopy(model).to(case.dtype)
    ours, sdpa = _encoder(model, "auto"), _encoder(model, "model")
    calls = {OWN: partial(_states, ours, ids), SDPA: partial(_states, sdpa, ids)}
    found, left_out = collect({ONNX: partial(_by_onnxruntime, model, ids)})
    calls |= found
    exact = copy.deepcopy(model).to(truth_dtype(case.dtype))
    want, plain = _states(_encoder(exact, "model"), ids), _states(sdpa, ids)
    checks = {name: check(name, (call(),), (want,), (plain,)) for name, call in calls.items()}
    explained = ours.explain(ids.shape[1])
    subject = Subject(
        suite="encoder",
        op="LongEncoder_final",
        direction="forward",
        shape=case.shape(),
        dtype=dtype_name(case.dtype),
        work=explained.flops,
        unit="GFLOP/s",
        backend="cpu",
    )
    timings = measure(calls, rounds=rounds, budget=_SECONDS)
    return make_rows(subject, timings, checks, {}, (), left_out=left_out)


def _encoder(model: nn.Module, attention: str) -> LongEncoder:
    return LongEncoder(model, chunk_len=CHUNK_LEN, overlap=OVERLAP, attention=attention).eval()


@torch.no_grad()
def _states(encoder: LongEncoder, ids: Tensor) -> Tensor:
    return encoder(input_ids=ids).last_hidden_state[0, 1:-1]


def _by_onnxruntime(model: nn.Module, ids: Tensor) -> Callable[[], Tensor]:
    """The same chunks, ROWS at a time, and the same merge."""
    content, step = CHUNK_LEN - 2, CHUNK_LEN - 2 - OVERLAP
    run = onnxruntime_bert(model, ROWS, CHUNK_LEN)
    plan = _encoder(model, "model").plan(ids.shape[1])
    starts = range(0, ids.shape[1] - 1 - content, step)
    chunks = torch.stack(
        [torch.cat([ids[0, :1], ids[0, 1 + at : 1 + at + content], ids[0, -1:]]) for at in starts]
    )
    return lambda: overlap_merge(torch.cat([run(rows) for rows in chunks.split(ROWS)]), plan)[1:-1]
