"""Windowed attention by FlexAttention and by the package local-attention."""

import torch
from torch import Tensor

from bench.cases.attention import AttentionCase
from bench.harness.comparison import Unsupported
from bench.peers.attention import Peer, is_visible
from bench.peers.limits import installed, within_memory

_FLEX_BLOCK = 128
_MIN_BUCKET, _MAX_LOOK_BACK = 64, 8  # of local-attention: the fastest of its exact settings


def flex(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """FlexAttention, compiled here, with a block mask of the window."""
    from torch.nn.attention.flex_attention import flex_attention

    if direction == "backward" and str(device) == "cpu":
        raise Unsupported("FlexAttention has no backward on a CPU")
    mask = None if case.window_size == (-1, -1) else _block_mask(case, device)
    # Otherwise the ninth case exceeds torch's limit of recompilations and runs uncompiled.
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    grouped = case.num_heads != case.num_kv_heads

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return compiled(q, k, v, block_mask=mask, enable_gqa=grouped)

    sizes = [(case.seqlen_q, case.num_heads), *[(case.seqlen, case.num_kv_heads)] * 2]
    blank = torch.zeros((), dtype=case.dtype, device=device)
    # The strides of the tensors that are timed, else torch compiles again.
    given = (blank.new_zeros(case.batch, *size, case.head_dim).transpose(1, 2) for size in sizes)
    attend(*(x.contiguous() for x in given))
    return Peer(attend)


def _block_mask(case: AttentionCase, device: torch.device | str) -> object:
    """The result of create_block_mask from the blocks' corners; that function evaluates N x N pairs."""
    from torch.nn.attention.flex_attention import BlockMask

    left, right = case.window_size
    query = torch.arange(case.offset, case.seqlen, _FLEX_BLOCK, device=device)[:, None]
    key = torch.arange(0, case.seqlen, _FLEX_BLOCK, device=device)
    last_query, last_key = ((x + _FLEX_BLOCK - 1).clamp(max=case.seqlen - 1) for x in (query, key))
    nearest, farthest = query - last_key, last_query - key
    zero = torch.zeros_like(key)
    some = is_visible((left, -1), nearest, zero) & is_visible((-1, right), farthest, zero)
    whole = is_visible((left, -1), farthest, zero) & is_visible((-1, right), nearest, zero)
    whole &= (query + _FLEX_BLOCK <= case.seqlen) & (key + _FLEX_BLOCK <= case.seqlen)

    def mask_mod(batch: Tensor, head: Tensor, q_index: Tensor, k_index: Tensor) -> Tensor:
        return is_visible(case.window_size, q_index + case.offset, k_index)

    def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
        count = blocks.sum(-1, dtype=torch.int32)
        index = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
        return count[None, None].contiguous(), index[None, None].contiguous()

    return BlockMask.from_kv_blocks(
        *ordered(some & ~whole),
        *ordered(whole),
        BLOCK_SIZE=_FLEX_BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(case.seqlen_q, case.seqlen),
    )


def local_attention(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """The package local-attention with exact_windowsize, in buckets that divide the window."""
    left, right = case.window_size
    if left <= 0 or right != 0 or case.seqlen_q != case.seqlen:
        raise Unsupported("supports causal windows of self-attention only")
    bucket, looks_back = exact_buckets(left)
    buckets = -(-case.seqlen // bucket)
    scores = case.batch * case.num_heads * buckets * bucket * bucket * (1 + looks_back)
    within_memory(2 * 4 * scores, "scores in buckets", device)
    attend = installed("local_attention").LocalAttention(
        window_size=bucket,
        look_backward=looks_back,
        causal=True,
        autopad=True,
        exact_windowsize=True,
        use_rotary_pos_emb=False,
    )

    def repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = case.num_heads // case.num_kv_heads
        return attend(q, *(x.repeat_interleave(group, dim=1) for x in (k, v)))

    return Peer(attend if case.num_heads == case.num_kv_heads else repeated)


def exact_buckets(left: int) -> tuple[int, int]:
    """Bucket size and number of buckets to look back whose product is `left`: its window is exact then."""
    for looks_back in range(_MAX_LOOK_BACK, 1, -1):
        if left % looks_back == 0 and left // looks_back >= _MIN_BUCKET:
            return left // looks_back, looks_back
    return left, 1
