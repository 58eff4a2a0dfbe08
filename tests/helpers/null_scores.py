"""The scores of "no answer" of a text's chunks, from runs of the model on each chunk alone."""

import torch
from helpers.merged_by_hand import chunk_starts, content_sizes
from torch import Tensor, nn


def null_scores(
    model: nn.Module,
    tokenizer,
    question: str,
    text: str,
    *,
    chunk_len: int = 32,
    overlap: int | None = None,
    typed: bool = True,
    virtual: int = 0,
) -> list[float]:
    """start + end at the first token of each chunk, a row of special tokens, the question and its content.

    Args:
        model: of transformers, perhaps in PEFT, not lengthened.
        tokenizer: of it.
        question: of the row.
        text: of it.
        chunk_len: tokens of a chunk, virtual ones included.
        overlap: as in `lengthen`.
        typed: whether the model has token types.
        virtual: virtual tokens before each row.
    """
    row = tokenizer(question, text, return_token_type_ids=typed, verbose=False)
    lead = row.sequence_ids(0).index(1)
    length = len(row["input_ids"])
    content, room, overlap = content_sizes(length, lead, 1, chunk_len - virtual, overlap)
    found = []
    for start in chunk_starts(content, room, overlap):
        end = min(start + room, content)
        columns = torch.tensor([*range(lead), *range(lead + start, lead + end), length - 1])
        with torch.no_grad():
            output = model(**{name: torch.tensor([x])[:, columns] for name, x in row.items()})
        found.append(float(first_score(output, virtual)[0]))
    return found


def first_score(output, virtual: int = 0) -> Tensor:
    """(rows,) start + end at each row's first token."""
    return output.start_logits[:, virtual].double() + output.end_logits[:, virtual].double()
