"""Summaries: the encoder reads a document in chunks whose states are merged, the decoder writes once."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from lckernels.long.lengthen import lengthened
from lckernels.long.parts import Parts
from lckernels.progress import token_bar
from lckernels.tasks.documents import check_tokenizer, place_of, read_document
from lckernels.tasks.reading_options import chunk_options
from lckernels.tasks.rewriting.generators import ModelGenerator
from lckernels.tasks.rewriting.rewritten import Part, Rewritten, problem
from lckernels.tasks.rewriting.source_rows import SourceRows

_NEW_TOKENS = 256  # of a model whose generation_config has no limit


def summarize(
    model: nn.Module,
    parts: Parts,
    generator: ModelGenerator,
    rows: SourceRows,
    texts: Sequence[str],
    *,
    single: bool = False,
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
) -> list[Rewritten]:
    """The summaries of texts.

    Args:
        model: an encoder-decoder, lengthened or not.
        parts: of the model.
        generator: of the model.
        rows: makes rows of texts, with the prefix that every chunk reads.
        texts: any texts.
        single: whether they are one text that was given alone, for messages.
        chunk_len: as in `lengthen`; None for a model that is lengthened.
        overlap: as in `lengthen`; None for a model that is lengthened.
        batch: the most documents of a call.
        progress: show a progress bar over the tokens of the documents.
        limit: the most tokens of a text that are read; None: all.
    """
    tokenizer, name = rows.tokenizer, rows.name
    check_tokenizer(tokenizer)
    sizes = chunk_options(name, parts.is_lengthened, chunk_len, overlap)
    documents = [
        read_document(tokenizer, text, name, index=i, place=place_of("text", i, single), limit=limit)
        for i, text in enumerate(texts)
    ]
    results: dict[int, Rewritten] = {}
    order = sorted(documents, key=len, reverse=True)
    new_tokens = generator.own_new_tokens or _NEW_TOKENS
    options = {**sizes, "progress": progress and len(order) == 1}
    shown = progress and len(order) > 1
    with (
        _lengthened(model, parts, rows, options),
        token_bar(sum(len(document.offsets) for document in order), "summaries", shown) as bar,
    ):
        for begin in range(0, len(order), batch):
            some = order[begin : begin + batch]
            given = [rows.row(document.input_ids[document.columns].tolist()) for document in some]
            for document, output in zip(some, generator(given, new_tokens), strict=True):
                num_tokens = len(document.offsets)
                part = Part(0, len(document.text), document.text, output.text, problem(output))
                results[document.index] = Rewritten(output.text, [part], document.coverage, num_tokens)
            bar(sum(len(document.offsets) for document in some))
    return [results[i] for i in range(len(texts))]


def _lengthened(
    model: nn.Module, parts: Parts, rows: SourceRows, options: dict[str, Any]
) -> AbstractContextManager[Any]:
    """The model with an encoder that reads rows of any length; every chunk reads the prefix."""
    if parts.is_lengthened:
        return nullcontext()
    return lengthened(model, rows.tokenizer, prefix=rows.prefix or None, **options)
