"""LongEncoder over the bundled book: merge="final" on torch's attention and on lckernels', and merge="layer".

`python -m bench.suites.encoder` appends rows to encoder.jsonl and writes the agreement of merge="layer" with
merge="final", in hidden states and in search results, to encoder_agreement.json and .png.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import transformers
from torch import Tensor

from bench.cases import book
from bench.cases.minilm import CHUNK_LEN, OVERLAP, model_folder
from bench.harness import rows
from bench.harness.check import Checked, distance
from bench.harness.comparison import OWN, Subject, chosen_backend, make_rows
from bench.harness.rows import dtype_name
from bench.harness.timing import Timing
from lckernels.long.text_encoder import TextEncoder, Tokens
from lckernels.passages import passage_vectors, split_passages
from lckernels.text_files import read_text

WAYS = {
    "torch_attention": {"merge": "final", "attention": "model"},
    "final": {"merge": "final", "attention": "lckernels"},
    "layer": {"merge": "layer", "attention": "lckernels"},
}
QUESTIONS = (
    "Which computer bug was a real moth?",
    "Who is a wizard?",
    "What does foo mean?",
    "Why do hackers like Chinese food?",
    "The story of a programmer who refused to use an assembler",
    "How to pronounce the names of ASCII characters",
    "A worm that spread through the Internet in 1988",
    "jokes about managers and marketing",
    "What is the difference between a hacker and a cracker?",
    "a switch that crashed the machine although it was connected to nothing",
)
TOP, PASSAGE_TOKENS, BINS = 5, 128, 48
TOLERANCE = 1e-4  # of states of size 1, over the whole book in fp32
CHECK_CHUNKS = 6


def first_tokens(tokens: Tokens, count: int) -> Tokens:
    """The first `count` tokens of a text, with its special tokens."""
    ids, trailing = tokens.input_ids, tokens.input_ids.shape[1] - len(tokens.offsets) - tokens.leading
    count = min(count, len(tokens.offsets))
    ids = torch.cat([ids[:, : tokens.leading + count], ids[:, ids.shape[1] - trailing :]], dim=1)
    return Tokens(ids, tokens.offsets[:count], tokens.leading)


def check_layer(folder: str, tokens: Tokens) -> Checked:
    """merge="layer" without overlap, where no token is in two chunks, is merge="final"."""
    content = CHUNK_LEN - 2
    part = first_tokens(tokens, content * min(CHECK_CHUNKS, len(tokens.offsets) // content))
    states = []
    for way in ("torch_attention", "layer"):
        encoder = TextEncoder(folder, chunk_len=CHUNK_LEN, overlap=0, **WAYS[way])
        states.append(encoder.encode(part, "", "en", lambda _: None).states)
    return Checked(distance(*states), TOLERANCE)


def agreement(final: Tensor, layer: Tensor) -> dict[str, object]:
    """Cosines of each token's two states: over all tokens, by position in the chunk, along the text."""
    cosine = torch.cosine_similarity(layer.float(), final.float(), dim=-1)
    step = CHUNK_LEN - 2 - OVERLAP
    between = (torch.arange(len(cosine)) % step) * BINS // step
    along = torch.arange(len(cosine)) * BINS // len(cosine)
    spread = torch.tensor([0.01, 0.05, 0.5])
    # quantile() takes up to 16 million values.
    low = torch.quantile(cosine, spread).tolist()
    return {
        "tokens": len(cosine),
        "mean": cosine.mean().item(),
        "quantiles": dict(zip(("1 %", "5 %", "50 %"), low, strict=True)),
        "between_seams": [cosine[between == i].mean().item() for i in range(BINS)],
        "between_seams_5_percent": [cosine[between == i].quantile(0.05).item() for i in range(BINS)],
        "along_text": [cosine[along == i].mean().item() for i in range(BINS)],
    }


def search_agreement(encoder: TextEncoder, text: str, offsets: Tensor, states: dict[str, Tensor]) -> dict:
    """The best passages that both merges share per question, and how often the first is the same."""
    passages = split_passages(text, offsets, "en", PASSAGE_TOKENS)
    vectors = {way: passage_vectors(found, passages) for way, found in states.items()}
    shared, first = [], []
    for question in QUESTIONS:
        asked = encoder.embed(question)
        best = {way: (rows @ asked).topk(TOP).indices.tolist() for way, rows in vectors.items()}
        shared.append(len({*best["final"]} & {*best["layer"]}))
        first.append(best["final"][0] == best["layer"][0])
    return {"passages": len(passages), "top": TOP, "shared": shared, "same_first": sum(first)}


