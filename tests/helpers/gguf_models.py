"""Small random decoders in GGUF files, as the llama.cpp project's converter writes them."""

from pathlib import Path

import gguf
import numpy
import torch
import transformers
from helpers.tiny_decoder import SIZES
from tokenizers import pre_tokenizers

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<s>", "</s>", *ALPHABET, "er", "an"]  # a token for each byte, and two merges
_SIZES = {**SIZES, "vocab_size": len(TOKENS)}


def decoder(architecture, **config):
    """A model whose scores depend on positions; its config has these fields beside the sizes."""
    kinds = {
        "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig),
        "phi3": (transformers.Phi3ForCausalLM, transformers.Phi3Config),
    }
    model, config_class = kinds[architecture]
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return model(config_class(**_SIZES, **special, **config)).eval()


def save_gguf(path: Path, architecture: str, keys=(), factors=()) -> Path:
    """Writes `decoder(architecture)` without scaling or window to a GGUF file.

    Args:
        path: the file.
        architecture: "llama" or "phi3".
        keys: {name: value} of further keys of the architecture.
        factors: {name: values} of further tensors.
    """
    model = decoder(architecture)
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["e r", "a n"])  # transformers 5.17 reads no list of one
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    for name, value in dict(keys).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{architecture}.{name}", value)
    names = gguf.get_tensor_name_map(
        next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture),
        config.num_hidden_layers,
    )
    for name, weight in model.state_dict().items():
        found = names.get_name(name.removesuffix(".weight"))
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        heads = heads.get(name.split(".")[-2]) if architecture == "llama" else None
        writer.add_tensor(f"{found}.weight", _permuted(weight, heads).numpy())
    for name, values in dict(factors).items():
        writer.add_tensor(f"{name}.weight", numpy.array(values, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(weight, heads):
    """Rotary pairs of a head side by side, as llama.cpp stores them; None leaves the weight."""
    if heads is None:
        return weight
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()
