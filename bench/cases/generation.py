"""Generation with SmolLM2 that is timed: a decode step far into a sequence, and a long prompt."""

from dataclasses import asdict, dataclass
from typing import Any

from lckernels.flops import attention_flops
from lckernels.visible import visible_pairs

K = 1024
WINDOW, SINKS = K, 4


@dataclass(frozen=True)
class Patch:
    """Arguments of `lckernels.patch`; by default attention is exact."""

    window: int | None = None
    sink_tokens: int | None = None
    positions: str = "absolute"
    linear: str | None = None

    def options(self) -> dict[str, Any]:
        return asdict(self)

    def num_visible(self, cached: int) -> int:
        """Keys that a token sees after `cached` others, itself included."""
        every = cached + 1
        return every if self.window is None else min(every, (self.sink_tokens or 0) + self.window)

    def shape(self, cached: int, layers: int) -> dict[str, int | str]:
        sizes = {"cached": cached, "layers": layers, "window": self.window or "none"}
        return sizes | {
            "sinks": self.sink_tokens or 0, "positions": self.positions, "linear": self.linear or "none",
        }  # fmt: skip


EXACT = Patch()
WINDOWED = Patch(WINDOW, SINKS)
PACKED = Patch(WINDOW, SINKS, linear="packed")
IN_CACHE = Patch(WINDOW, SINKS, positions="cache")
PATCHES = (EXACT, WINDOWED, PACKED, IN_CACHE)
CACHED = (64, WINDOW + SINKS, 2 * K, 32 * K)  # tokens before the step


@dataclass(frozen=True)
class PrefillCase:
    """The prompt of a generation through the first layers of SmolLM2 without its head, fp32.

    Attributes:
        seqlen: Tokens of the prompt.
        layers: Number of layers; the model has 30.
        window: Keys that a token sees, itself included.
    """

    seqlen: int
    layers: int
    window: int = WINDOW

    @property
    def label(self) -> str:
        return f"n{self.seqlen}-l{self.layers}"

    def shape(self) -> dict[str, int | str]:
        return {"seqlen": self.seqlen, "layers": self.layers, "window": self.window}

    def flops(self, weights: int, heads: int, head_dim: int) -> float:
        """Products with so many weights, and of the visible pairs."""
        pairs = visible_pairs(self.seqlen, self.seqlen, (self.window - 1, 0))
        return 2 * weights * self.seqlen + self.layers * attention_flops(pairs, heads, head_dim, head_dim)


PREFILL_QUICK = [PrefillCase(4 * K, 2)]
PREFILL_FULL = [*PREFILL_QUICK, PrefillCase(8 * K, 4), PrefillCase(32 * K, 30)]
