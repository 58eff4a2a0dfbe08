"""The attention shapes that are timed, and what each costs: FLOPs of visible pairs, bytes of visible keys."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from bench.cases.overlap import MIB
from bench.harness.rows import dtype_name
from lckernels import Plan, plan_chunks
from lckernels.segments import Column
from lckernels.visible import visible_pairs

BACKWARD_FLOPS = 2.5  # of the forward: five matrix products against two
DIRECTIONS = ("forward", "backward", "decode")
UNBOUNDED = -1


@dataclass(frozen=True)
class AttentionCase:
    """Attention with `window_size = (left, right)` in keys, -1 unbounded; the last query is at the last key.

    `num_queries` is None for self-attention and 1 for decoding against a cache of `seqlen` keys.
    """

    seqlen: int
    window_size: tuple[int, int]
    dtype: torch.dtype
    batch: int = 1
    num_heads: int = 8
    num_kv_heads: int = 8
    head_dim: int = 64
    num_queries: int | None = None

    @property
    def seqlen_q(self) -> int:
        return self.seqlen if self.num_queries is None else self.num_queries

    @property
    def offset(self) -> int:
        """Key position of the first query."""
        return self.seqlen - self.seqlen_q

    @property
    def label(self) -> str:
        heads = f"h{self.num_heads}" + (
            f"of{self.num_kv_heads}" if self.num_kv_heads != self.num_heads else ""
        )
        batch = f"b{self.batch}-" if self.batch > 1 else ""
        window = "full" if self.window_size[0] < 0 else f"w{self.window_size[0] + 1}"
        return f"{batch}n{self.seqlen}-{window}-{heads}-d{self.head_dim}-{dtype_name(self.dtype)}"

    def shape(self) -> dict[str, int | str]:
        return {
            "batch": self.batch,
            "seqlen": self.seqlen,
            "heads": f"{self.num_heads}:{self.num_kv_heads}",
            "head_dim": self.head_dim,
            "window": "{},{}".format(*self.window_size),
        }

    @property
    def score_bytes(self) -> int:
        """Bytes of all scores in fp32, if they were materialized."""
        return 4 * self.batch * self.num_heads * self.seqlen_q * self.seqlen

    @property
    def score_products(self) -> int:
        """Multiplications for the scores of all pairs, visible or not."""
        return self.score_bytes // 4 * self.head_dim

    def no_larger_than(self, other: "AttentionCase") -> bool:
        """Whether the other case has the same dtype and no fewer pairs, visible ones and all."""
        seen = self.flops("forward") <= other.flops("forward")
        return self.dtype == other.dtype and self.score_products <= other.score_products and seen

    @cached_property
    def pairs(self) -> int:
        """(query, key) pairs inside the window, for one head of one sequence."""
        return visible_pairs(self.seqlen_q, self.seqlen, self.window_size)

    def flops(self, direction: str) -> float:
        forward = 4 * self.batch * self.num_heads * self.head_dim * self.pairs
        return (BACKWARD_FLOPS if direction == "backward" else 1) * forward

    @property
    def key_bytes(self) -> int:
        """Bytes of k and v."""
        return 2 * self.batch * self.seqlen * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def visible_bytes(self) -> int:
        """Bytes of the keys and values that at least one query sees."""
        first = max(0, self.offset - self.window_size[0]) if self.window_size[0] >= 0 else 0
        return self.key_bytes // self.seqlen * (self.seqlen - first)


@dataclass(frozen=True)
class ChunkedCase:
    """One document cut into full chunks that attend within themselves and are merged."""

    total_len: int
    dtype: torch.dtype
    chunk_len: int = 512
    overlap: int = 256
    num_heads: int = 8
    num_kv_heads: int = 8
    head_dim: int = 64
    weights: str = "triangular"

    @cached_property
    def plan(self) -> Plan:
        return plan_chunks(self.total_len, self.chunk_len, self.overlap)

    @property
    def label(self) -> str:
        heads = f"h{self.num_heads}-d{self.head_dim}"
        return (
            f"n{self.total_len}-chunk{self.chunk_len}-overlap{self.overlap}-{heads}-{dtype_name(self.dtype)}"
        )

    def shape(self) -> dict[str, int | str]:
        sizes = {name: getattr(self, name) for name in ("total_len", "chunk_len", "overlap")}
        return sizes | {"heads": f"{self.num_heads}:{self.num_kv_heads}", "head_dim": self.head_dim}

    def flops(self, direction: str) -> float:
        """Over the pairs of all chunks; the merge is not counted."""
        keys = torch.zeros(self.plan.num_chunks, dtype=torch.int64)
        rows, lengths = (self.plan.segments[:, column].long() for column in (Column.ROW, Column.LENGTH))
        pairs = int((keys.index_add_(0, rows, lengths) ** 2).sum())
        return (BACKWARD_FLOPS if direction == "backward" else 1) * 4 * self.num_heads * self.head_dim * pairs


def last_level_cache_bytes() -> int:
    """The largest cache of the first core; 32 MiB if it is unknown."""
    sizes = [path.read_text() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.strip().removesuffix("K")) * 1024 for size in sizes), default=32 * MIB)


def causal(seqlen: int, window: int, dtype: torch.dtype, **sizes: int) -> AttentionCase:
    """Causal attention over the last `window` keys, a query's own included; over all keys if UNBOUNDED."""
    return AttentionCase(seqlen, (window if window == UNBOUNDED else window - 1, 0), dtype, **sizes)


