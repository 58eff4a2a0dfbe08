"""The chunk planner: documents cut into overlapping chunks. Needs the compiled extension `_host`."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lckernels.checks import bad, integer, integers
from lckernels.plan import Plan


class Segments(NamedTuple):
    """What the planner returns, not validated: the arguments of `Plan.from_segments`.

    Attributes:
        segments: (num_chunks, 8) int32 on the CPU, one segment per chunk, rows in the order of the documents;
            the first eight of `segments.Column`.
        num_chunks: rows of the chunks tensor.
        chunk_len: columns of the chunks tensor.
        total_len: positions of the output.
        cu_seqlens: num_documents + 1 offsets of the documents.
    """

    segments: Tensor
    num_chunks: int
    chunk_len: int
    total_len: int
    cu_seqlens: list[int]


def plan_chunks(
    lengths: int | Sequence[int] | Tensor,
    chunk_len: int,
    overlap: int,
    *,
    rule: str = "sled",
    boundaries: Sequence[Sequence[int] | Tensor] | None = None,
    num_leading: int = 0,
    num_trailing: int = 0,
) -> Plan:
    """Cuts documents into overlapping chunks, one per row, with the positions that each row keeps ("crop").

    Args:
        lengths: tokens of each document without special tokens; the documents are packed along the output.
        chunk_len: columns of a row: num_leading ([CLS], a prefix), content, num_trailing ([SEP]), padding. A
            document that fits into the C = chunk_len - num_leading - num_trailing content columns is one
            chunk; otherwise chunks begin every C - overlap tokens, and the last is shifted left to be full.
        overlap: tokens that neighbouring chunks share, 0 <= overlap < C.
        rule: which positions a chunk keeps.
            "sled" (default): each chunk drops overlap // 2 positions on its left, the rest on its right.
            "max_context": the chunk with the most context on the token's shorter side keeps the token, the
            earlier chunk in a tie.
            "sentence": kept cores end at the furthest of `boundaries` that leaves room for overlap // 2
            tokens of context before the core and overlap - overlap // 2 after it; a sentence longer than the
            room is cut at the end of the room.
        boundaries: for "sentence": per document the sorted token offsets at which a cut is allowed.
        num_leading: columns before the content.
        num_trailing: columns after the content.

    Returns:
        A plan with its tensors on the CPU.

    Raises:
        ValueError: bad input, naming the argument.
        RuntimeError: the compiled extension is missing.
    """
    planned = plan_segments(
        lengths,
        chunk_len,
        overlap,
        rule=rule,
        boundaries=boundaries,
        num_leading=num_leading,
        num_trailing=num_trailing,
    )
    return Plan.from_segments(**planned._asdict())


def plan_segments(
    lengths: int | Sequence[int] | Tensor,
    chunk_len: int,
    overlap: int,
    *,
    rule: str = "sled",
    boundaries: Sequence[Sequence[int] | Tensor] | None = None,
    num_leading: int = 0,
    num_trailing: int = 0,
) -> Segments:
    """The segments of `plan_chunks` without a Plan, for callers that change them and then build one.

    Arguments and errors are those of `plan_chunks`.
    """
    try:
        from lckernels import _host
    except ImportError as error:
        raise RuntimeError(
            "planning needs lckernels' compiled extension, which needs a C++ compiler at install time; "
            "Plan.from_segments works without it"
        ) from error
    chunk_len, overlap = integer("chunk_len", chunk_len, 0), integer("overlap", overlap, 0)
    num_leading = integer("num_leading", num_leading, 0)
    num_trailing = integer("num_trailing", num_trailing, 0)
    content = chunk_len - num_leading - num_trailing
    if chunk_len and content < 1:
        special = f"{num_leading} + {num_trailing} special tokens"
        raise bad("chunk_len", chunk_len, f"expected room for content beside {special}")
    if chunk_len and overlap >= content:
        allowed = f"expected 0 <= overlap < {content}, the content of a chunk of {chunk_len}"
        raise bad("overlap", overlap, allowed)
    lengths = integers("lengths", lengths, single=True).tolist()
    if boundaries is not None:
        boundaries = [integers(f"boundaries[{i}]", offsets).tolist() for i, offsets in enumerate(boundaries)]
    spans = _host.plan_chunks(lengths, chunk_len, overlap, str(rule), boundaries, num_leading, num_trailing)
    table = torch.frombuffer(spans, dtype=torch.int32) if spans else torch.empty(0, dtype=torch.int32)
    table = table.view(-1, 8)
    return Segments(table, len(table), chunk_len, sum(lengths), [0, *itertools.accumulate(lengths)])
