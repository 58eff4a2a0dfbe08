"""What the commands print: passages and figures on stdout, remarks on stderr."""

import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text as Line
from torch import Tensor

from lckernels import info
from lckernels.search.passages import Passages
from lckernels.search.saved_states import States
from lckernels.search.text import Text, printable

# Names of files and models are text, not markup.
_PLAIN = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
out = Console(**_PLAIN)
remarks = Console(**_PLAIN, stderr=True, style="dim")


def say(line: str) -> None:
    """A remark, on stderr."""
    remarks.print(printable(line))


def print_passages(text: Text, passages: Passages, scores: Tensor, best: Tensor) -> None:
    """The best passages: rank, score, position, then their lines as the text has them."""
    for rank, passage in enumerate(best.tolist(), start=1):
        start, end = passages.chars[passage].tolist()
        head = Line(f"{rank:>2}  ", style="bold")
        head.append(f"score {scores[passage]:.3f}", style="bold green")
        where = f"   {text.percent(start):.1f} % of the text, line {text.line(start):,}, character {start:,}"
        head.append(where, style="cyan")
        out.print(head)
        out.print(Line(textwrap.indent(text.lines(start, end), "    ")))
        out.print()


def print_figures(states: States, reused: bool) -> None:
    """Tokens, chunks, seconds and tokens per second of the encoding."""
    facts = states.metadata
    num_tokens, seconds = int(facts["num_tokens"]), float(facts["seconds"])
    how = ", merged in every layer" if facts["merge"] == "layer" else ""
    out.print(
        f"{num_tokens:,} tokens in {int(facts['num_chunks']):,} chunks of up to {int(facts['chunk_len']):,} "
        f"(overlap {int(facts['overlap']):,}, {facts['weights']}{how})"
    )
    when = "states taken from the file; encoding had taken" if reused else "encoded in"
    out.print(f"{when} {seconds:.1f} s, {num_tokens / max(seconds, 1e-9):,.0f} tokens/s, {facts['dtype']}")


def print_info() -> None:
    """Versions, what was built, the machine, and the table of backends."""
    for title, facts in (("versions", info.versions()), ("built", info.built()), ("machine", info.machine())):
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        table.add_column(min_width=26)
        for row in facts.items():
            table.add_row(*row)
        out.print(table, soft_wrap=False)
        out.print()
    out.print(Line("backends", style="italic"))
    for op, device, dtypes, backend, others in info.served():
        out.print(Line.assemble((op, "bold"), f" on {device}, {dtypes}: ", (backend, "green")))
        for why in others:
            out.print(Line(f"    not {why}", style="dim"))
