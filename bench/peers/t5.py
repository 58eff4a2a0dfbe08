"""A T5 encoder in plain torch, a block of queries at a time: the expected states."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCK_SCORES = 2**25  # scores stored at a time


@torch.inference_mode()
def plain_states(model: nn.Module, ids: Tensor, window: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Hidden states (1, seqlen, dim) of the encoder in `dtype`, its norms too."""
    stack = model.encoder
    table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.to(dtype)
    x = stack.embed_tokens.weight.to(dtype)[ids]
    for block in stack.block:
        attention, feed_forward = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        normed = _norm(x, block.layer[0].layer_norm)
        q, k, v = (
            F.linear(normed, layer.weight.to(dtype)).unflatten(-1, (table.shape[1], -1))[0].transpose(0, 1)
            for layer in (attention.q, attention.k, attention.v)
        )
        out = _attention(q, k, v, table, window, model.config)
        x = x + F.linear(out.transpose(0, 1).flatten(1)[None], attention.o.weight.to(dtype))
        inner = F.linear(_norm(x, block.layer[1].layer_norm), feed_forward.wi.weight.to(dtype)).relu_()
        x = x + F.linear(inner, feed_forward.wo.weight.to(dtype))
    return _norm(x, stack.final_layer_norm)


def _norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.variance_epsilon)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, window: tuple[int, int], config: object
) -> Tensor:
    """q, k, v (heads, seqlen, head_dim)."""
    heads, seqlen, _ = q.shape
    left, right = (seqlen if side < 0 else side for side in window)
    by_distance = table[_buckets(torch.arange(-seqlen, seqlen + 1), config)].T
    step = max(16, min(512, _BLOCK_SCORES // (heads * min(seqlen, left + right + 512))))
    outs, places = [], torch.arange(seqlen)
    for begin in range(0, seqlen, step):
        end = min(begin + step, seqlen)
        first, last = max(0, begin - left), min(seqlen, end + right)
        distance = places[first:last] - places[begin:end, None]
        scores = q[:, begin:end] @ k[:, first:last].mT
        scores += by_distance[:, distance + seqlen]
        scores.masked_fill_((distance < -left) | (distance > right), -math.inf)
        outs.append(scores.softmax(-1) @ v[:, first:last])
    return torch.cat(outs, 1)


def _buckets(distance: Tensor, config: object) -> Tensor:
    """T5's bucket of each distance key - query, in both directions."""
    half, far = config.relative_attention_num_buckets // 2, config.relative_attention_max_distance
    exact, size = half // 2, distance.abs()
    grown = exact + (torch.log(size.float() / exact) / math.log(far / exact) * (half - exact)).long()
    return torch.where(size < exact, size, grown.clamp(max=half - 1)) + half * (distance > 0)
