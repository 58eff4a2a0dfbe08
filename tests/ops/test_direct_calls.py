"""Ops called through torch.ops with tensors that do not fit: an error, no read outside the inputs."""

import pytest
import torch
from helpers.backends import compiled

from lckernels import plan_chunks
from lckernels.fields import window_options

sizes_that_do_not_fit = pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((2, 6, 4, 8), (2, 6, 2, 8), (2, 1, 2, 8)),
        ((2, 6, 4, 8), (2, 6, 2, 8), (2, 6, 1, 8)),
        ((2, 6, 4, 8), (2, 6, 2, 8), (1, 6, 2, 8)),
        ((2, 6, 4, 8), (1, 6, 2, 8), (1, 6, 2, 8)),
        ((2, 6, 4, 8), (2, 6, 2, 4), (2, 6, 2, 8)),
        ((2, 6, 4, 8), (2, 6, 3, 8), (2, 6, 3, 8)),
    ],
    ids=["keys of v", "heads of v", "batch of v", "batch of k", "head_dim of k", "multiple"],
)


@compiled
@sizes_that_do_not_fit
def test_windowed_attention(q, k, v):
    """functional.windowed_attention checks shapes before the op; the compiled op does for other callers."""
    options = window_options((-1, -1), 0.5)
    with pytest.raises(RuntimeError, match=r"lckernels: (k must have q's batch|the heads of q must)"):
        torch.ops.lckernels.windowed_attention(*map(torch.zeros, (q, k, v)), *options, "cpu")


@sizes_that_do_not_fit
def test_the_triton_kernels_of_windowed_attention(q, k, v):
    pytest.importorskip("triton")
    from lckernels.backends.triton import attention

    with pytest.raises(ValueError, match=r"^[qkv]: got"):
        attention.windowed_attention(*map(torch.zeros, (q, k, v)), window_options((-1, -1), 0.5))


@compiled
@pytest.mark.parametrize("name", ["dout", "out"])
def test_the_backward_of_windowed_attention(name):
    x = torch.zeros(2, 6, 4, 8)
    tensors = {"dout": x, "out": x, name: x[:, :1]}
    options = window_options((-1, -1), 0.5)
    with pytest.raises(RuntimeError, match=f"lckernels: {name} must be"):
        torch.ops.lckernels.windowed_attention_backward(
            tensors["dout"], None, x, x, x, tensors["out"], torch.zeros(2, 4, 6), *options, "cpu"
        )


@compiled
@pytest.mark.parametrize(
    ("k", "v", "extra_k"),
    [
        ((20, 2, 8), (3, 2, 8), (1, 2, 8)),
        ((3, 2, 8), (3, 2, 8), (1, 2, 8)),
        ((20, 2, 8), (20, 1, 8), (1, 2, 8)),
        ((20, 2, 4), (20, 2, 8), (1, 2, 4)),
        ((20, 3, 8), (20, 3, 8), (1, 3, 8)),
        ((20, 2, 8), (20, 2, 8), (2, 2, 8)),
        ((20, 2, 8), (20, 2, 8), (1, 2, 4)),
    ],
    ids=["length of v", "length of k", "heads of v", "head_dim of k", "multiple", "extra", "extra head_dim"],
)
def test_chunked_attention(k, v, extra_k):
    plan = plan_chunks([20], 8, 2)
    shapes = (20, 4, 8), k, v, *((plan.num_chunks, *x) for x in ((1, 4, 8), extra_k, (1, v[1], 8)))
    where = (plan.segments, plan.tile_segments, plan.num_chunks, plan.chunk_len)
    with pytest.raises(RuntimeError, match=r"lckernels: (k must have|the heads of q|extra tokens)"):
        torch.ops.lckernels.chunked_attention(
            *map(torch.zeros, shapes), None, *where, "triangular", 0.5, "cpu"
        )


@compiled
@pytest.mark.parametrize("name", ["dout", "dextra_out"])
def test_the_backward_of_chunked_attention(name):
    plan = plan_chunks([20], 8, 2)
    x, extra = torch.zeros(20, 2, 8), torch.zeros(plan.num_chunks, 1, 2, 8)
    grads = {"dout": x, "dextra_out": extra, name: x[:1] if name == "dout" else extra[:1]}
    where = (plan.segments, plan.tile_segments, plan.num_chunks, plan.chunk_len)
    with pytest.raises(RuntimeError, match=f"lckernels: {name} must be"):
        torch.ops.lckernels.chunked_attention_backward(
            grads["dout"],
            grads["dextra_out"],
            x,
            x,
            x,
            extra,
            extra,
            extra,
            None,
            *where,
            "triangular",
            0.5,
            x,
            "cpu",
        )
