"""What a patch stores on an attention layer."""

from dataclasses import dataclass, replace

from torch import nn

from lckernels.hf.masks.kinds import CAUSAL, Kind, Window, bounded

SETTINGS = "_lckernels_settings"  # attribute of a patched attention layer


@dataclass
class LayerSettings:
    """Settings of one attention layer.

    Attributes:
        window: as given to `patch`.
        sink_tokens: as given to `patch`; 0 for none.
        backend: as given to `patch`.
        kind: the layer's kind of attention; None until its first call.
        cross: whether the layer's call is known to have keys of another sequence than its queries.
    """

    window: int | Window | None = None
    sink_tokens: int = 0
    backend: str | None = None
    kind: Kind | None = None
    cross: bool = False

    def narrowed(self, kind: Kind) -> Kind:
        """The kind with full attention changed to windowed attention, if the patch has a window."""
        if self.window is None or not kind.is_full or (self.kind is not None and not self.kind.is_full):
            return kind
        causal = kind.window == CAUSAL
        if isinstance(self.window, int):
            left, right = (self.window - 1, 0) if causal else (self.window // 2,) * 2
        else:
            left, right = self.window
        return replace(kind, window=bounded((left, 0 if causal else right)))


PLAIN = LayerSettings()


def settings_of(module: nn.Module) -> LayerSettings:
    """The settings of an attention layer; PLAIN without a patch."""
    return module.__dict__.get(SETTINGS, PLAIN)
