"""Random states of attention over disjoint sets of keys."""

import torch

from lckernels.dtypes import compute_dtype


def random_states(dtype, num_states=3, shape=(2, 37, 3, 4), requires_grad=False):
    """Outs and lses; some rows of the first two states see no key, and one row of each other state."""
    batch, seqlen, heads, _ = shape
    outs = [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(num_states)]
    lses = [
        torch.randn(batch, heads, seqlen, dtype=torch.float64).to(compute_dtype(dtype))
        for _ in range(num_states)
    ]
    lses[0][:1, :1, :2] = -torch.inf
    if num_states > 1:
        lses[1][:1, :1, :1] = -torch.inf
    for lse in lses:
        lse[-1:, -1:, -1:] = -torch.inf
    return [x.requires_grad_(requires_grad) for x in outs], [x.requires_grad_(requires_grad) for x in lses]
