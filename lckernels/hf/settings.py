"""What a patch stores on an attention layer."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lckernels.hf.masks.kinds import CAUSAL, Kind, Window, bounded

SETTINGS = "_lckernels_settings"  # attribute of a patched attention layer
OF_VIEW = "_lckernels_settings_of_view"  # slot of a layer's view


@dataclass
class LayerSettings:
    """Settings of one attention layer.

    Attributes:
        window: as given to `patch`.
        sink_tokens: as given to `patch`; 0 for none.
        backend: as given to `patch`.
        kind: the layer's kind of attention; None until its first call.
        virtual_tokens: of PEFT's adapter before each row, at `patch`.
        cross: whether the layer's call is known to have keys of another sequence than its queries.
        bias_distance: the distance of a key from which on the layer's relative position bias is constant; 0
            without a bias, as far as a dry run shows; None where no distance is known.
        rotation: a Rotation of lckernels.hf.cache.rotation, for positions="cache"; else None.
    """

    window: int | Window | None = None
    sink_tokens: int = 0
    backend: str | None = None
    kind: Kind | None = None
    cross: bool = False
    virtual_tokens: int = 0
    bias_distance: int | None = 0
    rotation: Any = None

    @property
    def narrows(self) -> bool:
        """Whether the patch's window applies to full attention of the layer."""
        return self.window is not None and (self.kind is None or self.kind.is_full)

    def narrowed(self, kind: Kind) -> Kind:
        """The kind with full attention changed to windowed attention, if the patch has a window."""
        if not self.narrows or not kind.is_full:
            return kind
        causal = kind.window == CAUSAL
        if isinstance(self.window, int):
            left, right = (self.window - 1, 0) if causal else (self.window // 2,) * 2
        else:
            left, right = self.window
        return replace(kind, window=bounded((left, 0 if causal else right)))


PLAIN = LayerSettings()


class OwnSettings:
    """A base of views of modules: a view is one context's, and so are its settings."""

    __slots__ = (OF_VIEW,)


def settings_of(module: nn.Module) -> LayerSettings:
    """The settings of an attention layer: those of a patch, else of its view; PLAIN without either."""
    settings = module.__dict__.get(SETTINGS)
    if settings is not None:
        return settings
    return module._lckernels_settings_of_view if isinstance(module, OwnSettings) else PLAIN
