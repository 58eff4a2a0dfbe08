"""A long prompt through SmolLM2 with a window: lckernels.patch against FlexAttention and SDPA, in turns.

`python -m bench.suites.prefill TOKENS LAYERS` times ours and FlexAttention without the suite's check in fp64,
which takes too long at 32,768 tokens, and compares their states with each other.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases import book, smollm2
from bench.cases.generation import Patch, PrefillCase
from bench.cases.models import head_sizes
from bench.harness.comparison import OWN, UNPACKED, Budget, Subject, chosen_backend, collect, make_rows
from bench.harness.memory import with_extra_bytes
from bench.harness.report.generation_goals import PREFILL, SUITE
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import Turns
from bench.peers import model_attention
from bench.peers.models import ModelPeer
from bench.suites.model_comparison import ExpectedStates, verify
from bench.suites.verified import VerifiedCall

_SDPA_TOKENS = 8192  # SDPA has a mask of all pairs: at 32,768 tokens 5 GiB
_PEERS = {"flex": "flex_attention", "sdpa": "sdpa"}  # provider -> implementation of transformers


def build(case: PrefillCase) -> tuple[nn.Module, Tensor]:
    """The first layers of SmolLM2 with the window in its config, and the prompt (1, seqlen).

    Raises:
        ModuleNotFoundError: SmolLM2 is not installed.
    """
    causal, tokenizer = smollm2.load(case.window)
    model = causal.base_model
    model.layers = model.layers[: case.layers]
    model.config.num_hidden_layers = case.layers
    return model, book.token_ids(tokenizer, case.seqlen)[None]


def prefill_rows(
    case: PrefillCase, model: nn.Module, ids: Tensor, budget: Budget, log: Callable[[str], None] = print
) -> list[Row]:
    """The rows of one prompt; each way fills a cache, which is freed with the call.

    Args:
        case: Its sizes.
        model: A base model with `case.window` in its config.
        ids: The prompt.
        budget: Limits of the rounds, of the seconds of each way, and of one call of a peer.
        log: Receives a line per way.

    Raises:
        AssertionError: Our own result is wrong.
    """
    model.config.use_cache = True
    expected = ExpectedStates(model, ids, model.dtype)
    limit = budget.call_seconds
    ways: dict[str, VerifiedCall] = {}
    for name, linear in ((OWN, "packed"), (UNPACKED, None)):
        ways[name] = verify(name, own(model, case, linear), ids, expected, float("inf"))
    peers = {
        name: partial(_verified_peer, model, attention, ids, expected, limit)
        for name, attention in _PEERS.items()
        if attention != "sdpa" or case.seqlen <= _SDPA_TOKENS
    }
    others, left_out = collect(peers)
    ways |= others
    for name, reason in left_out.items():
        log(f"  {name} is left out: {reason}")
    for name, way in ways.items():
        size = "memory not measured" if way.extra_bytes is None else f"{way.extra_bytes / 2**20:.0f} MiB"
        log(f"  {case.label} {name}: off by {way.check.error:.2g}, {size}")
    turns = Turns({name: way.call for name, way in ways.items()}, budget.peer_seconds)
    for _ in range(budget.rounds):
        turns.round()
    return make_rows(
        _subject(case, model),
        turns.timings(),
        {name: way.check for name, way in ways.items()},
        {},
        (),
        extra_bytes={name: way.extra_bytes for name, way in ways.items()},
        left_out=left_out,
    )


def own(model: nn.Module, case: PrefillCase, linear: str | None) -> ModelPeer:
    """A copy with full attention and the window of lckernels.patch."""
    import lckernels

    copied = model_attention.with_attention(model, "sdpa")
    copied.config.sliding_window = None
    lckernels.patch(copied, **Patch(case.window, linear=linear).options())
    return ModelPeer(copied)


def _verified_peer(
    model: nn.Module, attention: str, ids: Tensor, expected: ExpectedStates, limit: float
) -> VerifiedCall:
    peer = ModelPeer(model_attention.with_attention(model, attention))
    return verify(attention, peer, ids, expected, limit)


def _subject(case: PrefillCase, model: nn.Module) -> Subject:
    heads, kv_heads, head_dim = head_sizes(model.config)
    q, k = (torch.empty(1, case.seqlen, n, head_dim, dtype=model.dtype) for n in (heads, kv_heads))
    weights = sum(x.numel() for x in model.layers.parameters())
    return Subject(
        suite=SUITE,
        op=PREFILL,
        direction="forward",
        shape=case.shape(),
        dtype=dtype_name(model.dtype),
        work=case.flops(weights, heads, head_dim),
        unit="GFLOP/s",
        backend=chosen_backend("windowed_attention", q, k, k),
    )


@torch.inference_mode()
def unchecked(case: PrefillCase, rounds: int) -> None:
    """Prints seconds and peak memory of each call, in turns, and how far its states are from the first."""
    model, ids = build(case)
    model.config.use_cache = True
    flex = ModelPeer(model_attention.with_attention(model, _PEERS["flex"]))
    ways = {OWN: own(model, case, "packed"), UNPACKED: own(model, case, None), "flex": flex}
    states: Tensor | None = None
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            (found,), size = with_extra_bytes(partial(model_attention.run, way.model, ids))
            seconds = time.perf_counter() - start
            states = found if states is None else states
            error = float((found - states).abs().max())
            print(f"{name}: {seconds:.1f} s, {(size or 0) / 2**20:.0f} MiB, off by {error:.2g}", flush=True)
            del found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tokens", type=int)
    parser.add_argument("layers", type=int)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    unchecked(PrefillCase(options.tokens, options.layers), options.rounds)


if __name__ == "__main__":
    main()