def decode(seqlen: int, window: int, dtype: torch.dtype, **sizes: int) -> AttentionCase:
    """One query per sequence; the batch makes the visible keys and values 4.1 times the last-level cache."""
    one = causal(seqlen, window, dtype, num_queries=1, **sizes)
    batch = -int(-4.1 * last_level_cache_bytes() // one.visible_bytes)
    return causal(seqlen, window, dtype, num_queries=1, batch=batch, **sizes)


DirectedCase = tuple[str, AttentionCase]  # direction and shape

K = 1024
_DTYPES = (torch.float32, torch.bfloat16)
_WINDOWS = (64, 256, 512, 1024, 4096, UNBOUNDED)
_FLOPS = 0.3e12  # of a forward in the whole table; larger cases get fewer heads, at least one


def _affordable(seqlen: int, window: int, dtype: torch.dtype, head_dim: int) -> AttentionCase:
    for heads in (8, 4, 2, 1):
        case = causal(seqlen, window, dtype, head_dim=head_dim, num_heads=heads, num_kv_heads=heads)
        if case.flops("forward") <= _FLOPS:
            break
    return case


def _decode_full(window: int, dtype: torch.dtype, head_dim: int) -> list[AttentionCase]:
    """A window's time does not depend on the cache; its cache has eight windows, to fit in memory."""
    sizes = (K, 4 * K, 16 * K, 64 * K) if window == UNBOUNDED else (max(K, 8 * window),)
    return [decode(n, window, dtype, head_dim=head_dim) for n in sizes]


def _quick(dtype: torch.dtype) -> list[DirectedCase]:
    line = [causal(n * K, 512, dtype) for n in (1, 2, 4, 8, 16, 64)]
    wide = [causal(n * K, 512, dtype, head_dim=128) for n in (4, 16)]
    grouped = causal(4 * K, 512, dtype, num_heads=16, num_kv_heads=4, head_dim=128)
    decoding = [decode(64 * K, UNBOUNDED, dtype), decode(4 * K, 512, dtype)]
    decoding.append(decode(16 * K, UNBOUNDED, dtype, num_heads=32, num_kv_heads=8, head_dim=128))
    return [
        *(("forward", case) for case in [*line, *wide, grouped, causal(8 * K, UNBOUNDED, dtype)]),
        *(("backward", case) for case in [line[2], line[4], wide[0]]),
        *(("decode", case) for case in decoding),
    ]


def _whole_table(dtype: torch.dtype) -> list[DirectedCase]:
    lengths = {64: (1, 2, 4, 8, 16, 32, 64), 128: (1, 4, 16, 64), 256: (1, 4, 16, 64)}
    cases = [
        _affordable(n * K, window, dtype, head_dim)
        for head_dim, sizes in lengths.items()
        for n in sizes
        for window in _WINDOWS
        if window < n * K and (head_dim == 64 or n in (4, 16) or window == 512)
    ]
    cached = [case for d in lengths for window in _WINDOWS for case in _decode_full(window, dtype, d)]
    both = [(direction, case) for case in cases for direction in ("forward", "backward")]
    return list(dict.fromkeys([*_quick(dtype), *both, *(("decode", case) for case in cached)]))


ATTENTION_QUICK = [case for dtype in _DTYPES for case in _quick(dtype)]
ATTENTION_FULL = [case for dtype in _DTYPES for case in _whole_table(dtype)]

# A decoder's cross attention over the states of an encoder; one query sees them all.
CROSS = [
    AttentionCase(64 * K, (UNBOUNDED, UNBOUNDED), dtype, num_heads=12, num_kv_heads=12, num_queries=1)
    for dtype in _DTYPES
]

CHUNKED_QUICK = [ChunkedCase(33 * 256, dtype) for dtype in _DTYPES]
CHUNKED_FULL = [
    *CHUNKED_QUICK,
    *(ChunkedCase(129 * 256, dtype) for dtype in _DTYPES),
    *(
        ChunkedCase(128 + 40 * 384, dtype, overlap=128, num_heads=12, num_kv_heads=12, head_dim=32)
        for dtype in _DTYPES
    ),
]
