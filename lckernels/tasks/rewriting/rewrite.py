"""The task `rewrite`: translation by groups of sentences, summaries from the merged states of a document."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from lckernels.checks import bad, boolean, integer
from lckernels.long.parts import Parts
from lckernels.long.readers import longest_chunk
from lckernels.long.text_limits import NO_LIMIT, own_limit
from lckernels.prompts import num_prefix_keys, num_virtual_tokens
from lckernels.sentences import check_language
from lckernels.tasks.documents import given_texts
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.rewriting.generators import (
    Generator,
    ModelGenerator,
    TranslatorGenerator,
    find_encoder_decoder,
    is_translator,
)
from lckernels.tasks.rewriting.rewritten import Rewritten
from lckernels.tasks.rewriting.source_rows import SourceRows, language_id
from lckernels.tasks.rewriting.summary import summarize
from lckernels.tasks.rewriting.translation import Grouping, check_room, translate

TASKS = ("translate", "summarize")
_CHUNK = 512  # tokens, of a model without a limit of positions whose tokenizer has none


@one_at_a_time
def rewrite(
    model: nn.Module | Any,
    tokenizer: Any,
    text: str | Sequence[str],
    task: str = "translate",
    *,
    prefix: str | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    language: str = "en",
    sentences_per_group: int | None = 1,
    context_sentences: int = 0,
    wrapped: bool | None = None,
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
    **generation: Any,
) -> Rewritten | list[Rewritten]:
    """A translation, or a summary, of a text of any length.

    "translate": the text is cut into paragraphs and list items, these into groups of whole sentences, and
    `generate` runs on batches of groups. Blank lines, indentation, list markers and lines without a letter
    are copied. A sentence longer than the limit is cut between clauses, else between words
    (`Rewritten.cut`). Outputs that may be incomplete are in `Rewritten.missing`.

    "summarize": the encoder reads the whole text in overlapping chunks, as after `lckernels.lengthen`; the
    decoder reads the merged states and writes once.

    Args:
        model: an encoder-decoder of transformers in eval mode, lengthened or not; for "translate" also a
            ctranslate2.Translator.
        tokenizer: of the model; for "summarize" a fast one.
        text: one text, or several.
        task: "translate" (default) or "summarize".
        prefix: what the model reads before each group, or before each chunk of a document, such as
            "translate English to German: ", ">>fra<< " or "summarize: ". Default: nothing.
        src_lang: the text's language, for tokenizers that have languages (NLLB, mBART, M2M100), by their
            codes. Default: that which the tokenizer has.
        tgt_lang: the language to write, for the same tokenizers: the first token of each output.
        language: ISO 639 code for finding sentences. Default: "en", which also finds Chinese ones.
        sentences_per_group: the most sentences that are translated at once. Default: 1, since translation
            models often stop after the first sentences of a longer row. None: as many as fit.
        context_sentences: how many sentences before a group the encoder reads too. The decoder reads the
            states of the group alone, so they are not translated again. Default: 0.
        wrapped: whether a line continues the paragraph of the line before it, which then becomes one line.
            None (default): where that line is full and ends no sentence.
        chunk_len: tokens of a row of the encoder, special tokens and prefix included. Default: all positions
            of the encoder, at most the tokenizer's limit; 512 without either.
        overlap: for "summarize", tokens that neighbouring chunks share. Default: a quarter of a chunk.
        batch: the most groups, or documents, of a call. Default: 8.
        progress: show a progress bar (tqdm) over the tokens.
        limit: the most tokens of a text that are read. Default: all.
        generation: arguments of `generate`, such as num_beams, max_new_tokens, forced_bos_token_id; of
            CTranslate2 those of `translate_batch`. max_new_tokens is by default twice the longest group's
            tokens and 32, at most the decoder's positions; for "summarize" that of the model's
            generation_config, else 256.

    Returns:
        A Rewritten; for several texts a list of them.

    Raises:
        TypeError: a model without an encoder and a decoder that generates; a text that is no str.
        ValueError: an unknown task, a text of white space alone, an option that is out of range or of the
            other task, a language that the tokenizer lacks.
    """
    if task not in TASKS:
        raise bad("task", repr(task), f"allowed are {' and '.join(map(repr, TASKS))}")
    texts, single = given_texts("text", text)
    for name, value in (("batch", batch), ("chunk_len", chunk_len), ("limit", limit)):
        if value is not None:
            integer(name, value, 1)
    boolean("progress", progress)
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix: got {type(prefix).__name__}; expected a str or None")
    grouping = {
        "language": language,
        "sentences_per_group": sentences_per_group,
        "context_sentences": context_sentences,
        "wrapped": wrapped,
    }
    _check_options(task, grouping, overlap)
    parts = _parts(model, task, context_sentences)
    name = type(model).__name__
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_tokens_to_ids"):
        got = type(tokenizer).__name__
        raise TypeError(f"tokenizer: got {got}; expected the model's, as AutoTokenizer loads it")
    if tgt_lang is not None:
        generation = {"forced_bos_token_id": language_id(tokenizer, "tgt_lang", tgt_lang), **generation}
    with _source_language(tokenizer, src_lang):
        generator: Generator = (
            TranslatorGenerator(model, tokenizer, generation)
            if parts is None
            else ModelGenerator(model, parts, tokenizer, generation)
        )
        rows = SourceRows(tokenizer, name, prefix)
        options = {"batch": batch, "progress": progress}
        if task == "summarize":
            options |= {"chunk_len": chunk_len, "overlap": overlap, "limit": limit, "single": single}
            results = summarize(model, parts, generator, rows, texts, **options)
        else:
            virtual = 0 if parts is None else num_virtual_tokens(model) - num_prefix_keys(model)
            room = check_room("chunk_len", _row_length(parts, tokenizer, chunk_len), rows.num_fixed + virtual)
            results = translate(generator, rows, texts, Grouping(room, **grouping, limit=limit), **options)
    return results[0] if single else results


def _check_options(task: str, grouping: dict[str, Any], overlap: int | None) -> None:
    """Raises for values that are out of range, and for options of the other task."""
    check_language(grouping["language"])
    if grouping["sentences_per_group"] is not None:
        integer("sentences_per_group", grouping["sentences_per_group"], 1, alternative=" or None")
    integer("context_sentences", grouping["context_sentences"], 0)
    if grouping["wrapped"] is not None:
        boolean("wrapped", grouping["wrapped"])
    if task == "translate":
        if overlap is not None:
            raise bad(
                "overlap", f"{overlap} for 'translate'", "expected None; context_sentences is its overlap"
            )
        return
    defaults = {"sentences_per_group": 1, "context_sentences": 0, "wrapped": None}
    for name, value in defaults.items():
        if grouping[name] != value:
            raise bad(name, f"{grouping[name]} for 'summarize'", "expected it for task='translate' alone")


def _parts(model: Any, task: str, context_sentences: int) -> Parts | None:
    """The parts of a model; None of a Translator of CTranslate2."""
    if not is_translator(model):
        parts = find_encoder_decoder(model)
        if context_sentences and num_virtual_tokens(model):
            got = f"{context_sentences} for {type(model).__name__} with virtual tokens"
            raise bad("context_sentences", got, "expected 0, or a model without them")
        return parts
    expected = "expected an encoder-decoder of transformers, whose states can be merged"
    if task == "summarize":
        raise TypeError(f"model: got a Translator of CTranslate2 for 'summarize'; {expected}")
    if context_sentences:
        got = f"{context_sentences} for a Translator of CTranslate2, which returns no states"
        raise bad("context_sentences", got, "expected 0, or a model of transformers")
    return None


def _row_length(parts: Parts | None, tokenizer: Any, given: int | None) -> int:
    """The tokens of a row of the encoder."""
    found = None if parts is None else longest_chunk(parts.encoder, parts.readers)
    if given is not None:
        if found is not None and given > found[0]:
            raise bad("chunk_len", given, f"expected at most {found[0]}, {found[1]}")
        return given
    limits = [own_limit(tokenizer), NO_LIMIT if found is None else found[0]]
    return min(limits) if min(limits) < NO_LIMIT else _CHUNK


@contextmanager
def _source_language(tokenizer: Any, code: str | None) -> Iterator[None]:
    """Until the end the tokenizer makes rows of a language; None changes nothing."""
    if code is None:
        yield
        return
    language_id(tokenizer, "src_lang", code)
    before = tokenizer.src_lang
    tokenizer.src_lang = code
    try:
        yield
    finally:
        tokenizer.src_lang = before
