"""Which problems the CUDA backend supports; no GPU is required."""

import pytest
import torch

from lckernels.backends import cuda, registry
from lckernels.backends.cuda.library import aligned_rows
from lckernels.backends.registry import Problem

HEADS = (1, 100, 4, 64)


@pytest.fixture
def with_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "unavailable", lambda: "")
    monkeypatch.setattr(cuda, "large_blocks", lambda: True)


def attention(dtype=torch.bfloat16, head_dim=64, head_dim_v=64, seqlen=100, **fields) -> Problem:
    shapes = tuple((1, seqlen, 4, dim) for dim in (head_dim, head_dim, head_dim_v))
    return Problem("windowed_attention", "cuda", dtype, shapes, **fields)


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (attention(dtype=torch.float32), "no kernel for torch.float32"),
        (attention(head_dim=60), "multiples of 8 up to 256 here, got 60"),
        (attention(head_dim_v=264), "multiples of 8 up to 256 here, got 264"),
        (attention(seqlen=2**30 + 1), "longest sequence has 1073741824 positions, got 1073741825"),
        (attention(segmented=True), "no kernel for segment_ids"),
        (Problem("windowed_attention", "cpu", torch.bfloat16, (HEADS,) * 3), "not on cpu"),
        (Problem("chunked_attention", "cuda", torch.bfloat16, ((9, 4, 136),) * 3), "up to 128 here, got 136"),
        (Problem("merge_attention_states", "cuda", torch.float32, (HEADS,) * 25), "up to 24 states, got 25"),
        (Problem("overlap_merge", "cuda", torch.int32, ((2, 8, 4),)), "no kernel for torch.int32"),
    ],
)  # fmt: skip
def test_unsupported_problems_have_a_reason(problem, reason):
    (said,) = cuda.reasons(problem)
    assert reason in said


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    "problem",
    [
        attention(),
        attention(dtype=torch.float16, head_dim=192, head_dim_v=128),
        Problem("merge_attention_states", "cuda", torch.float64, (HEADS,) * 24),
        Problem("overlap_split", "cuda", torch.float32, ((100, 7),)),
        Problem("chunked_attention", "cuda", torch.float16, ((100, 4, 64),) * 3),
    ],
)
def test_supported_problems(problem):
    assert cuda.reasons(problem) == []


@pytest.mark.usefixtures("with_gpu")
def test_chips_of_small_blocks_support_fewer_head_dims(monkeypatch):
    monkeypatch.setattr(cuda, "large_blocks", lambda: False)
    assert cuda.reasons(attention(head_dim=96, head_dim_v=96)) == []
    assert cuda.reasons(attention(head_dim=104)) == [
        "its head dims are multiples of 8 up to 96 here, got 104"
    ]


def test_unavailable_without_a_gpu_or_the_library():
    if not (missing := cuda.unavailable()):
        pytest.skip("the CUDA kernels can run here")
    with pytest.raises(registry.BackendError, match="got 'cuda', which cannot run"):
        registry.choose(attention(), "cuda")
    assert "not built" in missing or "CUDA" in missing or "GPU" in missing


def test_rows_are_copied_only_where_they_are_not_aligned():
    x = torch.arange(2 * 9 * 4 * 16, dtype=torch.bfloat16).reshape(2, 9, 4, 16)
    for aligned in (x, x.transpose(1, 2), x[:, 1:, :, 8:]):
        assert aligned_rows(aligned) is aligned
    for crooked in (x[..., 1:9], x.reshape(-1)[1:1025].reshape(2, 8, 4, 16), x[..., ::2]):
        made = aligned_rows(crooked)
        assert made.is_contiguous() and torch.equal(made, crooked)
