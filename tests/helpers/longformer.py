"""Tiny Longformers and LEDs, padded rows with global tokens, and the states of their encoders."""

import torch
import transformers

VOCAB, PAD, SEP, SIDE = 50, 1, 2, 4
WINDOWS = (2 * SIDE, 2 * SIDE - 4)
LENGTHS = (1, 8, 9, 23, 24, 45)
KINDS = ("longformer", "led")
# Positions of global tokens in each of three rows; -1 is the first token after padding.
GLOBAL = {
    "none": None,
    "first": [[-1], [-1], [-1]],
    "first two": [[-1, 1], [-1, 1], [-1, 1]],
    "others": [[-1, 20], [3], []],
    "many": [range(0, 45, 2), [5], range(30)],
    "all": [range(45)] * 3,
}


def make(kind="longformer", dtype=torch.float32, cls="", **sizes):
    torch.manual_seed(0)
    common = {"vocab_size": VOCAB, "pad_token_id": PAD, "attention_window": list(WINDOWS)}
    if kind == "longformer":
        of_kind = {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
            "max_position_embeddings": 130, "initializer_range": 0.2, "sep_token_id": SEP,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        }  # fmt: skip
    else:
        of_kind = {
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.2,
            "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 64, "dropout": 0.0,
            "attention_dropout": 0.0,
        }  # fmt: skip
    prefix = {"longformer": "Longformer", "led": "LED"}[kind]
    config = getattr(transformers, f"{prefix}Config")(**common | of_kind | sizes)
    model = getattr(transformers, cls or f"{prefix}Model")(config).eval().to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs_of(seqlen, kind="none", padded=True):
    generator = torch.Generator().manual_seed(seqlen)
    ids = torch.randint(3, VOCAB, (3, seqlen), generator=generator)
    mask, some = torch.ones_like(ids), seqlen // 3
    if padded:
        mask[1, seqlen - some :] = 0
        mask[2, :some] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if GLOBAL[kind] is not None:
        tokens = torch.zeros_like(ids)
        for row, columns in enumerate(GLOBAL[kind]):
            first = int(mask[row].argmax())
            columns = [first if c == -1 else c + first * (kind == "first two") for c in columns]
            tokens[row, [c for c in columns if c < seqlen]] = 1
        inputs["global_attention_mask"] = tokens
    return inputs


def encoder_of(model):
    return model.get_encoder() if model.config.is_encoder_decoder else model


def states(model, inputs):
    """Of all rows, those of padding too."""
    with torch.no_grad():
        return encoder_of(model)(**inputs).last_hidden_state


def attention_layers(model):
    return [m for m in model.modules() if hasattr(m, "one_sided_attn_window_size")]


def close(ours, expected, tolerance=1e-5):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
