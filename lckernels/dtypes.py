"""The floating dtypes of the ops, and the dtype that each computes in."""

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums, softmax and lse for inputs of `dtype`: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
