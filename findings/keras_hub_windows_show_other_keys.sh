#!/usr/bin/env bash
# Versions: keras-hub 0.32.0, keras 3.15.1, on jax 0.10.2 and on TensorFlow 2.21.0.
# Behaviour: gpt-oss has its window in layers 1, 3, ... (transformers 5.24.0 in layers 0, 2, ..., as its configs state), and it
#   shows W + 1 keys (transformers W). Qwen and Qwen3 have no window at all on the JAX backend; on TensorFlow they have.
#   Gemma 3 with use_bidirectional_attention (EmbeddingGemma) shows W keys, W // 2 of them behind the query; transformers
#   shows W // 2 to each side, W + 1 keys for an even W. Mistral and causal Gemma 3 show W keys, as in transformers.
# Seen on 2026-11-30 (W = 4, 16 tokens, the keys of token 10):
#   gpt-oss layer 0: 0..10, layer 1: 6..10; Qwen, Qwen3: JAX 0..10, TensorFlow 7..10; Gemma 3 bidirectional: 9..12;
#   Mistral, Gemma 3: 7..10
# Instead: run such checkpoints in transformers, or on texts that are shorter than the window.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q jax==0.10.2 keras==3.15.1 keras-hub==0.32.0 \
  tensorflow==2.21.0
cat > "$folder/seen.py" <<'PYTHON'
import keras
import keras_hub.models as models
import numpy as np
from keras import ops

N, W = 16, 4
SIZES = {"vocabulary_size": 64, "num_layers": 1, "hidden_dim": 32, "intermediate_dim": 48, "num_query_heads": 2, "num_key_value_heads": 1}
GEMMA = SIZES | {"head_dim": 16, "image_size": 16, "vision_encoder": None, "use_sliding_window_attention": True, "sliding_window_size": W}
EXPERTS = {"num_experts": 2, "top_k": 2, "head_dim": 16, "sliding_window": W}


def keys(model, masked_layers=()):
    """The tokens whose change is seen in each token's state; masked_layers add nothing to it."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "norm" not in weight.path:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    for layer in masked_layers:
        for weight in model.transformer_layers[layer].self_attention_layer.weights:
            if "output" in weight.path:
                weight.assign(np.zeros(weight.shape))
    ids = np.repeat(rng.integers(1, 60, (1, N)), N + 1, 0)
    for j in range(N):
        ids[j + 1, j] = ids[j + 1, j] % 60 + 1
    out = ops.convert_to_numpy(model({"token_ids": ids.astype("int32"), "padding_mask": np.ones(ids.shape, "int32")}))
    return (np.abs(out[1:] - out[:1]).max(-1) > 1e-6).T


def of_formula(formula):
    return np.array([[eval(formula, {"i": i, "j": j, "W": W}) for j in range(N)] for i in range(N)])


QWEN = "j <= i" if keras.backend.backend() == "jax" else "i - W < j <= i"
ROWS = {
    "MistralBackbone(sliding_window=W)": ("i - W < j <= i", lambda: keys(models.MistralBackbone(**SIZES, sliding_window=W))),
    "Gemma3Backbone(sliding_window_size=W)": ("i - W < j <= i", lambda: keys(models.Gemma3Backbone(**GEMMA))),
    "Gemma3Backbone(sliding_window_size=W, use_bidirectional_attention=True)": ("i - (W - 1 - W // 2) <= j <= i + W // 2", lambda: keys(models.Gemma3Backbone(**GEMMA, use_bidirectional_attention=True))),
    "gpt-oss, layer 0": ("j <= i", lambda: keys(models.GptOssBackbone(**SIZES | {"num_layers": 2}, **EXPERTS), [1])),
    "GptOssBackbone(sliding_window=W)": ("i - W <= j <= i", lambda: keys(models.GptOssBackbone(**SIZES | {"num_layers": 2}, **EXPERTS), [0])),
    "Qwen": (QWEN, lambda: keys(models.QwenBackbone(**SIZES, use_sliding_window_attention=True, sliding_window_size=W))),
    "Qwen3": (QWEN, lambda: keys(models.Qwen3Backbone(**SIZES, head_dim=16, sliding_window_size=W))),
}
changed = []
for name, (formula, found) in ROWS.items():
    seen = found()
    print(f"{keras.backend.backend()}, {name}: token 10 sees {np.flatnonzero(seen[10]).tolist()}")
    if not np.array_equal(seen, of_formula(formula)):
        changed.append(name)
print("other than stated:", changed)
raise SystemExit(bool(changed))
PYTHON
for backend in jax tensorflow; do
  KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore "$folder/seen.py"
done
