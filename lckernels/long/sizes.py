"""The sizes of a chunk: their defaults, and whether they fit the model."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lckernels.checks import bad, integer
from lckernels.long.positions import usable_positions


@dataclass(frozen=True)
class Chunking:
    """The sizes of a chunk, and the rule that plans the chunks.

    Attributes:
        chunk_len: tokens of a chunk, special tokens and prefix included.
        overlap: tokens that neighbouring chunks share.
        rule: as in `plan_chunks`.
        num_leading: special tokens at the beginning of a document, which every chunk gets.
        num_trailing: special tokens at its end, which every chunk gets.
        num_prefix: tokens of the prefix, between the leading special tokens and the content.
        overlap_given: whether the overlap was given; else it is a quarter of a chunk's content.
    """

    chunk_len: int
    overlap: int
    rule: str
    num_leading: int
    num_trailing: int
    num_prefix: int
    overlap_given: bool = True

    @property
    def num_special(self) -> int:
        return self.num_leading + self.num_trailing

    def overlap_of(self, room: Any) -> Any:
        """The overlap of chunks with so many tokens of content each, an int or a tensor of them."""
        return self.overlap if self.overlap_given else room // 4

    @property
    def min_room(self) -> int:
        """The least content of a chunk: more than its overlap."""
        return self.overlap + 1 if self.overlap_given else 1


def resolve_chunking(
    model: nn.Module,
    chunk_len: int | None,
    overlap: int | None,
    rule: str,
    special_tokens: tuple[int, int],
    num_prefix: int,
) -> Chunking:
    """The sizes of a chunk, with their defaults.

    Raises:
        TypeError: a size that is no integer.
        ValueError: sizes that do not fit the model.
    """
    limit = usable_positions(model)
    name = type(model).__name__
    if chunk_len is None:
        if limit is None:
            raise bad("chunk_len", "None", f"{name} has no limit of positions, so it is required")
        chunk_len = limit[0]
    chunk_len = integer("chunk_len", chunk_len)
    if limit is not None and chunk_len > limit[0]:
        raise bad(
            "chunk_len",
            chunk_len,
            f"{name} has {limit[0]} usable positions ({limit[1]}), the most that is allowed",
        )
    if not isinstance(special_tokens, tuple | list) or len(special_tokens) != 2:
        raise bad("special_tokens", repr(special_tokens), "expected (leading, trailing), both >= 0")
    leading, trailing = (integer(f"special_tokens[{i}]", special_tokens[i], 0) for i in (0, 1))
    content = chunk_len - leading - trailing - num_prefix
    sizes = f"{leading} + {trailing} special tokens"
    if num_prefix:
        sizes += f" and a prefix of {num_prefix}"
    if content < 1:
        raise bad("chunk_len", chunk_len, f"expected room for content beside {sizes}")
    given = overlap is not None
    overlap = content // 4 if overlap is None else overlap
    overlap = integer("overlap", overlap)
    if not 0 <= overlap < content:
        allowed = f"expected 0 <= overlap < {content}, the content of a chunk of {chunk_len} with {sizes}"
        raise bad("overlap", overlap, allowed)
    return Chunking(chunk_len, overlap, rule, leading, trailing, num_prefix, given)
