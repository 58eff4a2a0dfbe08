"""The demo of `make demo`: a search in a book; then the same merge by a Python loop, compared and timed."""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor

from bench.cases import book
from bench.cases.minilm import CHUNK_LEN, OVERLAP, model_folder
from lckernels import LongEncoder, overlap_merge

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "demo"
PICTURE = FOLDER / "jargon-file.search.png"
QUESTION = "Which computer bug was a real moth?"
PART_CHARACTERS = 400_000  # a quarter of the book, which has the answer
PART_TOKENS = 10_000
CHUNKS_PER_BATCH = 8
TOLERANCE = 5e-5  # of states of size 1 after six layers: torch's attention against lckernels'


def first_part() -> Path:
    """A file with the book's first PART_CHARACTERS characters, to the end of a paragraph."""
    text = book.PATH.read_text(encoding="utf-8")
    part = text[: text.rindex("\n\n", 0, PART_CHARACTERS)] + "\n"
    path = FOLDER / "jargon-file-part.txt"
    path.write_text(part, encoding="utf-8")
    print(f"{path.relative_to(ROOT)} is the first {len(part):,} of the book's {len(text):,} characters")
    print("(`make demo WHOLE=1` reads the whole book)\n")
    return path


def search_the_book(model: str, whole: bool) -> None:
    FOLDER.mkdir(exist_ok=True)
    path = book.PATH if whole else first_part()
    options = ["search", str(path), QUESTION, "--model", model, "--plot", str(PICTURE)]
    print(f"$ lckernels {shlex.join(options)}\n", flush=True)
    subprocess.run([sys.executable, "-m", "lckernels.cli", *options], check=True)


def chunk_starts(num_tokens: int) -> list[int]:
    """First token of each chunk, without special tokens; the last chunk is moved left to be full."""
    content = CHUNK_LEN - 2
    return [*range(0, num_tokens - content, content - OVERLAP), num_tokens - content]


def read_chunks(model: torch.nn.Module, ids: Tensor) -> list[Tensor]:
    """ids (seqlen,) with [CLS] and [SEP]; per batch the chunks' states (rows, CHUNK_LEN, dim)."""
    content = ids[1:-1]
    rows = [
        torch.cat([ids[:1], content[start : start + CHUNK_LEN - 2], ids[-1:]])
        for start in chunk_starts(len(content))
    ]
    batches = torch.stack(rows).split(CHUNKS_PER_BATCH)
    return [model(input_ids=batch).last_hidden_state for batch in batches]


def merge_by_loop(batches: list[Tensor], num_tokens: int) -> Tensor:
    """A Python loop: weights, index_add_ per chunk, one division. Returns (num_tokens, dim)."""
    content = CHUNK_LEN - 2
    starts = chunk_starts(num_tokens)
    total = batches[0].new_zeros(num_tokens, batches[0].shape[2])
    weight_sum = batches[0].new_zeros(num_tokens)
    rows = (row for batch in batches for row in batch)
    for start, row in zip(starts, rows, strict=True):
        left = torch.arange(1.0, content + 1)
        right = left.flip(0)
        weight = right if start == starts[0] else left if start == starts[-1] else torch.minimum(left, right)
        positions = torch.arange(start, start + content)
        total.index_add_(0, positions, row[1:-1] * weight[:, None])
        weight_sum.index_add_(0, positions, weight)
    return total / weight_sum[:, None]


def seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The best time of each, timed in turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    return {name: min(values) for name, values in times.items()}


def compare_with_the_usual_way(folder: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    text = book.PATH.read_text(encoding="utf-8")[: 10 * PART_TOKENS]
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    ids = torch.cat([ids[: PART_TOKENS + 1], ids[-1:]])
    encoder = LongEncoder(
        model, chunk_len=CHUNK_LEN, overlap=OVERLAP, max_tokens=CHUNKS_PER_BATCH * CHUNK_LEN
    ).eval()
    plan = encoder.plan(len(ids))

    whole = {
        "usual": lambda: merge_by_loop(read_chunks(model, ids), PART_TOKENS),
        "lckernels": lambda: encoder(input_ids=ids[None]).last_hidden_state,
    }
    batches = read_chunks(model, ids)
    expected, result = merge_by_loop(batches, PART_TOKENS), whole["lckernels"]()[0, 1:-1]
    difference = float((expected - result).abs().max())
    whole_times = seconds(whole, repeats=2)
    chunks = torch.cat(batches)
    merge = {
        "usual": lambda: merge_by_loop(batches, PART_TOKENS),
        "lckernels": lambda: overlap_merge(chunks, plan, "triangular"),
    }
    merge_times = seconds(merge, repeats=30)

    print(f"\nThe same {plan.num_chunks} chunks of {PART_TOKENS:,} tokens of the book, merged the usual way")
    print("(torch's attention, then a Python loop, index_add_, a division) and by lckernels; the best times:")
    print(f"attention in LongEncoder: {encoder.explain(len(ids)).attention}")
    print(f"{'':26}{'usual way':>12}{'lckernels':>12}{'ratio':>8}")
    for name, times, unit, scale in (
        ("model and merge, seconds", whole_times, ".2f", 1.0),
        ("merge alone, ms", merge_times, ".2f", 1e3),
    ):
        usual, ours = (scale * times[way] for way in ("usual", "lckernels"))
        print(f"{name:26}{usual:>12{unit}}{ours:>12{unit}}{usual / ours:>7.1f}x")
    print(f"largest difference {difference:.1e}, allowed {TOLERANCE:.0e}")
    if not difference <= TOLERANCE:
        raise SystemExit("the two results differ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--whole", action="store_true", help="search the whole book, not its first quarter")
    options = parser.parse_args()
    begin = time.perf_counter()
    transformers.logging.disable_progress_bar()
    folder = model_folder()
    search_the_book(folder, options.whole)
    with torch.inference_mode():
        compare_with_the_usual_way(folder)
    print(f"picture: {PICTURE.relative_to(ROOT)}; demo took {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
