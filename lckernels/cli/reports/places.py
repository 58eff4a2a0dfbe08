"""Where parts of a text are, and what was read of it, for the reports of tasks."""

from typing import TYPE_CHECKING, Any

from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.results import Span


def span_json(text: Text, span: "Span") -> dict[str, Any]:
    """The keys of a part of a text in the objects that tasks print; offsets are those of the file."""
    return {
        "score": span.score,
        "start": span.start + text.content_start,
        "end": span.end + text.content_start,
        "line": text.line(span.start),
        "percent": text.percent(span.start),
        "text": span.text,
    }


def file_json(text: Text, coverage: float, num_tokens: int) -> dict[str, Any]:
    """The keys of a text."""
    return {
        "file": str(text.path),
        "text_sha256": text.sha256,
        "tokens": num_tokens,
        "coverage": coverage,
    }


def reading(coverage: float, num_tokens: int) -> str:
    """How much of a text was read."""
    return f"{num_tokens:,} tokens, {percent(coverage)} of the text's characters read"


def percent(share: float) -> str:
    """A share in percent that is "100 %" for the whole alone."""
    shown = f"{100 * share:.4g}"
    return "99.99 %" if share < 1 and float(shown) >= 100 else f"{shown} %"
