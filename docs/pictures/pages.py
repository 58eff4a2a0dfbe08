"""Takes the pictures of two pages of the command line in chromium, from models that are trained here.

`python docs/pictures/pages.py` writes answer_page.png and tag_page.png in docs/pictures; an argument is
another folder. The second page is in a browser's dark mode.
"""

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import chromium  # noqa: E402

from bench.demo import answer as demo  # noqa: E402

LABELS = ("O", *(f"B-{kind}" for kind in demo.KINDS))
DARK = "--blink-settings=preferredColorScheme=0"


def tagged(read: transformers.PreTrainedTokenizerFast, draw: random.Random) -> Iterator[dict[str, Tensor]]:
    """Rows of notes with a label for each token."""
    of_word = {word: f"B-{kind}" for kind, words in demo.KINDS.items() for word in words}
    while True:
        texts = [demo.notes(draw, 6, list(demo.KINDS))[0] for _ in range(demo.ROWS)]
        rows = read(texts, padding=True, return_tensors="pt")
        words = [read.convert_ids_to_tokens(row) for row in rows.input_ids.tolist()]
        labels = [[LABELS.index(of_word.get(word, "O")) for word in row] for row in words]
        yield {**rows, "labels": torch.tensor(labels)}


def save_pages(folder: Path) -> dict[str, Path]:
    """The pages by the names of their pictures, from notes in the folder."""
    transformers.logging.disable_progress_bar()
    read = demo.tokenizer()
    names = dict(enumerate(LABELS))
    torch.manual_seed(0)
    tagger = transformers.BertForTokenClassification(
        demo.config(read, num_labels=len(LABELS), id2label=names)
    )
    models = {"reader": demo.reader(read), "tagger": demo.train(tagger, tagged(read, random.Random(2)), 60)}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        read.save_pretrained(folder / name)
    draw = random.Random(1)
    long, _ = demo.notes(draw, 45, list(demo.KINDS))
    parts = [demo.notes(draw, 5, draw.sample(list(demo.KINDS), draw.randrange(1, 5)))[0] for _ in range(40)]
    (folder / "notes.txt").write_text(long + "\n")
    (folder / "journey.txt").write_text("\n\n".join(parts) + "\n")
    commands = {
        "answer_page": (
            "answer",
            "notes.txt",
            demo.QUESTION.format("bird"),
            "--model",
            "reader",
            "--top",
            "3",
        ),
        "tag_page": ("tag", "journey.txt", "--model", "tagger"),
    }
    for name, command in commands.items():
        arguments = [sys.executable, "-m", "lckernels.cli", *command, "--html", f"{name}.html", "--json"]
        subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return {name: folder / f"{name}.html" for name in commands}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, page in save_pages(folder).items():
            dark = (DARK,) if name == "tag_page" else ()
            size = "--window-size=1000,1100"
            chromium.screenshot(page, target.resolve() / f"{name}.png", folder, size, *dark)


if __name__ == "__main__":
    main()
