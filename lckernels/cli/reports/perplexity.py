"""The figures of `lckernels perplexity`, as lines and as JSON."""

from dataclasses import dataclass
from typing import Any

from lckernels.cli.console import printable
from lckernels.perplexity.results import Comparison, Scored
from lckernels.perplexity.tokens import Tokens
from lckernels.text_files import Text

_CONTEXTS = {"every": "every context", "first": "the first context only"}


@dataclass(frozen=True, eq=False)
class Result:
    """A text that was scored, and how.

    Attributes:
        text: the text.
        model: its name on the command line.
        tokens: of the text.
        special: names of the special tokens at its start.
        bos: "every" or "first" context begins with them; None if there are none.
        context, stride, window, sink_tokens, dtype: the options.
        patched: scores on lckernels' attention.
        comparison: with the scores of the model as it is; None without --compare.
    """

    text: Text
    model: str
    tokens: Tokens
    special: list[str]
    bos: str | None
    context: int
    stride: int
    window: int | None
    sink_tokens: int | None
    dtype: str
    patched: Scored
    comparison: Comparison | None

    @property
    def variants(self) -> dict[str, Scored]:
        """The scores by variant: stock with --compare, and patched."""
        stock = {"stock": self.comparison.stock} if self.comparison else {}
        return {**stock, "patched": self.patched}

    @property
    def exact(self) -> bool:
        """Whether the patched model computes the same as the model as it is: no window narrows a context."""
        return self.window is None or self.window >= self.context

    @property
    def attention(self) -> str:
        """The attention of the patched model, in words."""
        if self.window is None:
            return "the model's own attention"
        sinks = f" and the first {self.sink_tokens:,}" if self.sink_tokens else ""
        return f"a window of {self.window:,} tokens{sinks}"


def lines(result: Result) -> list[str]:
    """The figures, a line each."""
    cut = f"context {result.context:,}, stride {result.stride:,}"
    if result.special:
        cut += f", {printable(' '.join(result.special))} in {_CONTEXTS[result.bos]}"
    total, scored = len(result.patched.nll), result.patched.num_scored
    found = [f"{total:,} tokens, {scored:,} scored ({cut}), {result.attention}, {result.dtype}"]
    names = {"stock": "stock     ", "patched": "lckernels "} if result.comparison else {"patched": ""}
    for variant, scores in result.variants.items():
        bits = scores.bits_per_byte(result.tokens.num_bytes)
        found.append(f"{names[variant]}perplexity {scores.perplexity:,.4f}, {bits:.4f} bits per byte")
        speed = f"{scores.seconds:.1f} s, {scores.tokens_per_second:,.0f} tokens/s"
        found.append(f"{names[variant]}read in {speed}")
    if result.comparison:
        found += _difference(result, result.comparison)
    return found


def _difference(result: Result, comparison: Comparison) -> list[str]:
    """How far the logits of the two variants are apart, and what that means."""
    size = f"{comparison.difference:.2e}, of logits up to {comparison.largest:.1f}"
    if not result.exact:
        return [
            f"the window changes a logit by up to {size}",
            f"this is the approximation error of a window of {result.window:,} tokens, not a rounding error",
        ]
    why = "the patch is exact" if result.window is None else "no context is longer than the window"
    return [f"largest difference of a logit {size}", f"{why}: the difference is rounding"]


def as_json(result: Result) -> dict[str, Any]:
    """The object that `perplexity --json` prints."""
    found: dict[str, Any] = {
        "file": printable(str(result.text.path)),
        "text_sha256": result.text.sha256,
        "model": result.model,
        "dtype": result.dtype,
        "tokens": len(result.patched.nll),
        "scored": result.patched.num_scored,
        "context": result.context,
        "stride": result.stride,
        "window": result.window,
        "sink_tokens": result.sink_tokens,
        "bos": result.bos,
        **_figures(result.patched, result.tokens),
    }
    if result.comparison:
        found["stock"] = _figures(result.comparison.stock, result.tokens)
        found["exact"] = result.exact
        found["largest_logit_difference"] = result.comparison.difference
        found["largest_logit"] = result.comparison.largest
    return found


def _figures(scored: Scored, tokens: Tokens) -> dict[str, float]:
    return {
        "perplexity": scored.perplexity,
        "bits_per_byte": scored.bits_per_byte(tokens.num_bytes),
        "seconds": scored.seconds,
        "tokens_per_second": scored.tokens_per_second,
    }
