"""Random attention problems over every feature of windowed_attention; problem i of a seed is drawn alone."""

import random
from dataclasses import replace
from itertools import pairwise

import torch
from helpers.attention_problem import Problem
from torch import Tensor

from lckernels import Layout, Score
from lckernels.options import AttentionOptions

INT32_MAX = 2**31 - 1
MAX_SCORES = 120_000  # per problem: limits the time of the reference
EDGES = (47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129, 192, 193)
HEAD_DIMS = (1, 6, 8, 10, 16, 32, 33, 64, 96, 128)
DTYPES = (torch.float32,) * 5 + (torch.bfloat16,) * 2 + (torch.float16, torch.float64)


class Draw:
    """Random choices for one problem; `has` returns whether it has a feature, and few problems have many."""

    def __init__(self, seed: int, index: int, purpose: str = "problem") -> None:
        self.rng = random.Random(f"{seed}:{index}:{purpose}")
        self.generator = torch.Generator().manual_seed(self.rng.getrandbits(63))
        self.rate = self.rng.choice((0.0, 0.12, 0.12, 0.35))

    def has(self) -> bool:
        return self.rng.random() < self.rate

    def maybe(self, probability: float) -> bool:
        return self.rng.random() < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int32 or int64 in [low, high]."""
        dtype = self.rng.choice((torch.int32, torch.int64))
        return self.strided(torch.randint(low, high + 1, shape, generator=self.generator).to(dtype))

    def strided(self, x: Tensor) -> Tensor:
        """x, or sometimes a view of every second element of a larger tensor."""
        if not x.dim() or not self.maybe(0.2):
            return x
        wide = torch.stack((x, x.new_ones(x.shape)), dim=-1).flatten(-2)
        return wide[..., ::2]


def draw_problem(seed: int, index: int) -> Problem:
    draw = Draw(seed, index)
    dtype = draw.rng.choice(DTYPES)
    batch, seqlen_q, seqlen_k, num_heads, num_kv_heads, head_dim, head_dim_v = _shape(draw)
    packed = draw.has()
    batch = 1 if packed else batch
    q, k, v = (
        draw.normal(*shape).to(dtype)
        for shape in (
            (batch, seqlen_q, num_heads, head_dim),
            (batch, seqlen_k, num_kv_heads, head_dim),
            (batch, seqlen_k, num_kv_heads, head_dim_v),
        )
    )
    q, k, v = _projected(q, k, v) if draw.has() else (placed(draw, x) for x in (q, k, v))
    dropout_p = draw.rng.choice((0.1, 0.5, 0.9)) if draw.has() else 0.0
    layout = _layout(draw, batch, seqlen_q, seqlen_k, packed)
    left = draw.rng.randint(0, 20) if layout.sink_tokens else _reach(draw, seqlen_k)
    options = AttentionOptions(
        window_size=(left, _reach(draw, seqlen_k)),
        softmax_scale=head_dim**-0.5 * (draw.rng.choice((0.0, -1.0, 3.0, 8.0)) if draw.has() else 1.0),
        layout=layout,
        score=_score(draw, num_heads, seqlen_k, dtype),
        dropout_p=dropout_p,
        seed=torch.tensor([draw.rng.getrandbits(64) - 2**63]) if dropout_p else None,
    )
    lse_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    dlse = draw.normal(batch, num_heads, seqlen_q).to(lse_dtype) if draw.has() else None
    dout = placed(draw, draw.normal(batch, seqlen_q, num_heads, head_dim_v).to(dtype))
    return Problem(q, k, v, options, None if dlse is not None and draw.maybe(0.2) else dout, dlse)


def _shape(draw: Draw) -> tuple[int, ...]:
    """batch, seqlen_q, seqlen_k, num_heads, num_kv_heads, head_dim, head_dim_v."""
    rng = draw.rng
    seqlen_q = _length(draw)
    seqlen_k = seqlen_q if draw.maybe(0.5) else _length(draw)
    batch = 0 if draw.maybe(0.01) else rng.choice((1, 1, 2, 3))
    num_kv_heads, group = rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 4))
    while (
        seqlen_q * seqlen_k * batch * num_kv_heads * group > MAX_SCORES and batch * num_kv_heads * group > 1
    ):
        batch, num_kv_heads, group = (max(x // 2, 1) for x in (batch, num_kv_heads, group))
    head_dim = rng.choice(HEAD_DIMS) if draw.maybe(0.7) else rng.randrange(8, 257, 8)
    other = rng.choice(HEAD_DIMS) if draw.maybe(0.7) else rng.randrange(8, 257, 8)
    head_dim_v = other if draw.has() else head_dim
    return batch, seqlen_q, seqlen_k, num_kv_heads * group, num_kv_heads, head_dim, head_dim_v


def _length(draw: Draw) -> int:
    kind = draw.rng.random()
    if kind < 0.02:
        return 0
    if kind < 0.45:
        return draw.rng.randint(1, 46)
    return draw.rng.choice(EDGES) if kind < 0.93 else draw.rng.randint(130, 300)


def _reach(draw: Draw, seqlen_k: int) -> int:
    """One side of the window."""
    near = draw.rng.randint(0, 9)
    far = draw.rng.randint(0, seqlen_k + 2)
    return draw.rng.choice((-1, -1, 0, near, near, far, draw.rng.choice(EDGES), INT32_MAX))


def _projected(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as slices of one projection; q is apart if the shapes differ."""
    if q.shape[1] == k.shape[1] and q.shape[3] == v.shape[3]:
        qkv = torch.cat((q, k, v), dim=2)
        return tuple(qkv.split([q.shape[2], k.shape[2], v.shape[2]], dim=2))
    kv = torch.cat((k, v), dim=3)
    return q, *kv.split([k.shape[3], v.shape[3]], dim=3)


