"""SmolLM2's perplexity by position in the bundled book: full attention, a window, a window and sink tokens.

`python -m bench.suites.perplexity_by_position` writes the curves to perplexity_by_position.json and draws
them. Each segment is read through the KV cache, a piece at a time.
"""

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import lckernels
from bench.cases import book, smollm2
from bench.cases.generation import Patch
from bench.harness import rows
from bench.peers.decode import cache_argument
from bench.peers.model_attention import with_attention

WINDOW, SINKS, PIECE, BIN = 512, 4, 512, 128
IN_CACHE = 'the same, positions="cache"'
WAYS: dict[str, Patch] = {
    "full attention": Patch(),
    "window": Patch(WINDOW),
    "window and sink tokens": Patch(WINDOW, SINKS),
    IN_CACHE: Patch(WINDOW, SINKS, "cache"),
}
COLORS = dict(zip(WAYS, ("#8c959f", "#b0413e", "#1f4e79", "#1a7f37"), strict=True))


@torch.inference_mode()
def losses(model: nn.Module, ids: Tensor) -> Tensor:
    """(tokens - 1,) negative log-likelihoods of the tokens after the first; ids (1, tokens)."""
    cache, parts = transformers.DynamicCache(config=model.config), []
    for begin in range(0, ids.shape[1], PIECE):
        piece = ids[:, begin : begin + PIECE]
        logits = model(input_ids=piece, use_cache=True, **{cache_argument(model): cache}).logits[0]
        targets = ids[0, begin + 1 : begin + PIECE + 1]
        parts.append(F.cross_entropy(logits[: len(targets)].float(), targets, reduction="none"))
    return torch.cat(parts)


def curve(model: nn.Module, segments: Tensor, patch: Patch) -> list[float]:
    """Perplexity of each bin of positions over all segments (count, tokens); the first token has none."""
    copied = with_attention(model, "sdpa")
    if patch != Patch():
        lckernels.patch(copied, **patch.options())
    found = torch.stack([losses(copied, ids[None]) for ids in segments]).double()
    # Bins are of the predicted token's position, which is the loss's place plus one.
    bounds = [max(0, at - 1) for at in range(0, segments.shape[1] + 1, BIN)]
    return [math.exp(found[:, a:b].mean()) for a, b in pairwise(bounds)]


def part(perplexities: list[float], begin: int, end: int) -> float:
    """The perplexity of the positions from `begin` to `end`, both multiples of BIN."""
    of_bins = perplexities[begin // BIN : end // BIN]
    return math.exp(sum(map(math.log, of_bins)) / len(of_bins))


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """Plots the perplexity of each way by position."""
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for name, perplexities in curves.items():
        middles = [BIN * (i + 0.5) for i in range(len(perplexities))]
        style = "--" if name == IN_CACHE else "-"  # it is on the line of sink tokens
        options = {"color": COLORS[name], "linestyle": style, "marker": ".", "linewidth": 1.3}
        axes.plot(middles, perplexities, label=name, **options)
    axes.axvline(WINDOW, color="#24292f", linestyle=":", linewidth=1)
    axes.annotate(
        " the first token is evicted",
        (WINDOW, 0.97),
        xycoords=("data", "axes fraction"),
        fontsize=8,
        va="top",
    )
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("position (tokens)")
    axes.set_ylabel("perplexity")
    axes.grid(color="#e6e6e6", which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure(model: nn.Module, segments: Tensor) -> dict[str, list[float]]:
    """The curve of each way; prints the perplexity before and after the first token is evicted."""
    curves = {}
    for name, patch in WAYS.items():
        curves[name] = curve(model, segments, patch)
        before, after = part(curves[name], 0, WINDOW), part(curves[name], WINDOW, segments.shape[1])
        print(f"{name:30} {before:8.2f} to {WINDOW}, {after:8.2f} from there on", flush=True)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--segments", type=int, default=4, help="consecutive parts of the book")
    parser.add_argument("--tokens", type=int, default=4096, help=f"of each, a multiple of {BIN}")
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="output folder")
    parser.add_argument("--picture", type=Path, help="default: perplexity_by_position.png in that folder")
    options = parser.parse_args()
    if options.tokens <= WINDOW or options.tokens % BIN:
        parser.error(f"--tokens: got {options.tokens}; expected a multiple of {BIN} above {WINDOW}")
    options.rows.mkdir(parents=True, exist_ok=True)
    model, tokenizer = smollm2.load(None)
    ids = book.token_ids(tokenizer, options.segments * options.tokens)
    curves = measure(model, ids.view(options.segments, options.tokens))
    found = {"model": "SmolLM2-135M-Instruct", "dtype": "float32", "segments": options.segments}
    found |= {"tokens": options.tokens, "window": WINDOW, "sink_tokens": SINKS, "bin": BIN}
    found |= {"perplexity": curves, "machine": rows.machine(), "versions": rows.versions(), **rows.commit()}
    (options.rows / "perplexity_by_position.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(curves, options.picture or options.rows / "perplexity_by_position.png")


if __name__ == "__main__":
    main()
