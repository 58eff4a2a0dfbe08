"""The error of LongEncoder's states by overlap: MiniLM on pieces of the bundled book that it reads at once.

`python -m bench.suites.overlap_error` writes the curves to overlap_error.json, and draws them.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import transformers
from torch import Tensor, nn

import lckernels
from bench.cases import book
from bench.cases.minilm import model_folder
from bench.harness import rows
from lckernels.checks import WEIGHTS
from lckernels.long.encoder import LongEncoder
from lckernels.long.measure import state_errors
from lckernels.long.text_encoder import TextEncoder
from lckernels.text_files import read_text

PIECE, CHUNK_LENS, BATCH = 512, (128, 256), 16
EIGHTHS = range(7)  # overlaps, as parts of a chunk's content
COLORS = dict(zip(WEIGHTS, ("#8c959f", "#1f4e79", "#1a7f37", "#b0413e"), strict=True))


def book_pieces(encoder: TextEncoder, count: int) -> Tensor:
    """(count, PIECE) token ids: evenly spaced parts of the book with its special tokens."""
    tokens = encoder.tokenize(read_text(book.PATH).content)
    ids, content = tokens.input_ids[0], PIECE - encoder.encoder.chunking.num_special
    first, size = tokens.leading, len(tokens.offsets)
    begins = [first + i * (size - content) // max(count - 1, 1) for i in range(count)]
    parts = [torch.cat([ids[:first], ids[at : at + content], ids[first + size :]]) for at in begins]
    return torch.stack(parts)


def merged_states(model: nn.Module, pieces: Tensor, chunk_len: int, overlap: int) -> dict[str, Tensor]:
    """The states of LongEncoder for each kind of weights, (tokens, dim); the model reads the chunks once."""
    encoder = LongEncoder(model, chunk_len, overlap)
    plan = encoder.plan([PIECE] * len(pieces))
    ids = torch.zeros(plan.num_chunks, chunk_len, dtype=torch.int64)
    for row, col, start, length, *_ in plan.segments.tolist():
        piece = pieces[start // PIECE]
        if col == 1:  # content; special tokens are segments of their own
            first = start % PIECE
            ids[row] = torch.cat([piece[:1], piece[first : first + length], piece[-1:]])
    states = torch.cat([model(part).last_hidden_state for part in ids.split(BATCH)])
    return {weights: lckernels.overlap_merge(states, plan, weights) for weights in WEIGHTS}


def curves(model: nn.Module, pieces: Tensor) -> list[dict[str, object]]:
    """Mean error and cosine distance for each length of chunks, overlap and weights."""
    found: list[dict[str, object]] = []
    with torch.inference_mode():
        whole = torch.cat([model(part).last_hidden_state for part in pieces.split(BATCH)])
        whole = whole.double().flatten(0, 1)
        for chunk_len in CHUNK_LENS:
            for eighths in EIGHTHS:
                overlap = (chunk_len - 2) * eighths // 8
                line: dict[str, object] = {
                    "chunk_len": chunk_len,
                    "overlap": overlap,
                    # Of a long text; the last chunk of a piece overlaps more.
                    "tokens_read_per_token": chunk_len / (chunk_len - 2 - overlap),
                    "error": {},
                    "cosine_distance": {},
                }
                for weights, merged in merged_states(model, pieces, chunk_len, overlap).items():
                    states = merged.double()
                    line["error"][weights] = state_errors(whole, states).mean().item()
                    distance = 1 - torch.cosine_similarity(whole, states, dim=1)
                    line["cosine_distance"][weights] = distance.mean().item()
                found.append(line)
                print(line, flush=True)
    return found


def draw(found: list[dict[str, object]], path: Path) -> None:
    """Plots the error by overlap, and by tokens read per token, for each length of chunks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for chunk_len, style in zip(CHUNK_LENS, ("-", "--"), strict=True):
        lines = [line for line in found if line["chunk_len"] == chunk_len]
        for weights in WEIGHTS:
            errors = [line["error"][weights] for line in lines]
            options = {"color": COLORS[weights], "linestyle": style, "marker": ".", "linewidth": 1.3}
            left.plot([line["overlap"] for line in lines], errors, **options)
            label = f"{weights}, {chunk_len}"
            right.plot([line["tokens_read_per_token"] for line in lines], errors, label=label, **options)
    left.set_xlabel("overlap (tokens)")
    left.set_ylabel("mean relative error of a state")
    left.set_ylim(bottom=0)
    right.set_xlabel("tokens read per token of a long text")
    right.legend(fontsize=8, ncols=2, title="weights, chunk_len", title_fontsize=8)
    for axes in (left, right):
        axes.grid(color="#e6e6e6")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pieces", type=int, default=32, help=f"parts of the book of {PIECE} tokens")
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="output folder")
    parser.add_argument("--picture", type=Path, help="default: overlap_error.png in that folder")
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    options.rows.mkdir(parents=True, exist_ok=True)
    encoder = TextEncoder(model_folder(), chunk_len=PIECE)
    pieces = book_pieces(encoder, options.pieces)
    lines = curves(encoder.encoder.model, pieces)
    found = {"pieces": len(pieces), "piece_len": PIECE, "curves": lines}
    found |= {"machine": rows.machine(), "commit": rows.commit()}
    (options.rows / "overlap_error.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(lines, options.picture or options.rows / "overlap_error.png")


if __name__ == "__main__":
    main()
