"""Arguments of LongEncoder: options, sequence lengths, leading tokens, sentence boundaries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lckernels.checks import WEIGHTS, bad, integers, linear_option
from lckernels.long.attention import check_attention
from lckernels.long.layer_support import check_layer_merge
from lckernels.long.sizes import Chunking
from lckernels.long.summary import SUMMARIES
from lckernels.plan import Plan

RULES = ("sled", "max_context", "sentence")
MERGES = ("final", "layer")
Weights = str | Tensor | Callable[[Plan], Tensor]


def defaults(
    halo: str | None, weights: Weights | None, special_tokens: tuple[int, int] | None
) -> tuple[Weights, tuple[int, int]]:
    """weights and special_tokens with their defaults for this halo."""
    exact = halo is not None
    weights = ("crop" if exact else "triangular") if weights is None else weights
    return weights, ((0, 0) if exact else (1, 1)) if special_tokens is None else special_tokens


def check_options(
    model: nn.Module,
    weights: Weights,
    boundaries: str,
    merge: str,
    attention: str,
    summary: str,
    linear: str | None,
) -> None:
    """Raises ValueError or TypeError for an option that is unknown, or that the model does not support."""
    if boundaries not in RULES:
        raise bad("boundaries", repr(boundaries), f"allowed are {', '.join(RULES)}")
    named = isinstance(weights, str) and weights in WEIGHTS
    if not (isinstance(weights, Tensor) or callable(weights) or named):
        got = repr(weights) if isinstance(weights, str) else type(weights).__name__
        allowed = f"allowed are {', '.join(WEIGHTS)}, a tensor, a function of the plan"
        raise bad("weights", got, allowed)
    if isinstance(weights, Tensor) and (weights.dim() != 2 or not weights.is_floating_point()):
        got = f"shape {tuple(weights.shape)} of {weights.dtype}"
        raise bad("weights", got, "expected (num_chunks, chunk_len) floating point")
    if summary not in SUMMARIES:
        raise bad("summary", repr(summary), f"allowed are {', '.join(SUMMARIES)}")
    check_attention(model, attention)
    linear_option(linear)
    if merge not in MERGES:
        raise bad("merge", repr(merge), f"allowed are {', '.join(MERGES)}")
    if merge == "layer":
        check_layer_merge(model)
        if attention == "model":
            raise bad("attention", repr(attention), "merge='layer' requires lckernels' attention")
        if summary != "first":
            raise bad("summary", repr(summary), "merge='layer' supports 'first'")


class FixedTokensError(ValueError):
    """A number of tokens that every chunk would read, and that a row or a chunk has no room for.

    Attributes:
        argument: that gave the number.
        got: the number, and the row.
        allowed: what is allowed, as in the message.
    """

    def __init__(self, argument: str, got: str, allowed: str) -> None:
        super().__init__(str(bad(argument, got, allowed)))
        self.argument, self.got, self.allowed = argument, got, allowed

    def __reduce__(self) -> tuple:
        return FixedTokensError, (self.argument, self.got, self.allowed)


def fixed_tokens(
    num_leading: Sequence[int] | Tensor | None,
    num_trailing: Sequence[int] | Tensor | None,
    lengths: Tensor,
    chunking: Chunking,
) -> tuple[Tensor, Tensor]:
    """(num_sequences,) int64 each: how many first and last tokens of each sequence every chunk reads.

    Raises:
        ValueError: not one number per sequence.
        FixedTokensError: a number beyond the sequence, or one that leaves a chunk of a longer sequence no
            room for content.
    """
    trails = _numbers("num_trailing", num_trailing, lengths, chunking.num_trailing)
    leads = _numbers("num_leading", num_leading, lengths, chunking.num_leading)
    if num_leading is None and num_trailing is None:
        return leads, trails
    name, numbers = "num_leading", leads
    if num_leading is None:
        name, numbers = "num_trailing", trails
    others = leads + trails - numbers
    outside = ((leads < 0) | (trails < 0) | (leads + trails > lengths)).nonzero()
    if len(outside):
        row = int(outside[0])
        got = f"{int(numbers[row])} tokens in row {row}"
        rest = int(lengths[row] - others[row])
        allowed = f"the row has {rest} tokens before its trailing special tokens"
        if num_trailing is not None:
            allowed = f"the row has {rest} tokens beside the {int(others[row])} at its other end"
        raise FixedTokensError(name, got, allowed)
    fixed = chunking.num_prefix + others
    short = (~has_room(leads + trails, lengths, chunking)).nonzero()
    if len(short):
        row = int(short[0])
        most = chunking.chunk_len - int(fixed[row]) - chunking.min_room
        got = f"{int(numbers[row])} tokens in row {row}"
        allowed = f"a chunk of {chunking.chunk_len} tokens has room for {most} beside content and overlap"
        raise FixedTokensError(name, got, allowed)
    return leads, trails


def has_room(fixed: Tensor, lengths: Tensor, chunking: Chunking) -> Tensor:
    """Whether a sequence has room in a chunk beside the tokens that every chunk reads, or is one chunk.

    Args:
        fixed: (num_sequences,) int64, these tokens, without the prefix.
        lengths: (num_sequences,) int64, tokens of each sequence.
        chunking: sizes of a chunk.
    """
    room = chunking.chunk_len - chunking.num_prefix - fixed
    return (lengths - fixed <= room) | (room > chunking.overlap_of(room))


def _numbers(name: str, given: Sequence[int] | Tensor | None, lengths: Tensor, default: int) -> Tensor:
    if given is None:
        return torch.full_like(lengths, default)
    numbers = integers(name, given)
    if len(numbers) != len(lengths):
        raise bad(name, f"{len(numbers)} numbers", f"the input has {len(lengths)} rows")
    return numbers


def sequence_lengths(name: str, lengths: int | Sequence[int] | Tensor, num_special: int) -> Tensor:
    """(num_sequences,) int64. Raises ValueError for no sequence, or one shorter than its special tokens."""
    expected = "expected an int or a sequence of integers, numbers of tokens"
    tensor = integers(name, lengths, single=True, expected=expected)
    if not len(tensor):
        raise bad(name, "no sequence", "expected the tokens of one sequence, or of each of several")
    short = (tensor < max(num_special, 1)).nonzero()
    if len(short):
        row = int(short[0])
        least = f"its {num_special} special tokens" if num_special else "one token"
        raise bad(name, f"{int(tensor[row])} tokens for sequence {row}", f"expected at least {least}")
    return tensor


def content_boundaries(
    boundaries: Sequence[Sequence[int]] | None,
    chunking: Chunking,
    first: Tensor,
    lengths: Tensor,
    leads: Tensor,
    trails: Tensor,
) -> list[list[int]] | None:
    """Columns of each row as offsets into its content; None unless the rule is "sentence".

    Columns outside the content are dropped.

    Args:
        boundaries: columns of each row, rising.
        chunking: sizes and rule.
        first: (num_rows,) int64, the column of each row's first token.
        lengths: (num_rows,) int64, its tokens.
        leads, trails: (num_rows,) int64, as `fixed_tokens` returns them.
    """
    name = "sentence_boundaries"
    if boundaries is None:
        if chunking.rule == "sentence":
            raise bad(name, "None", "expected one list per row with boundaries='sentence'")
        return None
    got = f"{len(boundaries)} lists"
    if chunking.rule != "sentence":
        raise bad(name, got, f"expected None with boundaries={chunking.rule!r}")
    if len(boundaries) != len(lengths):
        raise bad(name, got, f"input has {len(lengths)} rows")
    origins = (first + leads).tolist()
    contents = (lengths - leads - trails).tolist()
    offsets = []
    for i, (columns, origin, size) in enumerate(zip(boundaries, origins, contents, strict=True)):
        shifted = integers(f"{name}[{i}]", columns) - origin
        falls = (shifted.diff() < 0).nonzero()
        if len(falls):
            before, after = (shifted[int(falls[0]) :][:2] + origin).tolist()
            raise bad(f"{name}[{i}]", f"{after} after {before}", "expected rising columns")
        offsets.append(shifted[(shifted > 0) & (shifted < size)].tolist())
    return offsets
