"""Late chunking against chunk-then-embed and truncation: search in the Jargon File with MiniLM.

`python -m bench.suites.late_chunks` writes recall and mean reciprocal rank of each way to late_chunks.json.
A query is the headword of an entry, its targets are passages of that entry that do not contain it.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from bench.cases.jargon import TARGET_WORDS, Lexicon, lexicon
from bench.cases.minilm import model_folder
from bench.harness import rows
from lckernels import LongEncoder
from lckernels.tasks import late_chunks

ENTRIES = 800
CHUNK_LEN, OVERLAP = 256, 63  # MiniLM's max_seq_length, and LongEncoder's default for it
LATE_BOOK, LATE_ENTRY = "late chunking, the book as one text", "late chunking, each entry a text"
_BATCH = 256
_AT = (1, 5)


class Search:
    """The passages of a part of the book, and ways to embed them with MiniLM; vectors have length 1.

    Args:
        book: the part of the book.
    """

    def __init__(self, book: Lexicon) -> None:
        self.book = book
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder())
        self.model = transformers.AutoModel.from_pretrained(model_folder()).eval()

    def embed(self, texts: list[str]) -> Tensor:
        """(num_texts, dim): each text read alone, and the mean as sentence-transformers takes it."""
        encoder = LongEncoder(self.model, chunk_len=CHUNK_LEN)
        ids = self.tokenizer(texts, verbose=False)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        with torch.no_grad():
            parts = [
                encoder.embed([ids[i] for i in order[first : first + _BATCH]])
                for first in range(0, len(order), _BATCH)
            ]
        vectors = torch.cat(parts)
        return F.normalize(torch.empty_like(vectors).index_copy(0, torch.tensor(order), vectors), dim=-1)

    def chunk_then_embed(self, headwords: bool = False) -> Tensor:
        """(num_passages, dim): each passage read alone, with the headword of its entry before it or not."""
        return self.embed(
            [
                headwords * f"{entry.headword}: " + self.book.text[start:end]
                for entry in self.book.entries
                for start, end in entry.passages
            ]
        )

    def late(
        self, by_entry: bool, chunk_len: int = CHUNK_LEN, overlap: int = OVERLAP, first_tokens: int = 0
    ) -> Tensor:
        """(num_passages, dim): late chunking; passages that are not read have rows of zeros.

        Args:
            by_entry: whether each entry is a text; else the part of the book is one.
            chunk_len: of the encoder.
            overlap: of the encoder.
            first_tokens: each text is truncated to so many tokens; 0: none is.
        """
        groups = [entry.passages for entry in self.book.entries] if by_entry else [self.book.passages]
        texts, spans, kept = [], [], []
        for group in groups:
            origin = group[0][0]
            text = self._truncated(self.book.text[origin : group[-1][1]], first_tokens)
            within = [(start - origin, min(end - origin, len(text))) for start, end in group]
            read = [text[start:end].strip() != "" for start, end in within]
            texts.append(text)
            spans.append([span for span, is_read in zip(within, read, strict=True) if is_read])
            kept += read
        options = {"chunk_len": chunk_len, "overlap": overlap}
        found = torch.cat(
            [x.embeddings for x in late_chunks(self.model, self.tokenizer, texts, spans, **options)]
        )
        return found.new_zeros(len(kept), found.shape[1]).masked_scatter(torch.tensor(kept)[:, None], found)

    def _truncated(self, text: str, first_tokens: int) -> str:
        if not first_tokens:
            return text
        options = {"truncation": True, "max_length": first_tokens, "return_offsets_mapping": True}
        return text[: self.tokenizer(text, **options)["offset_mapping"][-2][1]]


def quality(vectors: Tensor, book: Lexicon, queries: Tensor) -> dict[str, float]:
    """Recall at 1 and 5, and the mean reciprocal rank, of the best target among the candidates.

    Args:
        vectors: (num_passages, dim); a row of zeros is a passage that is not found.
        book: the part of the book.
        queries: (num_queries, dim), in the order of `book.queries()`.
    """
    scores = (queries @ vectors.T).masked_fill(~vectors.any(1), -torch.inf)
    ranks = []
    for (_, targets, candidates), score in zip(book.queries(), scores, strict=True):
        best = score[targets].max()
        rank = 1 + int((score[candidates] > best).sum())
        ranks.append(float("inf") if best == -torch.inf else rank)
    count = len(ranks)
    found = {f"recall@{at}": sum(rank <= at for rank in ranks) / count for at in _AT}
    return {**found, "mrr": sum(1 / rank for rank in ranks) / count}


def ways(search: Search) -> dict[str, Callable[[], Tensor]]:
    """The compared ways and the variants of late chunking, by what a table calls them."""
    book, entry = partial(search.late, by_entry=False), partial(search.late, by_entry=True)
    return {
        "chunk-then-embed": search.chunk_then_embed,
        LATE_BOOK: book,
        LATE_ENTRY: entry,
        "each entry truncated to 512 tokens": partial(entry, chunk_len=512, first_tokens=512),
        "each entry truncated to 256 tokens": partial(entry, first_tokens=256),
        "the book truncated to 512 tokens": partial(book, chunk_len=512, first_tokens=512),
        "chunk-then-embed, headword before each passage": partial(search.chunk_then_embed, headwords=True),
        "book, chunks of 128": partial(book, chunk_len=128, overlap=31),
        "book, chunks of 512": partial(book, chunk_len=512, overlap=127),
        "book, overlap 0": partial(book, overlap=0),
        "book, overlap 127": partial(book, overlap=127),
        "entry, chunks of 512": partial(entry, chunk_len=512, overlap=127),
    }


def measure(book: Lexicon, only: str = "") -> dict[str, object]:
    """The sizes of the task and the quality of each way; prints it line by line.

    Args:
        book: the part of the book.
        only: ways without it in their name are left out.
    """
    search = Search(book)
    queries = search.embed([headword for headword, *_ in book.queries()])
    tokens = search.tokenizer(book.text, add_special_tokens=False, verbose=False)["input_ids"]
    shape = {
        "entries": len(book.entries),
        "passages": len(book.passages),
        "queries": len(queries),
        "tokens": len(tokens),
        "target_words": TARGET_WORDS,
    }
    print(", ".join(f"{number:,} {name}" for name, number in shape.items()), flush=True)
    vectors: dict[str, Tensor] = {}
    results: dict[str, dict[str, float]] = {}

    def add(name: str, of_way: Tensor, seconds: float = 0.0) -> None:
        vectors[name], results[name] = of_way, quality(of_way, book, queries)
        figures = "".join(f"{key:>11} {value:5.3f}" for key, value in results[name].items())
        print(f"{name:50}{figures}{seconds:8.0f} s", flush=True)

    for name, way in ways(search).items():
        if only in name:
            begin = time.perf_counter()
            add(name, way(), time.perf_counter() - begin)
    for late in (LATE_BOOK, LATE_ENTRY):
        if {late, "chunk-then-embed"} <= vectors.keys():
            mean = vectors[late] + vectors["chunk-then-embed"]
            add(f"{late.partition(', ')[2]}, mean of late and alone", F.normalize(mean, dim=-1))
    return {"shape": shape, "model": "all-MiniLM-L6-v2", "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=ENTRIES, help="first entries of the book; 0: all")
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="output folder")
    parser.add_argument("--only", default="", help="only ways whose name has this in it")
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    found = measure(lexicon(options.entries or None), options.only)
    found |= {"machine": rows.machine(), "versions": rows.versions(), **rows.commit()}
    options.rows.mkdir(parents=True, exist_ok=True)
    (options.rows / "late_chunks.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
