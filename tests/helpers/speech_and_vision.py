"""Tiny encoders of speech and images, with the argument that each takes."""

import torch
import transformers as T

_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
_CONVS = {"conv_dim": (16,), "conv_stride": (2,), "conv_kernel": (3,), "num_feat_extract_layers": 1}


def _wav2vec2():
    config = T.Wav2Vec2Config(**_SIZES, **_CONVS, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    return T.Wav2Vec2Model(config)


def _whisper():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    config = T.WhisperConfig(
        **sizes, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=60,
        pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    return T.WhisperModel(config).get_encoder()


def _moonshine():
    config = T.MoonshineConfig(
        hidden_size=16, intermediate_size=24, encoder_num_hidden_layers=1, decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2, decoder_num_attention_heads=2, vocab_size=60,
    )  # fmt: skip
    return T.MoonshineModel(config).get_encoder()


def _vit():
    return T.ViTModel(T.ViTConfig(**_SIZES, image_size=16, patch_size=8))


def _swin():
    return T.SwinModel(
        T.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    )


class _Frames(torch.nn.Module):
    """An encoder of frames that has no main_input_name."""

    config = T.BertConfig()

    def forward(self, frames, attention_mask=None):
        return frames


SPEECH_AND_VISION = {
    "wav2vec2": (_wav2vec2, "input_values"),
    "whisper": (_whisper, "input_features"),
    "moonshine": (_moonshine, "input_values"),
    "vit": (_vit, "pixel_values"),
    "frames": (_Frames, "frames"),
    "swin": (_swin, "pixel_values"),
}
