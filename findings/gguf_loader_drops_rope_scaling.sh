#!/usr/bin/env bash
# Versions: transformers 5.24.0, gguf 0.19.0, torch 2.13.0.
# Behaviour: from_pretrained(gguf_file=...) reads neither the keys rope.scaling.* of a GGUF file nor its tensor rope_freqs
#   (the frequencies of Llama 3.1 and later), nor attention.sliding_window of Phi-3. The config has positions without
#   scaling and full attention, without a warning: another model than that of the file.
# Seen on 2026-11-29, rope_type of the config where the file has no such key, a linear scaling by 4, a yarn scaling by 4,
#   a tensor rope_freqs; then sliding_window of a Phi-3 whose file has 5:
#   default default default default None
# Instead: read the keys with gguf.GGUFReader, set config.rope_parameters and config.sliding_window, and pass the config
#   to from_pretrained(..., config=config, gguf_file=...).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q transformers==5.24.0 gguf==0.19.0 torch==2.13.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import gguf
import numpy
import transformers


def config(architecture, keys=(), factors=None):
    """The config that transformers reads from a GGUF file with these keys and this tensor rope_freqs."""
    writer = gguf.GGUFWriter("model.gguf", architecture)
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    for name, value in keys:
        {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)](
            f"{architecture}.{name}", value
        )
    writer.add_tensor("token_embd.weight", numpy.ones((2, 32), dtype=numpy.float32))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", numpy.array(factors, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return transformers.AutoConfig.from_pretrained(".", gguf_file="model.gguf")


linear = [("rope.scaling.type", "linear"), ("rope.scaling.factor", 4.0)]
yarn = [("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0), ("rope.scaling.original_context_length", 16)]
configs = [config("llama"), config("llama", linear), config("llama", yarn), config("llama", (), [1.0, 1.5, 3.0, 4.0])]
found = [each.rope_parameters["rope_type"] for each in configs]
found.append(config("phi3", [("attention.sliding_window", 5)]).sliding_window)
print(*found)
raise SystemExit(found != ["default"] * 4 + [None])
PYTHON
