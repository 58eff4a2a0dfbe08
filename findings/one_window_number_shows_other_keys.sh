#!/usr/bin/env bash
# Versions: jax 0.10.2, keras 3.15.1 (JAX backend), xformers 0.0.35, natten 0.21.7, local-attention 1.11.2, torch 2.13.0 (CPU).
# Behaviour: a causal window of W = 8 shows 8 keys (Keras, NATTEN, two classes of xformers), 9 (JAX, LocalMask of its splash
#   attention, LocalAttentionFromBottomRightMask of xformers, local-attention with exact_windowsize=True) or, depending on the
#   query, 9 to 16 (local-attention). Without causality it shows 8 (NATTEN), 15 (Keras), 17 (JAX) or up to 24
#   (local-attention). With fewer queries than keys JAX, Keras and most classes of xformers align the first query with the
#   first key, others the last query with the last key; BlockDiagonalCausalFromBottomRightMask.make_local_attention(W)
#   returns a mask that is aligned top-left. NATTEN shifts the window inwards at both ends, so each query sees W keys.
# Seen on 2026-11-30: each set is the formula of its row, for W = 8 and 5, 32 keys, and 32 or 8 queries; for W = 8
#   and 32 queries these are 10 sets. Token 20 of 32 sees 13..20 or 12..20 or 8..20, 16..23, 13..27, 12..28 or 8..31.
# Instead: count the visible keys of a query in the middle, of the first and of the last one, with one-hot values as here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 jax==0.10.2 keras==3.15.1 \
  local-attention==1.11.2 xformers==0.0.35
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q --no-build-isolation setuptools cmake natten==0.21.7
KERAS_BACKEND=jax "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
import keras
import natten
import numpy as np
import torch
import xformers
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import LocalMask
from local_attention import LocalAttention
from xformers.ops.fmha import attn_bias

print("jax", jax.__version__, "keras", keras.__version__, "xformers", xformers.__version__, "natten", natten.__version__)


def jax_keys(M, N, **options):
    q, k, v = jnp.zeros((1, M, 1, N)), jnp.zeros((1, N, 1, N)), jnp.eye(N)[None, :, None]
    return np.asarray(jax.nn.dot_product_attention(q, k, v, **options))[0, :, 0] > 0


def keras_keys(M, N, W, **options):
    layer = keras.layers.GroupQueryAttention(N, 1, 1, sliding_window=W)
    inputs = np.zeros((1, M, N), "float32"), np.zeros((1, N, N), "float32")
    return np.asarray(layer(*inputs, return_attention_scores=True, **options)[1])[0, 0] > 1e-6


def xformers_keys(M, N, bias):
    return bias.materialize((M, N), device="cpu").numpy() == 0


def natten_keys(M, N, **options):
    q, v = torch.zeros(1, N, 1, 64), torch.eye(N, 64)[None, :, None]
    return (natten.na1d(q, q, v, backend="flex-fna", **options)[0, :, 0, :N] > 0).numpy()


def local_keys(M, N, **options):
    q, v = torch.zeros(1, 1, N, N), torch.eye(N)[None, None]
    return (LocalAttention(dim=N, use_rotary_pos_emb=False, autopad=True, **options)(q, q, v)[0, 0] > 0).numpy()


