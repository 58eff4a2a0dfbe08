"""What a patch leaves on an attention layer: which keys it sees, and what the patch wants of it."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lckernels.hf.mask import CAUSAL, FULL, KeyMask, Window
from lckernels.options import Layout

SETTINGS = "_lckernels_settings"  # attribute of a patched attention layer


@dataclass(frozen=True)
class Kind:
    """Which keys the queries of a layer see, whatever the text: window and chunk as in windowed_attention.

    cross: keys and queries are different texts.
    """

    window: Window
    chunk: int = 0
    cross: bool = False

    @property
    def is_full(self) -> bool:
        """Whether a query sees every key, or every key behind it, of its own text."""
        return self.window in (FULL, CAUSAL) and not self.chunk and not self.cross

    def __str__(self) -> str:
        if self.cross:
            return "cross"
        if self.chunk:
            return f"causal, chunks of {self.chunk}"
        if self.is_full:
            return "causal" if self.window == CAUSAL else "bidirectional"
        return "causal window" if self.window[1] == 0 else "bidirectional window"


@dataclass
class LayerSettings:
    """Of one attention layer. window, sink_tokens, backend: as given to `patch`; kind: None if not known."""

    window: int | Window | None = None
    sink_tokens: int = 0
    backend: str | None = None
    kind: Kind | None = None

    def narrowed(self, kind: Kind) -> Kind:
        """The kind with full attention turned into windowed, if the patch has a window."""
        if self.window is None or not kind.is_full or (self.kind is not None and not self.kind.is_full):
            return kind
        causal = kind.window == CAUSAL
        if isinstance(self.window, int):
            left, right = (self.window - 1, 0) if causal else (self.window // 2,) * 2
        else:
            left, right = self.window
        return replace(kind, window=(left, 0 if causal else right))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A patched model that another process loads finds its attention function there."""
        from lckernels.hf.attention import register

        self.__dict__.update(state)
        register()


PLAIN = LayerSettings()


def settings_of(module: nn.Module) -> LayerSettings:
    """What a patch wants of this attention layer; without a patch nothing."""
    return module.__dict__.get(SETTINGS, PLAIN)


def resolve(mask: KeyMask, settings: LayerSettings) -> tuple[Window, Layout] | None:
    """Window and layout of a call; None if only the dense mask knows."""
    where, kind = mask.visible, settings.kind
    if mask.window is None:
        if kind is None or kind.cross or (kind.window[1] == 0) != mask.causal:
            return None
        size = kind.chunk or max(kind.window[0], kind.window[1] - 1) + mask.causal
        if mask.local_size not in (None, size):
            return None
        if where.segment_ids is not None:  # they end where a chunk ends
            found = Kind(CAUSAL if kind.chunk else kind.window)
        else:
            found, where = kind, replace(where, chunk=kind.chunk)
    else:
        found = kind_of_mask(mask)
    narrow = settings.narrowed(found)
    if narrow is not found and settings.sink_tokens:
        where = replace(where, sink_tokens=settings.sink_tokens)
    return narrow.window, where if where.chunk else replace(where, chunk_origin=0)


def kind_of_mask(mask: KeyMask) -> Kind:
    """Bidirectional attention to keys of another number than the queries is to another text."""
    _, _, seqlen_q, seqlen_k = mask.shape
    return Kind(mask.window, mask.visible.chunk, cross=mask.window == FULL and seqlen_q != seqlen_k)


def kind_without_mask(causal: bool, seqlen_q: int, seqlen_k: int) -> Kind:
    """As transformers reads it: only a single causal query has a cache before it."""
    cross = seqlen_q != seqlen_k and not (causal and seqlen_q == 1)
    return Kind(CAUSAL if causal else FULL, cross=cross)
