"""Which keys a query sees and which queries see a key, in Triton: the counterpart of csrc/window.h.

Positions are int64 and local to a sequence (a row of the batch, or a segment of packed input); spans are
half-open, clamped to the sequence and int32.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Tables(NamedTuple):
    """Contiguous tensors of a layout, or None; `Layout` defines them."""

    offset: Tensor | None  # (num_seqs,)
    kv_start: Tensor | None  # (num_seqs,)
    kv_end: Tensor | None  # (num_seqs,)
    kv_mask: Tensor | None  # (batch, seqlen_k)
    cu_seqlens_q: Tensor | None  # (num_seqs + 1,)
    cu_seqlens_k: Tensor | None  # (num_seqs + 1,)
    segment_ids: Tensor | None  # (batch, seqlen_k)
    segment_start: Tensor | None  # (batch, seqlen_k): first key with the same id; with sink tokens only
    chunk_origin: Tensor | None  # (num_seqs,)


class Rule(NamedTuple):
    """The part of the rule that is the same for every sequence: None removes a bound."""

    left: Any
    right: Any
    sink_tokens: Any
    chunk: Any


class SequenceKeys(NamedTuple):
    """The keys of one sequence, int64: [kv_start, kv_end) are valid; query i has key position i + shift."""

    shift: Any
    kv_start: Any
    kv_end: Any
    chunk_origin: Any


class Spans(NamedTuple):
    """Keys that each query sees: [lo, hi) by its window and [floor, sinks) as sink tokens; int32."""

    floor: Any
    lo: Any
    hi: Any
    sinks: Any


@triton.jit
def sequence_keys(tables, seq, offset, chunk_origin, num_q, num_k):
    """The `SequenceKeys` of a sequence."""
    if tables.offset is not None:
        shift = tl.load(tables.offset + seq).to(tl.int64)
    elif offset is not None:
        shift = tl.full([], 0, tl.int64) + offset
    else:
        shift = tl.full([], 0, tl.int64) + num_k - num_q
    kv_start = tl.full([], 0, tl.int64)
    if tables.kv_start is not None:
        kv_start += tl.load(tables.kv_start + seq)
    kv_end = tl.full([], 0, tl.int64) + num_k
    if tables.kv_end is not None:
        kv_end = tl.minimum(kv_end, tl.load(tables.kv_end + seq))
    if tables.chunk_origin is not None:
        origin = tl.load(tables.chunk_origin + seq).to(tl.int64)
    else:
        origin = tl.full([], 0, tl.int64) + chunk_origin
    return SequenceKeys(shift, kv_start, kv_end, origin)


@triton.jit
def chunk_begin(x, origin, chunk):
    """First position of the chunk that contains position x."""
    past = (x - origin) % chunk
    return x - tl.where(past < 0, past + chunk, past)


@triton.jit
def inside(x, num_keys):
    """A bound clamped to [0, num_keys], in int32."""
    return tl.minimum(tl.maximum(x, 0), num_keys).to(tl.int32)


@triton.jit
def in_span(x, begin, end):
    """Whether x is in [begin, end), which may be empty: one unsigned comparison."""
    return (x - begin).to(tl.uint32) < tl.maximum(end - begin, 0).to(tl.uint32)


@triton.jit
def visible_keys(p, rule, keys, tables, key_row, num_k):
    """The `Spans` of the queries at p; without sink tokens `sinks` is floor."""
    floor = keys.kv_start + p * 0
    hi = keys.kv_end + p * 0
    if rule.chunk is not None:
        begin = chunk_begin(p, keys.chunk_origin, rule.chunk)
        floor = tl.maximum(floor, begin)
        hi = tl.minimum(hi, begin + rule.chunk)
    if rule.right is not None:
        hi = tl.minimum(hi, p + rule.right + 1)
    lo = floor
    if rule.left is not None:
        lo = tl.maximum(lo, p - rule.left)
    sinks = floor
    if rule.sink_tokens is not None:
        own = (p >= 0) & (p < num_k)
        start = sequence_start(tl.where(own, p, 0), own, keys, tables, key_row)
        sinks = tl.minimum(start + rule.sink_tokens, hi)
    return Spans(inside(floor, num_k), inside(lo, num_k), inside(hi, num_k), inside(sinks, num_k))


@triton.jit
def sequence_start(key, exists, keys, tables, key_row):
    """First sink token for a key: kv_start, or the start of the key's segment if that is later."""
    start = keys.kv_start + key * 0
    if tables.segment_start is not None:
        first = tl.load(tables.segment_start + key_row + key, mask=exists, other=0)
        start = tl.maximum(start, first)
    return start


@triton.jit
def own_segment(tables, key_row, p, num_k):
    """The segment id of each query, and whether it has one: its position must be that of a key."""
    own = (p >= 0) & (p < num_k)
    own_id = p
    if tables.segment_ids is not None:
        own_id = tl.load(tables.segment_ids + key_row + tl.where(own, p, 0), mask=own, other=0)
    return own_id, own


@triton.jit
def visible_queries(j, rule, keys, tables, key_row, num_q, num_k):
    """(begin, end): the queries that see key j, by their index; empty for an invalid key."""
    begin = keys.shift + j * 0
    end = keys.shift + num_q + j * 0
    exists = (j >= 0) & (j < num_k)
    if rule.right is not None:
        begin = tl.maximum(begin, j - rule.right)
    if rule.left is not None:
        until = j + rule.left + 1
        if rule.sink_tokens is not None:
            start = sequence_start(j, exists, keys, tables, key_row)
            until = tl.where(j - start < rule.sink_tokens, end, until)
        end = tl.minimum(end, until)
    if rule.chunk is not None:
        first = chunk_begin(j, keys.chunk_origin, rule.chunk)
        begin = tl.maximum(begin, first)
        end = tl.minimum(end, first + rule.chunk)
    valid = exists & (j >= keys.kv_start) & (j < keys.kv_end)
    if tables.kv_mask is not None:
        valid = tl.load(tables.kv_mask + key_row + j, mask=valid, other=0) != 0
    end = tl.where(valid, end, begin)
    return inside(begin - keys.shift, num_q), inside(end - keys.shift, num_q)