# What M queries and N keys give: query i, key j, p = i + N - M.
ROWS = {
    "jax.nn.dot_product_attention(local_window_size=W)": ("abs(i - j) <= W", lambda M, N, W: jax_keys(M, N, local_window_size=W)),
    "jax.nn.dot_product_attention(local_window_size=W, is_causal=True)": ("i - W <= j <= i", lambda M, N, W: jax_keys(M, N, local_window_size=W, is_causal=True)),
    "splash_attention_mask.LocalMask((M, N), window_size=(W, 0), offset=0)": ("i - W <= j <= i", lambda M, N, W: LocalMask((M, N), (W, 0), 0)[:, :]),
    "keras.layers.GroupQueryAttention(sliding_window=W)": ("abs(i - j) < W", lambda M, N, W: keras_keys(M, N, W)),
    "keras.layers.GroupQueryAttention(sliding_window=W), use_causal_mask=True": ("i - W < j <= i", lambda M, N, W: keras_keys(M, N, W, use_causal_mask=True)),
    "LocalAttentionFromBottomRightMask(window_left=W, window_right=0)": ("p - W <= j <= p", lambda M, N, W: xformers_keys(M, N, attn_bias.LocalAttentionFromBottomRightMask(window_left=W, window_right=0))),
    "LowerTriangularFromBottomRightLocalAttentionMask(W)": ("p - W < j <= p", lambda M, N, W: xformers_keys(M, N, attn_bias.LowerTriangularFromBottomRightLocalAttentionMask(W))),
    "BlockDiagonalCausalMask.make_local_attention(W)": ("i - W < j <= i", lambda M, N, W: xformers_keys(M, N, attn_bias.BlockDiagonalCausalMask.from_seqlens([M], [N]).make_local_attention(W))),
    "BlockDiagonalCausalFromBottomRightMask.make_local_attention(W)": ("i - W < j <= i", lambda M, N, W: xformers_keys(M, N, attn_bias.BlockDiagonalCausalFromBottomRightMask.from_seqlens([M], [N]).make_local_attention(W))),
    "BlockDiagonalCausalMask.make_local_attention_from_bottomright(W)": ("p - W < j <= p", lambda M, N, W: xformers_keys(M, N, attn_bias.BlockDiagonalCausalMask.from_seqlens([M], [N]).make_local_attention_from_bottomright(W))),
    "natten.na1d(kernel_size=W)": ("0 <= j - min(max(i - W // 2, 0), N - W) < W", lambda M, N, W: natten_keys(M, N, kernel_size=W)),
    "natten.na1d(kernel_size=W, is_causal=True)": ("i - W < j <= i", lambda M, N, W: natten_keys(M, N, kernel_size=W, is_causal=True)),
    "natten.na1d(kernel_size=W, dilation=2, is_causal=True)": ("(i - j) % 2 == 0 and i - 2 * W < j <= i", lambda M, N, W: natten_keys(M, N, kernel_size=W, dilation=2, is_causal=True)),
    "LocalAttention(window_size=W)": ("abs(i // W - j // W) <= 1", lambda M, N, W: local_keys(M, N, window_size=W)),
    "LocalAttention(window_size=W, causal=True)": ("i // W * W - W <= j <= i", lambda M, N, W: local_keys(M, N, window_size=W, causal=True)),
    "LocalAttention(window_size=W, causal=True, look_backward=0)": ("i // W * W <= j <= i", lambda M, N, W: local_keys(M, N, window_size=W, causal=True, look_backward=0)),
    "LocalAttention(window_size=W, causal=True, exact_windowsize=True)": ("i - W <= j <= i", lambda M, N, W: local_keys(M, N, window_size=W, causal=True, exact_windowsize=True)),
    "LocalAttention(window_size=W, causal=True, exact_windowsize=True, look_backward=2)": ("i - 2 * W <= j <= i", lambda M, N, W: local_keys(M, N, window_size=W, causal=True, exact_windowsize=True, look_backward=2)),
    "LocalAttention(window_size=W, exact_windowsize=True)": ("abs(i - j) <= W", lambda M, N, W: local_keys(M, N, window_size=W, exact_windowsize=True)),
}  # fmt: skip

wrong, sets = [], set()
for name, (formula, keys) in ROWS.items():
    square = name.startswith(("natten", "LocalAttention("))
    for W in (8, 5):
        for M, N in ((32, 32), (8, 32))[: 1 if square else 2]:
            names = [[{"i": i, "j": j, "p": i + N - M, "W": W, "M": M, "N": N} for j in range(N)] for i in range(M)]
            expected = np.array([[eval(formula, {}, x | {"min": min, "max": max, "abs": abs}) for x in row] for row in names])
            found = keys(M, N, W)
            if not np.array_equal(expected, found):
                wrong.append((name, W, M))
            if W == 8 and M == N:
                sets.add(found.tobytes())
                print(f"{name}: query 20 sees {np.flatnonzero(found[20]).tolist()}, query 0 {found[0].sum()} keys, the last {found[-1].sum()}")
print(len(sets), "sets of keys; other than their formula:", wrong)
raise SystemExit(len(sets) != 10 or bool(wrong))
PYTHON
