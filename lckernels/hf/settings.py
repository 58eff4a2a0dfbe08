"""What a patch leaves on a module: of an attention layer which keys it sees, and how to undo it all."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

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
        if self.window is None or not kind.is_full or (self.kind is not None and self.kind.cross):
            return kind
        causal = kind.window == CAUSAL
        if isinstance(self.window, int):
            left, right = (self.window - 1, 0) if causal else (self.window // 2,) * 2
        else:
            left, right = self.window
        return replace(kind, window=(left, 0 if causal else right))


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
        if where.segment_ids is not None:  # they end where a chunk ends
            found = Kind(CAUSAL if kind.chunk else kind.window)
        elif mask.local_size not in (
            None,
            kind.chunk or max(kind.window[0], kind.window[1] - 1) + mask.causal,
        ):
            return None
        else:
            found, where = kind, replace(where, chunk=kind.chunk)
    else:
        found = Kind(mask.window, where.chunk)
    narrow = settings.narrowed(found)
    if narrow is not found and settings.sink_tokens:
        where = replace(where, sink_tokens=settings.sink_tokens)
    if not where.chunk and isinstance(where.chunk_origin, Tensor):
        where = replace(where, chunk_origin=0)
    return narrow.window, where
