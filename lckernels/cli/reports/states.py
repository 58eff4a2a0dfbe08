"""Figures of an encoding on stdout."""

from lckernels.cli.console import stdout
from lckernels.search.saved_states import States


def print_figures(states: States, reused: bool) -> None:
    """Prints tokens, chunks, seconds and tokens per second of the encoding."""
    facts = states.metadata
    num_tokens, seconds = int(facts["num_tokens"]), float(facts["seconds"])
    how = ", merged in every layer" if facts["merge"] == "layer" else ""
    stdout.print(
        f"{num_tokens:,} tokens in {int(facts['num_chunks']):,} chunks of up to {int(facts['chunk_len']):,} "
        f"(overlap {int(facts['overlap']):,}, {facts['weights']}{how})"
    )
    when = "states taken from the file; encoding had taken" if reused else "encoded in"
    stdout.print(f"{when} {seconds:.1f} s, {num_tokens / max(seconds, 1e-9):,.0f} tokens/s, {facts['dtype']}")
