"""Rows of two segments, such as a question and its context: where the first one ends."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad


@dataclass(frozen=True)
class PairRule:
    """How the first segment of a row is found.

    Attributes:
        by_types: whether the model reads token types; those that are given are then used.
        separator: the id of the separator; None if it is not known.
        run: separators between the segments; None if it is not known.
        padding: the id of padding, which is no segment; None if it is not known, or that of the separator.
    """

    by_types: bool
    separator: int | None
    run: int | None = None
    padding: int | None = None

    def __str__(self) -> str:
        how = ["token types"] if self.by_types else []
        if self.separator is not None:
            how.append(f"separators (id {self.separator})")
        return "the first of two segments, found by " + " or ".join(how)


def pair_rule(model: nn.Module, tokenizer: Any) -> PairRule:
    """The rule for a model, from its tokenizer, or from its config without one.

    Raises:
        ValueError: the model has no token types, and the id of its separator is not known.
    """
    config = model.config
    by_types = (getattr(config, "type_vocab_size", 0) or 0) > 1
    names = ("sep_token_id", "eos_token_id")
    known = (getattr(source, name, None) for name in names for source in (tokenizer, config))
    ids = (x[0] if isinstance(x, list) and x else x for x in known)
    separator = next((x for x in ids if isinstance(x, int) and not isinstance(x, bool)), None)
    if not by_types and separator is None:
        got = f"'pair' for {type(model).__name__}, which has no token types and no id of a separator"
        raise bad("prefix", got, "pass a tokenizer that has one, or prefix=None for rows of one segment")
    sources = (getattr(source, "pad_token_id", None) for source in (tokenizer, config))
    padding = next((x for x in sources if isinstance(x, int) and x != separator), None)
    return PairRule(by_types, separator, _separators_between(tokenizer, separator), padding)


def _separators_between(tokenizer: Any, separator: int | None) -> int | None:
    """How many separators a tokenizer puts between two texts; None without a tokenizer, or if it has none."""
    if tokenizer is None or separator is None:
        return None
    ids = tokenizer("a", "a", add_special_tokens=True)["input_ids"]
    content = tokenizer("a", add_special_tokens=False)["input_ids"]
    if not content or content[-1] not in ids:
        return None
    end = len(ids) - ids[::-1].index(content[-1])  # XLNet has another special token behind the last separator
    return ids[:end].count(separator) or None


def first_segments(
    rule: PairRule,
    input_ids: Tensor | None,
    token_type_ids: Tensor | None,
    lengths: Tensor,
    special_tokens: tuple[int, int],
) -> Tensor:
    """Tokens of each row up to the end of its first segment, its separators included.

    Args:
        rule: of the model.
        input_ids: (batch, seqlen), padded on the right.
        token_type_ids: (batch, seqlen).
        lengths: (batch,) int64 on the CPU, tokens of each row.
        special_tokens: special tokens that begin and end a row.

    Returns:
        (batch,) int64 on the CPU; the leading special tokens alone for a row of one segment.

    Raises:
        ValueError: neither ids nor types are given.
    """
    leading, trailing = special_tokens
    typed = torch.zeros(len(lengths), dtype=torch.bool, device="cpu")
    result = torch.full_like(lengths, leading)
    if token_type_ids is not None and token_type_ids.dim() == 2:  # more are an error of LongEncoder
        types = token_type_ids.detach().cpu()
        # XLNet's special tokens at the end of a row have a type of their own.
        content = torch.arange(types.shape[1], device="cpu") < (lengths - trailing)[:, None]
        second = (types > 0) & content
        typed = second.any(1)
        result = torch.where(typed, second.long().argmax(1).clamp(min=leading), result)
    if typed.all() or (token_type_ids is not None and rule.by_types):
        return result
    if input_ids is None:
        raise bad(
            "inputs_embeds", "no input_ids", "prefix='pair' requires ids or token types; use prefix=None"
        )
    if rule.separator is None:
        return result
    ids = input_ids.detach().cpu()
    for row in (~typed).nonzero().flatten().tolist():
        found = _end_of_first(ids[row, : int(lengths[row])], rule, leading, trailing)
        if found is not None:
            result[row] = found
    return result


def second_segments(
    rule: PairRule, input_ids: Tensor | None, ends: Tensor, lengths: Tensor, trailing: int
) -> Tensor:
    """Tokens of each row from the end of its first segment on, the separators before the second included.

    Args:
        rule: of the model. Where it has no separator, that is the last token of a row.
        input_ids: (batch, seqlen), padded on the right; None if they are not known.
        ends: (batch,) int64 on the CPU, as `first_segments` returns them.
        lengths: (batch,) int64 on the CPU, tokens of each row.
        trailing: special tokens that end a row.
    """
    between = torch.full_like(ends, rule.run or min(trailing, 1))
    if rule.run is None and trailing and input_ids is not None:
        ids = input_ids.detach().cpu()
        for row, end in enumerate(ends.tolist()):
            separator = ids[row, int(lengths[row]) - 1] if rule.separator is None else rule.separator
            others = (ids[row, :end] != separator).nonzero().flatten()
            between[row] = end - 1 - int(others[-1]) if len(others) else 0
    return lengths - ends + between


def _end_of_first(ids: Tensor, rule: PairRule, leading: int, trailing: int) -> int | None:
    """Where the first run of separators within a row ends; None if there is no such run."""
    if rule.padding is not None:  # of a model without a mask, such as FNet
        content = (ids != rule.padding).nonzero()
        ids = ids[: int(content[-1]) + 1 if len(content) else 0]
    inside = ids[leading : max(len(ids) - trailing, 0)] == rule.separator
    at = inside.nonzero().flatten()
    if not len(at) or int(at[0]) == 0:
        return None
    first = int(at[0])
    others = (~inside[first:]).nonzero().flatten()
    if not len(others):  # the row ends with them
        return None
    run = int(others[0])
    return leading + first + run if rule.run in (None, run) else None
