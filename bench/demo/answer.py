"""A part of `make demo`: a tiny reader, trained here, answers a question about notes of several chunks."""

import argparse
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from lckernels.tasks import answer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "demo"
# What the notes mention, by kind; the reader finds the thing of the kind that a question names.
KINDS = {
    "bird": ("heron", "kingfisher", "stork", "swan", "owl", "falcon", "crane", "wren"),
    "tree": ("willow", "birch", "oak", "alder", "chestnut", "larch", "maple", "elm"),
    "town": ("passau", "linz", "melk", "krems", "komarno", "mohacs", "vidin", "braila"),
    "boat": ("barge", "ferry", "canoe", "tug", "schooner", "raft", "punt", "steamer"),
}
QUALITIES = ("grey", "old", "white", "small", "quiet", "tall", "green", "first")
FACTS = ("we saw the {} from the bank", "in the evening there was the {}", "the {} is worth a second visit")
FILLERS = (
    "the rain came early and stayed until noon",
    "nobody was on the path but us",
    "we had bread and cheese by the water",
    "the map was wrong about the bridge",
    "it was cold at night and the fire was small",
    "a man at the lock had a story about the flood",
    "the river was wide here and very slow",
    "we mended the tent and slept late",
)
POSITIONS, STEPS, ROWS = 128, 220, 32
QUESTION = "Which {} did we see?"


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """BERT's, whose vocabulary has every word of the notes and the questions."""
    things = (thing for kind in KINDS.values() for thing in kind)
    parts = (QUESTION, *FACTS, *FILLERS, *QUALITIES, *KINDS, *things)
    words = " ".join(parts).lower().replace("{}", "").replace("?", " ?").split()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *dict.fromkeys(words)]
    return transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)})


def notes(draw: random.Random, count: int, kinds: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Notes of so many sentences, and the thing of each kind that one of them mentions."""
    lines = [draw.choice(FILLERS) for _ in range(count)]
    things = {kind: draw.choice(KINDS[kind]) for kind in kinds}
    for place, thing in zip(draw.sample(range(count), len(kinds)), things.values(), strict=True):
        lines[place] = draw.choice(FACTS).format(f"{draw.choice(QUALITIES)} {thing}")
    sentences = [f"{line.capitalize()}." for line in lines]
    paragraphs = (" ".join(sentences[i : i + 5]) for i in range(0, len(sentences), 5))
    return "\n\n".join(paragraphs), things


def batches(read: transformers.PreTrainedTokenizerFast, draw: random.Random) -> Iterator[dict[str, Tensor]]:
    """Rows of a question and notes of one chunk; a fifth of the questions has no answer."""
    while True:
        questions, texts, spans = [], [], []
        for _ in range(ROWS):
            asked, *others = draw.sample(list(KINDS), 3)
            has_answer = draw.random() < 0.8
            text, things = notes(draw, draw.randrange(3, 8), [asked, *others] if has_answer else others)
            start = text.lower().index(things[asked]) if has_answer else None
            questions.append(QUESTION.format(asked))
            texts.append(text)
            spans.append(None if start is None else (start, start + len(things[asked])))
        rows = read(
            questions, texts, truncation="only_second", max_length=POSITIONS, padding=True,
            return_offsets_mapping=True, return_tensors="pt",
        )  # fmt: skip
        offsets = rows.pop("offset_mapping")
        positions = torch.zeros(2, ROWS, dtype=torch.long)
        for row, span in enumerate(spans):
            if span is not None:
                inside = torch.tensor([one == 1 for one in rows.sequence_ids(row)])
                for side in (0, 1):
                    found = (inside & (offsets[row, :, side] == span[side])).nonzero()
                    positions[side, row] = found[0, 0] if len(found) else 0
        yield {**rows, "start_positions": positions[0], "end_positions": positions[1]}


def config(read: transformers.PreTrainedTokenizerFast, **options) -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=len(read), hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.1, **options,
    )  # fmt: skip


def train(model: nn.Module, rows: Iterator[dict[str, Tensor]], steps: int) -> nn.Module:
    """The model in eval mode, after so many steps of Adam."""
    rate = 5e-3
    optimizer = torch.optim.Adam(model.train().parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _, batch in zip(range(steps), rows, strict=False):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def reader(read: transformers.PreTrainedTokenizerFast, steps: int = STEPS) -> nn.Module:
    """A BERT of one layer that answers QUESTION."""
    torch.manual_seed(0)
    model = transformers.BertForQuestionAnswering(config(read))
    return train(model, batches(read, random.Random(0)), steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sentences", type=int, default=400, help="of the notes (default: 400)")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    transformers.logging.disable_progress_bar()
    begin = time.perf_counter()
    read = tokenizer()
    model = reader(read)
    seconds = time.perf_counter() - begin
    print(f"\nA BERT of {POSITIONS} positions, trained in {seconds:.0f} s, answers a question about notes.")
    text, things = notes(random.Random(1), options.sentences, list(KINDS))
    path, folder, page = (FOLDER / name for name in ("notes.txt", "reader", "notes.html"))
    path.write_text(text + "\n", encoding="utf-8")
    model.save_pretrained(folder)
    read.save_pretrained(folder)
    question = QUESTION.format("bird")
    found = answer(model, read, question, text)
    if found.best is None or found.best.text.lower() != things["bird"]:
        raise SystemExit(f"the answer is {found.best}; expected {things['bird']}")
    cut = read(question, text, truncation="only_second", max_length=POSITIONS)
    share = cut.sequence_ids().count(1) / found.num_tokens
    print(f"{path.relative_to(ROOT)} has {found.num_tokens:,} tokens; truncation would leave {share:.0%}.")
    arguments = ["answer", str(path), question, "--model", str(folder), "--html", str(page)]
    print(f"$ lckernels {shlex.join(arguments)}\n", flush=True)
    subprocess.run([sys.executable, "-m", "lckernels.cli", *arguments], check=True)


if __name__ == "__main__":
    main()
