"""The backend under test: LCKERNELS="backend=..." names it, the default is cpu.

LCKERNELS=backend=triton TRITON_INTERPRET=1 tests the Triton kernels in Triton's interpreter (make
test-triton); LCKERNELS=backend=cuda tests the CUDA kernels and requires a GPU.
"""

import os

import pytest
import torch
from helpers.attention_problem import Problem as AttentionProblem

from lckernels.backends import registry
from lckernels.backends.registry import Problem

TESTED = registry.settings().get("backend", "cpu")
_OF_GPUS = TESTED in ("triton", "cuda")
# The device of the tensors: the GPU, if the backend runs on it without the interpreter.
_ON_GPU = _OF_GPUS and torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ
DEVICE = "cuda" if _ON_GPU else "cpu"
# The reference is tested as a backend together with cpu only.
BACKENDS = [
    name for name in (("eager", "cpu") if TESTED == "cpu" else (TESTED,)) if not registry.availability()[name]
]
by_backend = pytest.mark.parametrize("backend", BACKENDS)
# Adds the mark `isa` to the cases on the CPU backend.
on_each_isa = pytest.mark.cases(isa=lambda backend: backend == "cpu")
# Whether a NaN reaches only rows that see it, and no other row of their tile; both are correct.
EXACT_NAN = not _OF_GPUS


def unsupported_reason(
    dtype: torch.dtype, head_dim: int = 8, op: str = "windowed_attention", segmented: bool = False
) -> str:
    """Why the backend does not support the dtype and head_dim; empty if it does."""
    shapes = ((1, 1, 1, head_dim),) * 3
    problem = Problem(op, DEVICE, dtype, shapes, segmented=segmented, explicit=True)
    return "; ".join(registry.backends()[TESTED].reasons(problem))


def supported(*dtypes: torch.dtype, op: str = "windowed_attention") -> tuple[torch.dtype, ...]:
    """Those of the dtypes that the backend supports."""
    return tuple(dtype for dtype in dtypes if not unsupported_reason(dtype, op=op))


def is_supported(problem: AttentionProblem) -> bool:
    """Whether the backend supports the problem."""
    segmented = problem.options.layout.segment_ids is not None
    return not any(
        unsupported_reason(problem.q.dtype, x.shape[3], segmented=segmented) for x in (problem.q, problem.v)
    )


def requires_dtype(dtype: torch.dtype) -> pytest.MarkDecorator:
    """Skips a test if the backend does not support the dtype, with the reason."""
    why = unsupported_reason(dtype)
    return pytest.mark.skipif(bool(why), reason=why or "supported")


def scaled_count(count: int) -> int:
    """`count`, or a tenth of it in Triton's interpreter, where a problem takes seconds."""
    return -(-count // 10) if TESTED == "triton" and DEVICE == "cpu" else count


compiled = pytest.mark.skipif(bool(registry.availability()["cpu"]), reason="_C.so was not built")
not_interpreted = pytest.mark.skipif(TESTED == "triton", reason="takes minutes in Triton's interpreter")
requires_fallbacks = pytest.mark.skipif(TESTED != "cpu", reason="LCKERNELS names a backend: no fallback")
