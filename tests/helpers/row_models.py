"""Tiny random encoders whose states depend on padding, on a row's length or on the other rows of a batch."""

import torch
import transformers
from helpers.encoder_models import CLS, PAD, SEP

COMMON = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": PAD,
}  # fmt: skip
NLLB = {
    "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_experts": 4,
    "encoder_sparse_step": 1, "pad_token_id": PAD, "max_position_embeddings": 128,
}  # fmt: skip
DECODER = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
FUNNEL = {
    "vocab_size": 60, "d_model": 32, "d_inner": 48, "n_head": 4, "d_head": 8, "block_sizes": [1, 1],
    "num_decoder_layers": 1, "pad_token_id": PAD, "max_position_embeddings": 128,
}  # fmt: skip
REFORMER = {
    "vocab_size": 60, "hidden_size": 32, "feed_forward_size": 48, "num_attention_heads": 4,
    "attention_head_size": 8, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16], "num_buckets": 4,
    "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16,
    "hash_seed": 0, "is_decoder": False, "pad_token_id": PAD, "max_position_embeddings": 128,
}  # fmt: skip
# Class of the model, class of its config, sizes.
MODELS = {
    "fnet": ("FNetModel", "FNetConfig", COMMON),
    "canine": ("CanineModel", "CanineConfig", {**COMMON, "pad_token_id": 0}),
    "funnel": ("FunnelModel", "FunnelConfig", FUNNEL),
    "funnel_base": ("FunnelBaseModel", "FunnelConfig", FUNNEL),
    "reformer": ("ReformerModel", "ReformerConfig", REFORMER),
    "yoso": ("YosoModel", "YosoConfig", COMMON),
    "convbert": ("ConvBertModel", "ConvBertConfig", {**COMMON, "embedding_size": 32}),
    "nystromformer": (
        "NystromformerModel", "NystromformerConfig",
        {**COMMON, "num_landmarks": 4, "segment_means_seq_len": 32},
    ),
    "big_bird": (
        "BigBirdModel", "BigBirdConfig", {**COMMON, "block_size": 4, "num_random_blocks": 1},
    ),
    "nllb_moe": ("NllbMoeModel", "NllbMoeConfig", NLLB),
    "xlnet": (
        "XLNetModel", "XLNetConfig",
        {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "pad_token_id": PAD},
    ),
    "modernbert": (
        "ModernBertModel", "ModernBertConfig",
        {**COMMON, "initializer_cutoff_factor": 3.0, "cls_token_id": CLS, "sep_token_id": SEP},
    ),
    "llama": ("LlamaModel", "LlamaConfig", DECODER),
    "qwen2": ("Qwen2Model", "Qwen2Config", DECODER),
    "gemma2": ("Gemma2Model", "Gemma2Config", DECODER),
    "mistral": ("MistralModel", "MistralConfig", DECODER),
}  # fmt: skip


def make_rows_model(name, **options):
    """The model in eval mode, with weights of std 0.2 where its config has an initializer_range."""
    model, config, sizes = MODELS[name]
    sizes = {**sizes, "bos_token_id": CLS, "eos_token_id": SEP, "initializer_range": 0.2, **options}
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
