"""Where sentences begin: in characters, by the library sentencex (Wikimedia), and in a tokenizer's tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lckernels.extras import import_extra


def sentence_boundaries(text: str, language: str = "en") -> list[int]:
    """Character offsets at which a new sentence begins, rising: the places where a text may be cut.

    text      any length; blank lines separate paragraphs, a line break within one does not end a sentence
    language  ISO 639 code such as "en" or "zh"; sentencex knows about 300 and falls back to related ones

    The first sentence is not listed; space between two sentences belongs to the first. Raises ImportError if
    sentencex is missing.
    """
    sentencex = import_extra("sentencex", "hf")
    # sentencex takes UTF-8, which has no lone surrogates; each becomes one other character.
    encodable = text.encode("utf-8", "replace").decode("utf-8")
    spans = sentencex.get_sentence_boundaries(language, encodable)
    return [span["start_index"] for span in spans if not span["text"].isspace()][1:]


def token_boundaries(
    offset_mapping: Tensor | Sequence[tuple[int, int]], char_boundaries: Tensor | Sequence[int]
) -> list[int]:
    """The tokens that begin at the character offsets: for each the first token that ends behind it.

    offset_mapping   (num_tokens, 2) integers, (start, end) in characters, of one text by a fast tokenizer
                     (`return_offsets_mapping=True`). Rows (0, 0) of special tokens and padding may be there
                     and are counted: the result indexes the columns of input_ids.
    char_boundaries  character offsets, as from `sentence_boundaries`

    Returns rising token offsets without duplicates, without the first token and without the end.
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
