"""Sentence boundaries: in characters, from the library sentencex (Wikimedia), and in a tokenizer's tokens."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lckernels.checks import bad
from lckernels.extras import import_extra

_ISO_639 = re.compile("[a-z]{2,3}")


def sentence_boundaries(text: str, language: str = "en") -> list[int]:
    """Character offsets at which a new sentence begins, rising.

    Args:
        text: of any length. Blank lines separate paragraphs; a line break within one does not end a sentence.
        language: ISO 639 code of two or three lower-case letters, such as "en" or "zh". sentencex supports
            about 300 languages and falls back to related ones; a code that it lacks is read as English.

    Returns:
        The offsets without the first sentence's; white space between two sentences belongs to the first.

    Raises:
        ImportError: sentencex is missing.
        ValueError: `language` has not the form of such a code; sentencex would read the text as English.
    """
    check_language(language)
    sentencex = import_extra("sentencex", "hf")
    # sentencex reads UTF-8, which has no lone surrogates; each becomes one other character.
    encodable = text.encode("utf-8", "replace").decode("utf-8")
    spans = sentencex.get_sentence_boundaries(language, encodable)
    return [span["start_index"] for span in spans if not span["text"].isspace()][1:]


def check_language(language: str) -> None:
    """Raises ValueError for a language that has not the form of an ISO 639 code."""
    if not isinstance(language, str) or not _ISO_639.fullmatch(language):
        raise bad("language", repr(language), "expected an ISO 639 code of two or three lower-case letters")


def token_boundaries(
    offset_mapping: Tensor | Sequence[tuple[int, int]], char_boundaries: Tensor | Sequence[int]
) -> list[int]:
    """The tokens at character offsets: for each offset the first token that ends after it.

    Args:
        offset_mapping: (num_tokens, 2) integers, (start, end) in characters, of one text, from a fast
            tokenizer (`return_offsets_mapping=True`). Rows (0, 0) of special tokens and padding count: the
            result indexes the columns of input_ids.
        char_boundaries: character offsets, as `sentence_boundaries` returns them.

    Returns:
        Rising token offsets without duplicates, without the first token and without the end.
    """
    mapping = torch.as_tensor(offset_mapping, device="cpu")
    if mapping.numel() == 0:
        return []
    if mapping.dim() != 2 or mapping.shape[1] != 2:
        got = f"shape {tuple(mapping.shape)}"
        raise ValueError(f"offset_mapping: got {got}; expected (num_tokens, 2), one text")
    ends = mapping[:, 1].cummax(0).values
    cuts = torch.as_tensor(char_boundaries, dtype=ends.dtype, device="cpu")
    tokens = torch.searchsorted(ends, cuts, right=True)
    first = torch.searchsorted(ends, ends.new_zeros(()), right=True)
    return tokens[(tokens > first) & (tokens < len(ends))].unique().tolist()
