"""A part of `make demo`: SmolLM2 with a sliding window over 4,096 tokens of the book, stock and on lckernels.

`python -m bench.demo.perplexity --windows` prints its perplexity with narrow windows against full attention.
"""

import argparse
import platform
import time

import torch

from bench.cases import book, smollm2
from bench.harness.rows import machine
from lckernels.perplexity import Comparison, compare, score

NUM_TOKENS, WINDOW = 4096, 1024
FEW_TOKENS, WINDOWS, SINKS = 2048, (64, 256, 1024), 4
TOLERANCE = 2e-5  # of a logit, relative to the largest: 30 layers in fp32, summed in another order


def report(found: Comparison, stock: str) -> list[str]:
    """The figures of both implementations, a line each."""
    names = {f"transformers ({stock})": found.stock, "lckernels": found.patched}
    lines = [f"{'':24}{'seconds':>10}{'tokens/s':>10}{'perplexity':>12}"]
    lines += [
        f"{name:24}{way.seconds:>10.1f}{way.tokens_per_second:>10,.0f}{way.perplexity:>12.4f}"
        for name, way in names.items()
    ]
    allowed = TOLERANCE * found.largest
    ratio = found.stock.seconds / found.patched.seconds
    lines.append(f"{ratio:.1f} times as fast; largest difference of a logit {found.difference:.1e},")
    lines.append(f"allowed {allowed:.1e} ({TOLERANCE:.0e} of the largest logit, {found.largest:.1f})")
    return lines


def check(found: Comparison) -> None:
    """Raises SystemExit unless the logits are the same up to rounding."""
    if not found.difference <= TOLERANCE * found.largest:
        raise SystemExit("the two results differ")


def compare_with_stock(num_tokens: int = NUM_TOKENS, window: int = WINDOW) -> None:
    model, tokenizer = smollm2.load(window)
    ids = book.token_ids(tokenizer, num_tokens)
    print(f"\nSmolLM2-135M as a Mistral with a sliding window of {window:,} reads {len(ids):,} tokens of")
    print("the book (--tokens: how many); the same model, stock and on lckernels' attention:", flush=True)
    found = compare(model, ids, context=len(ids))
    print("\n".join(report(found, model.config._attn_implementation)))
    check(found)


def narrow_windows(num_tokens: int = FEW_TOKENS) -> None:
    """Perplexity of a model trained without a window, with windows and with sink tokens beside them."""
    model, tokenizer = smollm2.load(None)
    ids = book.token_ids(tokenizer, num_tokens)
    print(f"SmolLM2-135M, fp32, {len(ids):,} tokens of the book from character {book.FIRST_CHARACTER:,} on;")
    about = machine()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{about['cpu']}, {about['threads']} threads, {about['isa']}, {versions}")
    print(f"{'window':>8}{'perplexity':>12}{f'with {SINKS} sinks':>14}{'seconds':>10}", flush=True)
    for window in (*WINDOWS, None):
        found = score(model, ids, context=len(ids), window=window)
        sinks = score(model, ids, context=len(ids), window=window, sink_tokens=SINKS) if window else None
        beside = f"{sinks.perplexity:.2f}" if sinks else ""
        print(f"{window or 'full':>8}{found.perplexity:>12.2f}{beside:>14}{found.seconds:>10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", action="store_true", help="perplexity with narrow windows instead")
    parser.add_argument("--tokens", type=int, help="read so many tokens (default: 4096, with --windows 2048)")
    options = parser.parse_args()
    if smollm2.missing():
        raise SystemExit(smollm2.missing())
    begin = time.perf_counter()
    if options.windows:
        narrow_windows(options.tokens or FEW_TOKENS)
    else:
        compare_with_stock(options.tokens or NUM_TOKENS)
    print(f"took {time.perf_counter() - begin:.0f} s, loading the model included")


if __name__ == "__main__":
    main()
