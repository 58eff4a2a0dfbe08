"""Calls of the Triton backend, one for each shape that tiles are chosen by; triton_compile compiles them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lckernels import Layout, Score, plan_chunks
from lckernels.fields import flat_options
from lckernels.options import AttentionOptions, ExtraTokens
from lckernels.plan import PlanArgs

FEATURES = ("", "score", "dropout", "layout", "packed", "segments", "extra")  # the last of chunked_attention
_SEQLEN, _CHUNK_LEN, _OVERLAP = 8192, 512, 256


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Variant:
    """A call of windowed_attention."""

    direction: str  # forward, backward
    head_dim: int
    dtype: torch.dtype
    window_size: tuple[int, int] = (1023, 0)
    seqlen_q: int = _SEQLEN
    num_heads: int = 8
    num_kv_heads: int = 8
    features: str = ""  # of FEATURES
    descriptors: bool = False  # whole tiles are read through tensor descriptors

    @property
    def name(self) -> str:
        heads = f"h{self.num_heads}:{self.num_kv_heads}"
        window = "{}:{}".format(*self.window_size)
        parts = (self.direction, f"d{self.head_dim}", _short(self.dtype), f"w{window}", f"q{self.seqlen_q}")
        return "-".join([*parts, heads, *filter(None, [self.features, "tma" if self.descriptors else ""])])

    def call(self, device: str) -> Callable[[], Any]:
        from lckernels.backends.triton import BACKEND

        shapes = (
            (1, self.seqlen_q, self.num_heads, self.head_dim),
            (1, _SEQLEN, self.num_kv_heads, self.head_dim),
        )
        q, k = (torch.zeros(shape, dtype=self.dtype, device=device) for shape in shapes)
        options = flat_options(_options(self, device))
        if self.direction == "forward":
            return partial(BACKEND.ops["windowed_attention"], q, k, k, options)
        lse = q.new_zeros(1, self.num_heads, self.seqlen_q, dtype=torch.float32)
        return partial(BACKEND.ops["windowed_attention_backward"], q, None, q, k, k, q, lse, options)


@dataclass(frozen=True)
class ChunkedVariant:
    """A call of chunked_attention."""

    direction: str
    head_dim: int
    dtype: torch.dtype
    features: str = ""  # extra: with extra tokens
    descriptors: ClassVar[bool] = False

    @property
    def name(self) -> str:
        parts = ("chunked", self.direction, f"d{self.head_dim}", _short(self.dtype))
        return "-".join([*parts, *filter(None, [self.features])])

    def call(self, device: str) -> Callable[[], Any]:
        from lckernels.backends.triton import BACKEND

        plan = _plan(device)
        q = torch.zeros(_SEQLEN, 8, self.head_dim, dtype=self.dtype, device=device)
        extra = None
        if self.features == "extra":
            extra = ExtraTokens(*(q.new_zeros(plan.num_chunks, 4, 8, self.head_dim) for _ in range(3)))
        if self.direction == "forward":
            return partial(BACKEND.ops["chunked_attention"], q, q, q, extra, "hann", plan, 1.0)
        dextra = None if extra is None else extra.q
        return partial(
            BACKEND.ops["chunked_attention_backward"], q, dextra, q, q, q, extra, "hann", plan, 1.0, q
        )


@dataclass(frozen=True)
class MemoryVariant:
    """A call of an op without products of matrices."""

    op: str  # overlap_merge, overlap_split, merge_attention_states
    direction: str
    dtype: torch.dtype
    weights: str = ""  # of overlap_merge; "explicit": a tensor
    descriptors: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "-".join(filter(None, [self.op, self.direction, _short(self.dtype), self.weights]))

    def call(self, device: str) -> Callable[[], Any]:
        from lckernels.backends.triton import BACKEND

        function = BACKEND.ops[self.op + ("_backward" if self.direction == "backward" else "")]
        if self.op == "merge_attention_states":
            outs = [torch.zeros(2, 128, 8, 64, dtype=self.dtype, device=device) for _ in range(2)]
            lses = [torch.zeros(2, 8, 128, device=device) for _ in range(2)]
            if self.direction == "forward":
                return partial(function, outs, lses)
            return partial(function, outs[0], lses[0], outs, lses, outs[0], lses[0])
        plan = _plan(device)
        chunks = torch.zeros(plan.num_chunks, _CHUNK_LEN, 768, dtype=self.dtype, device=device)
        sequence = chunks.new_zeros(_SEQLEN, 768)
        if self.op == "overlap_split":
            return partial(function, sequence if self.direction == "forward" else chunks, plan)
        weights = self.weights
        if weights == "explicit":
            weights = torch.zeros(plan.num_chunks, _CHUNK_LEN, device=device)
        if self.direction == "forward":
            return partial(function, chunks, weights, plan)
        return partial(function, sequence, chunks if self.weights == "explicit" else None, weights, plan)


AnyVariant = Variant | ChunkedVariant | MemoryVariant


def variants(everything: bool) -> Iterator[AnyVariant]:
    """The variants of every commit; with `everything` all with different tiles, and every feature."""
    yield from _windowed(everything)
    for dtype in (torch.bfloat16, torch.float32):
        small = (64, 128) if dtype == torch.bfloat16 else (64,)
        for head_dim in (64, 128, 192, 256) if everything else small:
            for direction in ("forward", "backward"):
                yield ChunkedVariant(direction, head_dim, dtype)
                if everything and head_dim <= 128:
                    yield ChunkedVariant(direction, head_dim, dtype, "extra")
    for dtype in (torch.bfloat16, *((torch.float32, torch.float64) if everything else ())):
        for direction in ("forward", "backward"):
            for weights in ("uniform", "triangular", "hann", "crop", "explicit"):
                if everything or weights in ("hann", "explicit"):
                    yield MemoryVariant("overlap_merge", direction, dtype, weights)
            yield MemoryVariant("overlap_split", direction, dtype)
            yield MemoryVariant("merge_attention_states", direction, dtype)


def _windowed(everything: bool) -> Iterator[Variant]:
    """Variants of windowed_attention; bf16 without features also with tensor descriptors."""
    dtypes = (torch.bfloat16, torch.float32, *((torch.float16,) if everything else ()))
    head_dims = (16, 32, 64, 96, 128, 192, 256) if everything else (64, 128)
    for dtype in dtypes:
        for head_dim in head_dims if dtype != torch.float32 or everything else (64,):
            for window_size in ((1023, 0), (63, 63)) if dtype != torch.float32 else ((1023, 0),):
                for direction in ("forward", "backward"):
                    yield Variant(direction, head_dim, dtype, window_size)
                    if window_size == (1023, 0):
                        yield Variant(direction, head_dim, dtype, window_size, num_kv_heads=2)
                    if dtype == torch.bfloat16 and window_size == (1023, 0):
                        yield Variant(direction, head_dim, dtype, window_size, descriptors=True)
            yield Variant("forward", head_dim, dtype, (-1, 0), 1, 32, 8)
            yield Variant("forward", head_dim, dtype, (-1, 0), 48, 8, 8)
    for features in FEATURES[1:-1]:
        for direction in ("forward", "backward") if everything else ("forward",):
            for head_dim in (64, 128) if everything else (128,):
                yield Variant(direction, head_dim, torch.bfloat16, num_kv_heads=2, features=features)


def _plan(device: str) -> PlanArgs:
    plan = plan_chunks(_SEQLEN, _CHUNK_LEN, _OVERLAP).to(device)
    return plan.args


def _options(variant: Variant, device: str) -> AttentionOptions:
    """The variant's options; zeros on the meta device have no memory."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    layout, score, dropout_p = Layout(), Score(), 0.0
    num_heads, features = variant.num_heads, variant.features
    if features == "score":
        score = Score(30.0, zeros(num_heads, 2000), 1000, zeros(num_heads))
    elif features == "dropout":
        dropout_p = 0.1
    elif features == "layout":
        ints = zeros(1, dtype=torch.int32)
        mask = zeros(1, _SEQLEN, dtype=torch.bool)
        layout = Layout(ints, ints, ints, mask, sink_tokens=4, chunk=4096, chunk_origin=ints)
    elif features == "packed":
        bounds = zeros(9, dtype=torch.int32)
        layout = Layout(cu_seqlens_q=bounds, cu_seqlens_k=bounds, sink_tokens=4)
    elif features == "segments":
        layout = Layout(segment_ids=zeros(1, _SEQLEN, dtype=torch.int64), sink_tokens=4)
    seed = zeros(1, dtype=torch.int64) if dropout_p else None
    scale = variant.head_dim**-0.5
    return AttentionOptions(variant.window_size, scale, layout, score, dropout_p, seed)