def placed(draw: Draw, x: Tensor) -> Tensor:
    """x (B, S, H, D) with other strides, in memory that is NaN elsewhere; if expanded, with other values."""
    kind = draw.rng.choice(("heads_first", "shifted", "wide_rows", "every_second", "dim_first", "expanded"))
    if not draw.has():
        return x
    if kind == "heads_first":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "dim_first":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if kind == "expanded":
        dim = draw.rng.randrange(4)
        return x.narrow(dim, 0, 1).expand(x.shape) if x.shape[dim] else x
    if kind == "shifted":
        shift = draw.rng.randint(1, 15)
        room = x.new_full((x.numel() + shift + 64,), torch.nan)
        return room[shift : shift + x.numel()].view(x.shape).copy_(x)
    if kind == "wide_rows":
        before, after = draw.rng.randint(0, 9), draw.rng.randint(1, 9)
        wide = x.new_full((*x.shape[:3], before + x.shape[3] + after), torch.nan)
        return wide[..., before : before + x.shape[3]].copy_(x)
    return x.new_full((*x.shape[:3], 2 * x.shape[3]), torch.nan)[..., ::2].copy_(x)


def poisoned(problem: Problem, seed: int, index: int) -> Problem:
    """The problem with inf or NaN in one element or all elements of some rows of its tensors."""
    draw = Draw(seed, index, "poison")
    names = [name for name in ("q", "k", "v", "dout", "dlse") if getattr(problem, name) is not None]
    changed = {}
    for name in draw.rng.sample(names, draw.rng.choice((1, 1, 2))):
        x = getattr(problem, name).clone()
        for _ in range(draw.rng.randint(1, 3) if x.numel() else 0):
            place = [draw.rng.randrange(size) for size in x.shape]
            value = draw.rng.choice((torch.nan, torch.nan, torch.inf, -torch.inf))
            x[tuple(place if draw.maybe(0.5) or name == "dlse" else place[:3])] = value
        changed[name] = x
    bias = problem.options.score.rel_bias
    if bias is not None:  # whether a NaN of a key with bias -inf shows is not defined
        score = replace(problem.options.score, rel_bias=torch.where(bias.isinf(), 0, bias))
        changed["options"] = problem.options._replace(score=score)
    return replace(problem, **changed)


