"""Figures of an encoding, as lines and as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lckernels.flops import format_count
from lckernels.text_files import Text


def lines(facts: Mapping[str, str], reused: bool) -> list[str]:
    """Tokens, chunks, seconds and tokens per second.

    Args:
        facts: metadata of the states.
        reused: whether the states are from a file.
    """
    num_tokens, seconds = int(facts["num_tokens"]), float(facts["seconds"])
    how = ", merged in every layer" if facts["merge"] == "layer" else ""
    when = "states taken from the file; encoding had taken" if reused else "encoded in"
    return [
        f"{format_count(num_tokens, 'token')} in {format_count(int(facts['num_chunks']), 'chunk')} "
        f"of up to {int(facts['chunk_len']):,} (overlap {int(facts['overlap']):,}, {facts['weights']}{how})",
        f"{when} {seconds:.1f} s, {num_tokens / max(seconds, 1e-9):,.0f} tokens/s, {facts['dtype']}",
    ]


def as_json(text: Text, facts: Mapping[str, str], path: Path | None, reused: bool) -> dict[str, Any]:
    """The keys that `search --json` and `encode --json` print for each file.

    Args:
        text: the file.
        facts: metadata of its states.
        path: where they are saved; None if they are not.
        reused: whether they are from that file.
    """
    num_tokens, seconds = int(facts["num_tokens"]), float(facts["seconds"])
    return {
        "file": str(text.path),
        "text_sha256": text.sha256,
        "tokens": num_tokens,
        "chunks": int(facts["num_chunks"]),
        "chunk_len": int(facts["chunk_len"]),
        "overlap": int(facts["overlap"]),
        "weights": facts["weights"],
        "boundaries": facts["boundaries"],
        "merge": facts["merge"],
        "dtype": facts["dtype"],
        "seconds": seconds,
        "tokens_per_second": num_tokens / max(seconds, 1e-9),
        "states": None if path is None else str(path),
        "states_reused": reused,
    }
