"""The gradient of sink_logits, the same in every backend without a kernel for it."""

import torch
from torch import Tensor


def sink_gradient(sink_logits: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """dsink = sum over queries of P_sink (dlse - <dout, out>); 0 where a row has no denominator."""
    share = torch.exp(sink_logits.to(lse.dtype)[:, None] - lse)
    return torch.where(lse == -torch.inf, 0, -share * delta).sum((0, 2)).to(sink_logits.dtype)