def draw(found: dict, path: Path) -> None:
    """Plots the cosines by position in the chunk and along the text."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    step = CHUNK_LEN - 2 - OVERLAP
    places = [step * (i + 0.5) / BINS for i in range(BINS)]
    left.axvspan(0, OVERLAP, color="#eeeeee", label="two chunks overlap")
    left.plot(places, found["between_seams"], label="mean", color="#1f4e79")
    left.plot(
        places, found["between_seams_5_percent"], label="5 % are below", color="#b0413e", linestyle="--"
    )
    left.set_xlabel("tokens behind the beginning of a chunk")
    left.set_ylabel("cosine, merge='layer' to merge='final'")
    left.legend(fontsize=8)
    right.plot([100 * (i + 0.5) / BINS for i in range(BINS)], found["along_text"], color="#1f4e79")
    right.set_xlabel("position in the text (%)")
    for axes in (left, right):
        axes.grid(color="#e6e6e6")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure(folder: str, tokens: Tokens, rounds: int) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Seconds of each variant, in turns, and its states."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    states: dict[str, Tensor] = {}
    encoders = {
        way: TextEncoder(folder, chunk_len=CHUNK_LEN, overlap=OVERLAP, **options)
        for way, options in WAYS.items()
    }
    for _ in range(rounds):
        for way, encoder in encoders.items():
            found = encoder.encode(tokens, "", "en", lambda _: None)
            seconds[way].append(found.seconds)
            states[way] = found.states
            print(
                f"{way:16}{found.seconds:8.1f} s {len(found.states) / found.seconds:10,.0f} tokens/s",
                flush=True,
            )
    return seconds, states


def make_encoder_rows(
    folder: str, tokens: Tokens, seconds: dict[str, list[float]], states: dict[str, Tensor], checked: Checked
) -> list[rows.Row]:
    timings = {way: Timing.of(samples) for way, samples in seconds.items()}
    shape = {"tokens": len(tokens.offsets), "chunk_len": CHUNK_LEN, "overlap": OVERLAP}
    same = Checked(distance(states["final"], states["torch_attention"]), TOLERANCE)
    none = Checked(0.0, TOLERANCE)
    made = []
    for own, peers in (("final", ("torch_attention",)), ("layer", ("final", "torch_attention"))):
        encoder = TextEncoder(folder, chunk_len=CHUNK_LEN, overlap=OVERLAP, **WAYS[own])
        work = encoder.encoder.explain(tokens.input_ids.shape[1]).flops
        op = {"final": "windowed_attention", "layer": "chunked_attention"}[own]
        subject = Subject(
            suite="encoder",
            op=f"LongEncoder_{own}",
            direction="forward",
            shape=shape,
            dtype=dtype_name(states[own].dtype),
            work=work,
            unit="GFLOP/s",
            backend=chosen_backend(op, states[own]),
        )
        checks = {OWN: checked if own == "layer" else same}
        checks |= {peer: same if peer == "final" else none for peer in peers}
        taken = {OWN: timings[own]} | {peer: timings[peer] for peer in peers}
        notes = {"final": "does more arithmetic than is counted", "torch_attention": "is merge='final'"}
        made += make_rows(subject, taken, checks, {}, (), notes=notes if own == "layer" else None)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=10**9, help="read only so many tokens of the book")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="output folder")
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    folder, text = model_folder(), read_text(book.PATH)
    encoder = TextEncoder(folder, chunk_len=CHUNK_LEN, overlap=OVERLAP)
    tokens = first_tokens(encoder.tokenize(text.content), options.tokens)
    checked = check_layer(folder, tokens)
    seconds, states = measure(folder, tokens, options.rounds)
    rows.append(make_encoder_rows(folder, tokens, seconds, states, checked), options.rows)
    content = text.content[: int(tokens.offsets[-1, 1])]
    found = agreement(states["final"], states["layer"])
    found["search"] = search_agreement(encoder, content, tokens.offsets, states)
    found["machine"], found["commit"] = rows.machine(), rows.commit()
    found["seconds"] = {way: asdict(Timing.of(samples)) for way, samples in seconds.items()}
    (options.rows / "encoder_agreement.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, options.rows / "encoder_agreement.png")
    print(f"cosine: mean {found['mean']:.4f}, {found['quantiles']}")
    print(f"search: {found['search']}")


if __name__ == "__main__":
    main()
