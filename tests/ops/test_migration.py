"""Each row of docs/kernels.md: the call of the other library has the same result."""

import math
import re

import pytest
import torch
from helpers.docs_pages import ROOT
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from lckernels import Layout, Score, windowed_attention
from lckernels.reference import visible_keys

PAGE = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
W, HEADS, KV_HEADS, HEAD_DIM = 7, 4, 2, 16


def rows(heading: str) -> list[tuple[str, str]]:
    """Left and right cell of each row of code in the section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = section.replace("\\|", "\x00").splitlines()
    cells = [re.fullmatch(r"\| `(.*)` \| `(.*)` \|", line) for line in lines]
    return [(m[1].replace("\x00", "|"), m[2].replace("\x00", "|")) for m in cells if m]


def inputs(seqlen_q: int, seqlen_k: int, batch: int) -> dict[str, object]:
    """The names that the tables use."""
    q = torch.randn(batch, seqlen_q, HEADS, HEAD_DIM)
    k, v = torch.randn(2, batch, seqlen_k, KV_HEADS, HEAD_DIM)
    lengths = torch.tensor([seqlen_k, seqlen_k - 9])[:batch]
    names = {"q": q, "k": k, "v": v, "M": seqlen_q, "N": seqlen_k, "W": W, "lengths": lengths}
    names |= {"qt": q.transpose(1, 2), "kt": k.transpose(1, 2), "vt": v.transpose(1, 2)}
    names |= {"padding": torch.rand(batch, seqlen_k) > 0.3, "slopes": 2.0 ** -torch.arange(1, HEADS + 1)}
    names |= {"ids": (torch.arange(seqlen_k) >= 11).long().expand(batch, -1)}
    names |= {
        "table": torch.randn(HEADS, 2 * seqlen_k - 1),
        "used": torch.tensor([seqlen_k - 5, seqlen_k - 14])[:batch],
    }
    names |= {"qkv": torch.randn(batch, seqlen_q, 3, HEADS, HEAD_DIM), "kv": torch.stack([k, v], dim=2)}
    return names | {
        "torch": torch,
        "Layout": Layout,
        "Score": Score,
        "windowed_attention": windowed_attention,
    }


def flash_attn_func(
    q, k, v, causal=False, window_size=(-1, -1), softmax_scale=None, softcap=0.0, alibi_slopes=None
):
    """flash-attn's definition, by its documentation."""
    left, right = window_size
    right = 0 if causal else right
    p = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
    j = torch.arange(k.shape[1])
    visible = ((left < 0) | (p - j <= left)) & ((right < 0) | (j - p <= right))
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    s = torch.einsum("bmhd,bnhd->bhmn", q, k) * (softmax_scale or 1 / math.sqrt(q.shape[3]))
    s = softcap * torch.tanh(s / softcap) if softcap else s
    s = s if alibi_slopes is None else s - alibi_slopes[:, None, None] * (p - j).abs()
    return torch.einsum("bhmn,bnhd->bmhd", s.masked_fill(~visible, -math.inf).softmax(-1), v)


def flash_attn_qkvpacked_func(qkv, causal):
    return flash_attn_func(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal)


def flash_attn_kvpacked_func(q, kv, causal):
    return flash_attn_func(q, kv[:, :, 0], kv[:, :, 1], causal)


def flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, causal):
    parts = [x.split(cu.diff().tolist()) for x, cu in ((q, cu_q), (k, cu_k), (v, cu_k))]
    segments = zip(*parts, strict=True)
    return torch.cat([flash_attn_func(*(x[None] for x in segment), causal=causal)[0] for segment in segments])


def flash_attn_with_kvcache(q, k, v, cache_seqlens, causal):
    sequences = ((q[[b]], k[[b], :used], v[[b], :used]) for b, used in enumerate(cache_seqlens.tolist()))
    return torch.cat([flash_attn_func(*sequence, causal=causal) for sequence in sequences])


@pytest.mark.parametrize(("theirs", "ours"), rows("flash-attn"))
def test_flash_attn(theirs, ours):
    packed = "cu_" in ours
    names = inputs(21, 40, 1 if packed else 2)
    names |= {name: value for name, value in globals().items() if name.startswith("flash_attn")}
    if packed:
        names |= {
            "cu_q": torch.tensor([0, 8, 21]),
            "cu_k": torch.tensor([0, 20, 40]),
            "max_q": 13,
            "max_k": 20,
        }
    torch.testing.assert_close(eval(ours, names), eval(theirs, names), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("theirs", "ours"), rows("torch.nn.functional.scaled_dot_product_attention"))
def test_sdpa(theirs, ours):
    names = inputs(21, 40, 2)
    names |= {"sdpa": scaled_dot_product_attention, "causal_lower_right": causal_lower_right}
    torch.testing.assert_close(eval(ours, names), eval(theirs, names).transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("theirs", "ours"), rows("FlexAttention"))
def test_flex_attention(theirs, ours):
    names = inputs(40, 40, 2)
    mod = eval(theirs, names)
    mask = None if "score" in theirs else create_block_mask(mod, 2, HEADS, 40, 40, device="cpu")
    options = {"score_mod": mod} if mask is None else {"block_mask": mask}
    expected = flex_attention(names["qt"], names["kt"], names["vt"], enable_gqa=True, **options)
    out = eval(f"windowed_attention(q, k, v, {ours})", names)
    torch.testing.assert_close(out, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.hf
def test_masks_of_transformers():
    masks = pytest.importorskip("transformers.masking_utils")
    from transformers import MistralConfig, ModernBertConfig

    names, x = inputs(40, 40, 2), torch.zeros(2, 40, 8)
    names |= {"C": 16, "attention_mask": names["padding"].long()}
    names["position_ids"] = torch.cat([torch.arange(11), torch.arange(29)]).expand(2, -1)
    mistral = MistralConfig(sliding_window=W, attention_chunk_size=16, attn_implementation="sdpa")
    modernbert = ModernBertConfig(local_attention=W, attn_implementation="sdpa")
    expected = {
        "sliding_window": masks.create_sliding_window_causal_mask(mistral, x, None, None),
        "local_attention": masks.create_bidirectional_sliding_window_mask(modernbert, x, None),
        "attention_chunk_size": masks.create_chunked_causal_mask(mistral, x, None, None),
        "attention_mask": masks.create_bidirectional_mask(modernbert, x, names["attention_mask"]),
        "position_ids": masks.create_causal_mask(mistral, x, None, None, names["position_ids"]),
    }
    lines = PAGE.partition("\n## transformers\n")[2].partition("\n## ")[0].splitlines()
    for name, mask in expected.items():
        (line,) = (line for line in lines if line.startswith(f"| `{name}"))
        ours = eval(f"dict({line.split('`')[-2]})", names)
        if name == "position_ids":
            ours["window_size"] = (-1, 0)
        p = torch.arange(40).expand(2, -1)
        visible = visible_keys(p, 40, ours.get("window_size", (-1, -1)), ours.get("layout", Layout()))
        assert torch.equal(visible, mask[:, 0].bool().expand(2, -1, -1)), name


def test_the_tables_are_read():
    headings = ("flash-attn", "torch.nn.functional.scaled_dot_product_attention", "FlexAttention")
    assert [len(rows(heading)) for heading in headings] == [10, 5, 10]
