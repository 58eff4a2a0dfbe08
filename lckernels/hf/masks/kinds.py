"""Which keys the queries of a layer see, independent of the input."""

from dataclasses import dataclass
from typing import Any

from torch import nn

Window = tuple[int, int]
FULL: Window = (-1, -1)
CAUSAL: Window = (-1, 0)
FAR = 2**30  # no sequence is as long, so that a window of so many keys has no bound


def bounded(window: Window) -> Window:
    """The window with -1 for sides of FAR and more keys, which configs have for "no window"."""
    left, right = (-1 if side >= FAR else side for side in window)
    return left, right


@dataclass(frozen=True)
class Kind:
    """The kind of attention of a layer.

    Attributes:
        window: (left, right), inclusive, -1 for no bound, as in windowed_attention.
        chunk: length of the chunks that attention is restricted to; 0 for none.
        cross: keys and queries belong to different sequences.
        global_tokens: some tokens of a call may see all tokens, which all see them.
        packed: a row has several sequences, by cu_seq_lens_q.
    """

    window: Window
    chunk: int = 0
    cross: bool = False
    global_tokens: bool = False
    packed: bool = False

    @property
    def is_full(self) -> bool:
        """Whether a query sees every key, or every key up to its own position, of its own sequence."""
        return self.window in (FULL, CAUSAL) and not self.chunk and not self.cross

    def __str__(self) -> str:
        return f"{self._words()}, packed" if self.packed else self._words()

    def _words(self) -> str:
        if self.cross:
            return "cross"
        if self.chunk:
            return f"{'causal' if self.window[1] == 0 else 'bidirectional'}, chunks of {self.chunk}"
        if self.is_full:
            return "causal" if self.window == CAUSAL else "bidirectional"
        kind = "causal window" if self.window[1] == 0 else "bidirectional window"
        return f"{kind}, global tokens" if self.global_tokens else kind


def kind_without_mask(causal: bool, seqlen_q: int, seqlen_k: int) -> Kind:
    """The kind of a call without a mask, by transformers' rule: a single causal query follows a cache."""
    cross = seqlen_q != seqlen_k and not (causal and seqlen_q == 1)
    return Kind(CAUSAL if causal else FULL, cross=cross)


def is_causal(module: nn.Module, options: dict[str, Any]) -> bool:
    """Whether a call without a mask is causal: the option is_causal, else the module's attribute."""
    given = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)
