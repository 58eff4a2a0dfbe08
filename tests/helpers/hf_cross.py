"""Tiny models with cross attention, and inputs of equally many queries and keys."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from helpers.hf_models import BART, VOCAB

NUM_STATES = 15
TEXT = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
SEQ2SEQ = {
    **BART,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "init_std": 0.2,
    "decoder_start_token_id": 2,
    "pad_token_id": 1,
}
SPEECH = {
    **BART, "vocab_size": VOCAB, "num_mel_bins": 8, "input_feat_per_channel": 8, "conv_channels": 16,
    "max_target_positions": 64, "init_std": 0.2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "image_size": (8, 4), "patch_size": 4,
}  # fmt: skip


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def tokens(seqlen: int) -> torch.Tensor:
    return torch.randint(5, VOCAB, (2, seqlen), generator=torch.Generator().manual_seed(seqlen))


@dataclass(frozen=True)
class CrossModel:
    """A model, and the inputs of a call.

    Attributes:
        model: name of its class.
        config: its config.
        given: inputs of the encoder, or its states.
        queries: name of the decoder's ids.
        num_states: number of the encoder's states, the keys of cross attention.
    """

    model: str
    config: Any
    given: dict[str, torch.Tensor]
    queries: str = "decoder_input_ids"
    num_states: int = NUM_STATES

    def build(self) -> torch.nn.Module:
        torch.manual_seed(0)
        model = getattr(transformers, self.model)(self.config)
        model.set_attn_implementation("eager")
        return model.eval()

    def inputs(self, seqlen: int) -> dict[str, torch.Tensor]:
        """The inputs with `seqlen` tokens, or embeddings, of the decoder."""
        if self.queries == "query_embeds":
            return {**self.given, self.queries: random(2, seqlen, 32)}
        return {**self.given, self.queries: tokens(seqlen), "use_cache": False}


def seq2seq(prefix: str) -> CrossModel:
    config = getattr(transformers, f"{prefix}Config")(**SEQ2SEQ)
    name = {"Marian": "MarianMTModel"}.get(prefix, f"{prefix}ForConditionalGeneration")
    return CrossModel(name, config, {"input_ids": tokens(NUM_STATES)})


def decoder(name: str, config: type, **sizes: Any) -> CrossModel:
    """A decoder that gets the encoder's states."""
    made = config(**sizes, is_decoder=True, add_cross_attention=True)
    return CrossModel(name, made, {"encoder_hidden_states": random(2, NUM_STATES, 32)}, "input_ids")


def speech_to_text() -> CrossModel:
    config = transformers.Speech2TextConfig(**SPEECH, max_source_positions=60)
    return CrossModel(
        "Speech2TextForConditionalGeneration", config, {"input_features": random(2, 4 * NUM_STATES, 8)}
    )


def whisper() -> CrossModel:
    config = transformers.WhisperConfig(**SPEECH, max_source_positions=NUM_STATES)
    return CrossModel(
        "WhisperForConditionalGeneration", config, {"input_features": random(2, 8, 2 * NUM_STATES)}
    )


def moonshine() -> CrossModel:
    """Its encoder makes 15 states of 6,400 samples."""
    config = transformers.MoonshineConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1, encoder_num_attention_heads=4, decoder_num_attention_heads=4,
        initializer_range=0.2, decoder_start_token_id=1,
    )  # fmt: skip
    return CrossModel("MoonshineForConditionalGeneration", config, {"input_values": random(2, 6400)})


def encoder_decoder() -> CrossModel:
    parts = transformers.BertConfig(**TEXT), transformers.BertConfig(**TEXT)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    return CrossModel("EncoderDecoderModel", config, {"input_ids": tokens(NUM_STATES)})


def vision_encoder_decoder() -> CrossModel:
    """Three states of an image of two patches; a dry run has three tokens in the decoder too."""
    parts = transformers.ViTConfig(**VISION), transformers.BertConfig(**TEXT)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    return CrossModel("VisionEncoderDecoderModel", config, {"pixel_values": random(2, 3, 8, 4)}, num_states=3)


def blip2_queries() -> CrossModel:
    """Queries that attend to the states of an image."""
    config = transformers.Blip2QFormerConfig(**TEXT, encoder_hidden_size=32, cross_attention_frequency=1)
    given = {"encoder_hidden_states": random(2, NUM_STATES, 32)}
    return CrossModel("Blip2QFormerModel", config, given, "query_embeds")


GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "initializer_range": 0.2,
}
CROSS = {
    "bart": lambda: seq2seq("Bart"),
    "marian": lambda: seq2seq("Marian"),
    "m2m100": lambda: seq2seq("M2M100"),
    "speech_to_text": speech_to_text,
    "whisper": whisper,
    "moonshine": moonshine,
    "encoder_decoder": encoder_decoder,
    "vision_encoder_decoder": vision_encoder_decoder,
    "bert": lambda: decoder("BertLMHeadModel", transformers.BertConfig, **TEXT),
    "roberta": lambda: decoder("RobertaForCausalLM", transformers.RobertaConfig, **TEXT),
    "gpt2": lambda: decoder("GPT2LMHeadModel", transformers.GPT2Config, **GPT2),
    "blip2_queries": blip2_queries,
}
