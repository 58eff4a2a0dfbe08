"""A lengthened token classifier over pages of the book, against the pipeline of transformers with a stride.

Both are the same pipeline and read the same chunks but the last. One runs its model on a chunk at a time,
finds entities in each and removes those that overlap; the other has a lengthened model, and one row.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import book
from bench.cases.minilm import model_folder
from bench.harness.check import check
from bench.harness.comparison import OWN, Subject, make_rows
from bench.harness.report.lengthen_goals import PIPELINE, SUITE
from bench.harness.rows import Row
from bench.harness.timing import measure
from lckernels.flops import encoder_flops
from lckernels.long.lengthen import lengthen

NUM_LABELS = 5
SPECIAL = 2
_SECONDS = 60.0


@dataclass(frozen=True)
class TokenCase:
    """Pages of the book through MiniLM with a random classifier.

    Attributes:
        tokens: of the text, without special tokens.
        chunk_len: of a chunk, special tokens included.
        overlap: tokens that neighbouring chunks share; the pipeline calls it its stride.
    """

    tokens: int
    chunk_len: int
    overlap: int

    @property
    def label(self) -> str:
        return f"n{self.tokens}-chunk{self.chunk_len}-overlap{self.overlap}"

    @property
    def step(self) -> int:
        """Tokens from the beginning of a chunk to that of the next."""
        return self.chunk_len - SPECIAL - self.overlap

    @property
    def num_chunks(self) -> int:
        return 1 + -(-(self.tokens - self.chunk_len + SPECIAL) // self.step)

    def away_from_seams(self) -> list[tuple[int, int]]:
        """Chunk and token of the tokens that one chunk alone contains, the last two chunks left out."""
        ranges = [(i, self.step * i + (self.overlap if i else 0)) for i in range(self.num_chunks - 2)]
        return [(i, token) for i, first in ranges for token in range(first, self.step * (i + 1))]


CASES = (TokenCase(12_000, 512, 128), TokenCase(12_000, 128, 32))


def token_classification_rows(case: TokenCase, rounds: int = 5) -> list[Row]:
    """Our row and that of the pipeline.

    Raises:
        AssertionError: a result is wrong, or labels away from seams differ.
    """
    stock, ours, double = _pipeline(case), _pipeline(case), _pipeline(case)
    double.model.double()
    text = book.PATH.read_text(encoding="utf-8")[book.FIRST_CHARACTER :][: 8 * case.tokens]
    offsets = stock.tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"][1:-1]
    text, offsets = text[: offsets[case.tokens - 1][1]], offsets[: case.tokens]
    places = case.away_from_seams()
    truth, plain = (_of_chunks(pipe, text, case, places) for pipe in (double, stock))
    lengthen(ours.model, ours.tokenizer, chunk_len=case.chunk_len, overlap=case.overlap)
    own = _of_whole(ours, text, places)
    checks = {name: check(name, (x,), (truth,), (plain,)) for name, x in ((OWN, own), (PIPELINE, plain))}
    starts = [offsets[token][0] for _, token in places]
    with_stride = partial(stock, text, stride=case.overlap)
    labels = [
        _labels(found, starts) for found in (ours(text, ignore_labels=[]), with_stride(ignore_labels=[]))
    ]
    missing = sum(label is None for label in labels[1])
    assert all(a == b for a, b in zip(*labels, strict=True) if b is not None), "labels differ"
    widths = [case.chunk_len] * case.num_chunks
    config = ours.model.config
    sizes = (config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    subject = Subject(
        suite=SUITE,
        op="token-classification",
        direction="forward",
        shape={"tokens": case.tokens, "chunk_len": case.chunk_len, "overlap": case.overlap},
        dtype="float32",
        work=encoder_flops(sum(widths), widths, *sizes),
        unit="GFLOP/s",
        backend="cpu",
    )
    timings = measure({OWN: partial(ours, text), PIPELINE: with_stride}, rounds=rounds, budget=_SECONDS)
    note = f"removes {missing} of {len(places)} tokens away from seams with the entities that overlap"
    return make_rows(subject, timings, checks, {}, (), notes={PIPELINE: note})


def _pipeline(case: TokenCase) -> Any:
    """A pipeline with a model of its own; the classifier is wide enough that labels vary."""
    import transformers

    folder = model_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=case.chunk_len)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, num_labels=NUM_LABELS)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.classifier.weight, generator=generator)
    return transformers.pipeline(
        "token-classification", model=model.eval(), tokenizer=tokenizer, aggregation_strategy="simple"
    )


@torch.no_grad()
def _of_chunks(pipe: Any, text: str, case: TokenCase, places: list[tuple[int, int]]) -> Tensor:
    """(num_places, num_labels): logits in the pipeline's chunks."""
    parameters = {"return_overflowing_tokens": True, "stride": case.overlap, "padding": True}
    chunks = pipe.preprocess(text, tokenizer_params=parameters, is_split_into_words=False)
    names = ("input_ids", "attention_mask", "token_type_ids")
    logits = [pipe.model(**{name: chunk[name] for name in names}).logits[0] for chunk in chunks]
    assert len(logits) == case.num_chunks
    return torch.stack([logits[i][1 + token - case.step * i] for i, token in places])


@torch.no_grad()
def _of_whole(pipe: Any, text: str, places: list[tuple[int, int]]) -> Tensor:
    """(num_places, num_labels): logits of the lengthened model."""
    logits = pipe.model(**pipe.tokenizer(text, return_tensors="pt")).logits[0]
    return logits[torch.tensor([1 + token for _, token in places])]


def _labels(entities: list[dict[str, Any]], starts: list[int]) -> list[str | None]:
    """The label at each character; None where no entity is."""
    at = {i: entity["entity_group"] for entity in entities for i in range(entity["start"], entity["end"])}
    return [at.get(start) for start in starts]
