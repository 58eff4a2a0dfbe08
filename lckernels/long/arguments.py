"""Integer arguments: sequence lengths, a prefix, sentence boundaries; validated and copied to the CPU."""

from collections.abc import Sequence

from torch import Tensor

from lckernels.checks import bad, integers
from lckernels.long.sizes import Chunking


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
    boundaries: Sequence[Sequence[int]] | None, chunking: Chunking, first: Tensor, lengths: Tensor
) -> list[list[int]] | None:
    """Columns of each row as offsets into its content; None unless the rule is "sentence".

    Columns outside the content are dropped.

    Args:
        boundaries: columns of each row, rising.
        chunking: sizes and rule.
        first: (num_rows,) int64, the column of each row's first token.
        lengths: (num_rows,) int64, its tokens.
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
    origins = (first + chunking.num_leading).tolist()
    contents = (lengths - chunking.num_special).tolist()
    offsets = []
    for i, (columns, origin, size) in enumerate(zip(boundaries, origins, contents, strict=True)):
        shifted = integers(f"{name}[{i}]", columns) - origin
        falls = (shifted.diff() < 0).nonzero()
        if len(falls):
            before, after = (shifted[int(falls[0]) :][:2] + origin).tolist()
            raise bad(f"{name}[{i}]", f"{after} after {before}", "expected rising columns")
        offsets.append(shifted[(shifted > 0) & (shifted < size)].tolist())
    return offsets
