"""`python -m bench.suites.encoder_profile`: LongEncoder's time by operator, on pages of the book.

torch.profiler counts each operator's own time, without the operators that it calls. Page faults are those of
a call without the profiler.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from bench.cases import minilm
from bench.harness.report.tables import lines
from bench.harness.rows import commit, machine
from bench.suites.minilm import PagesCase
from lckernels.long.text_encoder import DTYPES

SHOWN = 0.005  # operators below this share of the time are summed


def shares(call: Callable[[], object]) -> list[tuple[str, int, float]]:
    """Name, calls and milliseconds of each operator, the largest first; the small ones are one line."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    found = [(one.key, one.count, one.self_cpu_time_total / 1e3) for one in profiled.key_averages()]
    found.sort(key=lambda one: one[2], reverse=True)
    total = sum(milliseconds for _, _, milliseconds in found)
    large = [one for one in found if one[2] >= SHOWN * total]
    rest = found[len(large) :]
    return [*large, ("all others", sum(count for _, count, _ in rest), sum(ms for _, _, ms in rest))]


def page_faults(call: Callable[[], object]) -> tuple[int, float]:
    """Page faults of a call, and its seconds."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, seconds


def table(found: list[tuple[str, int, float]]) -> list[str]:
    total = sum(milliseconds for _, _, milliseconds in found)
    cells = [["operator", "calls", "ms", "share"]]
    cells += [[name, str(count), f"{ms:.0f}", f"{100 * ms / total:.1f} %"] for name, count, ms in found]
    return lines(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.suites.encoder_profile", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--chunks", type=int, default=16, help="chunks of 512 tokens (default: %(default)s)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--merge", choices=("final", "layer"), default="final")
    parser.add_argument(
        "--linear", choices=("packed",), help="LongEncoder's linear (default: torch's own code)"
    )
    parser.add_argument("--max-tokens", type=int, help="of a micro-batch (default: LongEncoder's)")
    options = parser.parse_args()
    case = PagesCase(options.chunks, DTYPES[options.dtype])
    model, tokenizer = minilm.load(case.dtype)
    given = {} if options.max_tokens is None else {"max_tokens": options.max_tokens}
    encoder = minilm.encoder(model, merge=options.merge, linear=options.linear, **given)
    ids = minilm.token_ids(tokenizer, case.tokens)
    call = torch.no_grad()(lambda: encoder(input_ids=ids))
    call()
    faults, seconds = page_faults(call)
    about, here = commit(), machine()
    changes = " and changes" if about["dirty"] else ""
    chosen = f"merge={options.merge!r}, linear={options.linear!r}"
    print(f"MiniLM, {case.label}, {chosen}, micro-batches of {encoder.max_tokens} tokens;")
    print(f"{here['cpu']}, {here['threads']} threads, {here['isa']}; commit {about['commit']}{changes}")
    print(f"{seconds:.2f} s, {case.tokens / seconds:,.0f} tokens/s, {faults:,} page faults\n")
    print("\n".join(table(shares(call))))


if __name__ == "__main__":
    main()
