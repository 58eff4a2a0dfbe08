"""What `lckernels perplexity` prints: figures as lines or as JSON."""

import json
import math
from dataclasses import dataclass
from typing import Any

from lckernels.cli.console import printable
from lckernels.perplexity.results import Comparison, Scored
from lckernels.perplexity.tokens import Tokens
from lckernels.search.text import Text


@dataclass(frozen=True, eq=False)
class Reading:
    """A text that was scored, and how; comparison is None unless it was also read stock."""

    text: Text
    model: str
    tokens: Tokens
    context: int
    stride: int
    window: int | None
    sink_tokens: int | None
    dtype: str
    patched: Scored
    comparison: Comparison | None

    @property
    def ways(self) -> dict[str, Scored]:
        """Stock, where there is one, and patched."""
        stock = {"stock": self.comparison.stock} if self.comparison else {}
        return {**stock, "patched": self.patched}

    @property
    def attention(self) -> str:
        """What the patched model attends to, in words."""
        if self.window is None:
            return "the model's own attention"
        sinks = f" and the first {self.sink_tokens:,}" if self.sink_tokens else ""
        return f"a window of {self.window:,} tokens{sinks}"


def lines(reading: Reading) -> list[str]:
    """The figures, a line each."""
    cut = f"context {reading.context:,}, stride {reading.stride:,}"
    total, scored = len(reading.patched.nll), reading.patched.num_scored
    found = [f"{total:,} tokens, {scored:,} scored ({cut}), {reading.attention}, {reading.dtype}"]
    names = {"stock": "stock     ", "patched": "lckernels "} if reading.comparison else {"patched": ""}
    for way, result in reading.ways.items():
        bits = result.bits_per_byte(reading.tokens.num_bytes)
        found.append(f"{names[way]}perplexity {result.perplexity:,.4f}, {bits:.4f} bits per byte")
        speed = f"{result.seconds:.1f} s, {result.tokens_per_second:,.0f} tokens/s"
        found.append(f"{names[way]}read in {speed}")
    if reading.comparison:
        apart = reading.comparison
        found.append(
            f"largest difference of a logit {apart.difference:.2e}, of logits up to {apart.largest:.1f}"
        )
    return found


def as_json(reading: Reading) -> str:
    """One object on one line; a number that is not finite is null."""
    found: dict[str, Any] = {
        "file": printable(str(reading.text.path)),
        "text_sha256": reading.text.sha256,
        "model": reading.model,
        "dtype": reading.dtype,
        "tokens": len(reading.patched.nll),
        "scored": reading.patched.num_scored,
        "context": reading.context,
        "stride": reading.stride,
        "window": reading.window,
        "sink_tokens": reading.sink_tokens,
        **_figures(reading.patched, reading.tokens),
    }
    if reading.comparison:
        found["stock"] = _figures(reading.comparison.stock, reading.tokens)
        found["largest_logit_difference"] = _finite(reading.comparison.difference)
        found["largest_logit"] = _finite(reading.comparison.largest)
    return json.dumps(found, allow_nan=False)


def _figures(scored: Scored, tokens: Tokens) -> dict[str, float | None]:
    found = {
        "perplexity": scored.perplexity,
        "bits_per_byte": scored.bits_per_byte(tokens.num_bytes),
        "seconds": scored.seconds,
        "tokens_per_second": scored.tokens_per_second,
    }
    return {name: _finite(value) for name, value in found.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
