"""Windowed attention in torch: eager and SDPA, with every mask built beforehand."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases.attention import AttentionCase
from bench.harness.comparison import Unsupported
from bench.peers.limits import within_memory

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """One implementation of attention.

    Attributes:
        attend: (q, k, v) -> out; only this is timed.
        by_head: Whether tensors are (batch, heads, seqlen, head_dim), else (batch, seqlen, heads, head_dim).
        computes: The case that it computes, where that is another one.
        note: What it computes, where that is another result; the pages show it.
    """

    attend: Attention
    by_head: bool = True
    computes: AttentionCase | None = None
    note: str = ""


# (case, direction, device) -> the peer; raises Unsupported.
Build = Callable[[AttentionCase, str, torch.device | str], Peer]


def is_visible(window_size: tuple[int, int], query: Tensor, key: Tensor) -> Tensor:
    """Whether the query at one key position sees the key at another; broadcasts."""
    left, right = window_size
    seen = torch.ones_like(query - key, dtype=torch.bool)
    if left >= 0:
        seen = seen & (query - key <= left)
    return seen & (key - query <= right) if right >= 0 else seen


def window_mask(case: AttentionCase, device: torch.device | str = "cpu") -> Tensor:
    """(seqlen_q, seqlen) bool, True where the query sees the key."""
    key = torch.arange(case.seqlen, device=device)
    return is_visible(case.window_size, key[case.offset :, None], key)


def _all_heads(case: AttentionCase, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Keys repeated for each query head. NOTE: with enable_gqa and a mask, SDPA stores N x N scores."""
    group = case.num_heads // case.num_kv_heads
    return tuple(x.repeat_interleave(group, dim=1) for x in tensors) if group > 1 else tensors


def eager(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """Hugging Face's eager attention: two matrix products around a softmax in fp32."""
    within_memory(2 * case.score_bytes, "scores", device)
    bias = torch.zeros((), dtype=case.dtype, device=device).where(window_mask(case, device), -torch.inf)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = _all_heads(case, k, v)
        scores = q @ k.transpose(2, 3) * case.head_dim**-0.5 + bias
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v

    return Peer(attend)


def sdpa_mask(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """scaled_dot_product_attention with the window as a bool mask; torch makes a floating-point one of it."""
    within_memory((1 + case.dtype.itemsize) * case.seqlen_q * case.seqlen, "masks", device)
    mask = window_mask(case, device)
    return Peer(lambda q, k, v: F.scaled_dot_product_attention(q, *_all_heads(case, k, v), attn_mask=mask))


def sdpa_causal(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """scaled_dot_product_attention(is_causal=True), for the full causal window."""
    if case.window_size != (-1, 0):
        raise Unsupported("is_causal has no window")
    return Peer(_causal_attend(case))


def sdpa_cudnn(case: AttentionCase, direction: str, device: torch.device | str = "cuda") -> Peer:
    """scaled_dot_product_attention by cuDNN alone: is_causal where that is the window, else a dense mask."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    make = sdpa_causal if case.window_size == (-1, 0) else sdpa_mask
    peer = make(case, direction, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return peer.attend(q, k, v)

    return replace(peer, attend=attend)


def sdpa_causal_no_window(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """The same for a case with a window: the time of ignoring the window."""
    if case.window_size[0] < 0 or case.window_size[1] != 0:
        raise Unsupported("the window has no left bound, or is not causal")
    if case.pairs * 64 < case.seqlen**2:
        raise Unsupported("it would compute more than 32 times the pairs")
    note = "computes full causal attention: another result, timed as a reference"
    return Peer(_causal_attend(case), computes=replace(case, window_size=(-1, 0)), note=note)


def _causal_attend(case: AttentionCase) -> Attention:
    if case.seqlen_q != case.seqlen:
        raise Unsupported("is_causal aligns queries with the first keys")
    return lambda q, k, v: F.scaled_dot_product_attention(q, *_all_heads(case, k, v), is_causal=True)


def sdpa_slice(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """SDPA on a view of the visible keys, for one query."""
    left, right = case.window_size
    if case.seqlen_q != 1 or right > 0:
        raise Unsupported("only one query's keys are a slice")
    first = max(0, case.offset - left) if left >= 0 else 0
    grouped = case.num_heads != case.num_kv_heads

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k[:, :, first:], v[:, :, first:], enable_gqa=grouped)

    return Peer(attend)


def torch_flash(case: AttentionCase, direction: str, device: torch.device | str = "cuda") -> Peer:
    """FlashAttention-2 inside torch, which has a window; on a GPU."""
    left, right = case.window_size
    n, is_causal = case.seqlen, right == 0

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, n, n, 0.0, is_causal, False, window_size_left=left, window_size_right=right
        )[0]

    return Peer(attend, by_head=False)