def _layout(draw: Draw, batch: int, seqlen_q: int, seqlen_k: int, packed: bool) -> Layout:
    given, rng, rows = {}, draw.rng, batch
    if packed:
        rows = rng.randint(1, 6)
        given = _bounds(draw, rows, seqlen_q, seqlen_k)
    elif draw.has():
        given["segment_ids"] = _segment_ids(draw, batch, seqlen_k)
    if draw.has():
        low, high = rng.choice(((-5, 5), (-seqlen_q - 5, seqlen_k + 5)))
        kind = rng.choice((None, (), (rows,)))
        given["offset"] = rng.randint(low, high) if kind is None else draw.integers(low, high, *kind)
    if draw.has():
        given["kv_start"] = draw.integers(-4, rng.choice((5, seqlen_k + 4)), rows)
    if draw.has():
        given["kv_end"] = draw.integers(rng.choice((-4, seqlen_k // 2)), seqlen_k + 4, rows)
    if draw.has():
        share = rng.choice((0.1, 0.7, 0.95))
        visible = torch.rand(batch, seqlen_k, generator=draw.generator) < share
        given["kv_mask"] = visible[:1].expand_as(visible) if draw.maybe(0.2) else draw.strided(visible)
    if draw.has():
        given["sink_tokens"] = rng.choice((1, 2, 4, 17, seqlen_k + 3))
    if draw.has():
        given["chunk"] = rng.choice((1, 5, rng.choice(EDGES), rng.randint(1, seqlen_k + 4), INT32_MAX))
        kind = rng.choice((None, (), (rows,)))
        given["chunk_origin"] = rng.randint(-70, 70) if kind is None else draw.integers(-70, 70, *kind)
    return Layout(**given)


def _bounds(draw: Draw, rows: int, *seqlens: int) -> dict[str, object]:
    """cu_seqlens_q and cu_seqlens_k, some segments empty, and sometimes max_seqlen_q and max_seqlen_k."""
    sides = []
    for seqlen in seqlens:
        cuts = sorted(draw.rng.randint(0, seqlen) for _ in range(rows - 1))
        sides.append([0, *cuts, seqlen])
    if seqlens[0] == seqlens[1] and draw.maybe(0.5):
        sides[1] = sides[0]
    dtype = draw.rng.choice((torch.int32, torch.int64))
    given = {}
    for name, bounds in zip("qk", sides, strict=True):
        given[f"cu_seqlens_{name}"] = draw.strided(torch.tensor(bounds, dtype=dtype))
        longest = max(end - begin for begin, end in pairwise(bounds))
        given[f"max_seqlen_{name}"] = draw.rng.choice((None, longest, longest + 3))
    return given


def _segment_ids(draw: Draw, batch: int, seqlen_k: int) -> Tensor:
    """Runs of equal ids, or ids in any order; sometimes ids that require int64."""
    ids = draw.integers(-2, 3, batch, seqlen_k)
    if draw.maybe(0.7):
        starts = torch.rand(batch, seqlen_k, generator=draw.generator) < draw.rng.choice((0.02, 0.1, 0.5))
        ids = starts.cumsum(1).to(ids.dtype) - 2
    return ids.long() * 2**32 + 1 if draw.maybe(0.1) else draw.strided(ids)


def _score(draw: Draw, num_heads: int, seqlen_k: int, dtype: torch.dtype) -> Score:
    given, rng = {}, draw.rng
    wide = torch.promote_types(dtype, torch.float32)
    if draw.has():
        given["softcap"] = rng.choice((0.5, 2.0, 30.0))
    if draw.has():
        length = rng.choice((1, 2, 9, 65, 2 * seqlen_k + 1))
        bias = draw.normal(num_heads, length)
        if draw.maybe(0.2):
            bias[torch.rand(bias.shape, generator=draw.generator) < 0.2] = -torch.inf
        bias = bias.to(rng.choice((wide, wide, dtype)))
        given["rel_bias"] = bias.t().contiguous().t() if draw.maybe(0.3) else draw.strided(bias)
        given["bias_center"] = rng.choice((0, length // 2, length - 1, -7, length + 7))
    if draw.has():
        sinks = draw.normal(num_heads) * rng.choice((1.0, 10.0))
        if draw.maybe(0.1):
            sinks[0] = -torch.inf
        given["sink_logits"] = draw.strided(sinks.to(rng.choice((wide, wide, dtype))))
    return Score(**given)
