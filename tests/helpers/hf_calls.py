"""The calls that transformers makes of lckernels' attention function, and those that run as its op."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from transformers import AttentionInterface

from lckernels.hf import NAME, interface
from lckernels.hf.calls import Served


class Run(NamedTuple):
    """A call that ran as windowed_attention; tensors are (batch, heads, seqlen, head_dim)."""

    query: Tensor
    key: Tensor
    value: Tensor
    call: Served
    dropout: float
    scaling: float | None
    backend: str | None
    other_keys: Callable | None
    out: Tensor

    @property
    def window(self):
        return self.call.window


def served_runs(monkeypatch):
    """A list with a Run for each call of windowed_attention from now on."""
    runs, attention = [], interface.served_attention

    def run(*args):
        out = attention(*args)
        runs.append(Run(*args, out))
        return out

    monkeypatch.setattr(interface, "served_attention", run)
    return runs


def counted_attention(monkeypatch):
    """A list with an entry for each call of the attention function from now on."""
    calls, attention = [], AttentionInterface._global_mapping[NAME]
    monkeypatch.setitem(
        AttentionInterface._global_mapping,
        NAME,
        lambda *args, **options: calls.append(1) or attention(*args, **options),
    )
    return calls
