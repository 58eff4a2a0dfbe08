"""The config of a model in a GGUF file, with the keys of the file that transformers' loader leaves out.

That loader (5.24.0 and before) reads no scaling of rotary positions, no tensor of factors of frequencies,
no number of rotary dims, and no sliding window of several architectures. They are set here, or raise.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lckernels.errors import InputError
from lckernels.extras import import_extra

_SCALINGS = ("none", "linear", "yarn", "longrope")
_UNREAD = ("alpha", "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier")
_KEPT = ("rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved", "truncate")
_FACTORS = ("rope_freqs", "rope_factors_short", "rope_factors_long")


@dataclass(frozen=True)
class Header:
    """What a GGUF file states of its model.

    Attributes:
        keys: values of the architecture's keys, without the architecture's name and the dot.
        architecture: its name.
        factors: tensors of factors of rotary wavelengths, by name, each (rotary_dim // 2,).
    """

    keys: dict[str, Any]
    architecture: str
    factors: dict[str, list[float]]

    def unsupported(self, key: str, why: str) -> InputError:
        """The error for a key, or a tensor of factors, that cannot be set in the config."""
        stated = f"{self.architecture}.{key} = {self.keys[key]}" if key in self.keys else f"a tensor {key}"
        return InputError(f"its GGUF file has {stated}, {why}")


def gguf_config(source: str, gguf_file: str) -> Any:
    """The config of a model in a GGUF file.

    Args:
        source: a folder, or a name on the Hugging Face hub.
        gguf_file: the file in it.

    Raises:
        InputError: the file has a key that a config of transformers cannot have.
    """
    transformers = import_extra("transformers", "hf")
    config = transformers.AutoConfig.from_pretrained(source, gguf_file=gguf_file)
    header = read_header(Path(import_extra("transformers.utils", "hf").cached_file(source, gguf_file)))
    _set_rotary_dim(config, header)
    _set_rope_scaling(config, header)
    _set_sliding_window(config, header)
    return config


def read_header(path: Path) -> Header:
    """Reads the keys of a GGUF file, and the factors among its tensors."""
    reader = import_extra("gguf", "gguf").GGUFReader(path)
    architecture = _value(reader.fields["general.architecture"])
    prefix = f"{architecture}."
    fields = {name.removeprefix(prefix): x for name, x in reader.fields.items() if name.startswith(prefix)}
    tensors = {tensor.name.removesuffix(".weight"): tensor for tensor in reader.tensors}
    factors = {name: tensors[name].data.astype(float).tolist() for name in _FACTORS if name in tensors}
    return Header({name: _value(field) for name, field in fields.items()}, architecture, factors)


def _value(field: Any) -> Any:
    """A number, a string, or a list of numbers or strings."""
    parts = [field.parts[place] for place in field.data]
    is_string = field.types[-1].name == "STRING"
    values = [part.tobytes().decode("utf-8") if is_string else part.tolist()[0] for part in parts]
    return values if field.types[0].name == "ARRAY" else values[0]


def _rope_parameters(config: Any, header: Header, key: str) -> dict[str, Any]:
    """The config's parameters of the layers that a scaling is for. Raises InputError where there are none."""
    found = getattr(config, "rope_parameters", None)
    found = found.get("full_attention", found) if isinstance(found, dict) else None
    if not found or any(isinstance(value, dict) for value in found.values()):
        raise header.unsupported(key, f"for which {type(config).__name__} has no rope_parameters")
    return found


def _set_rotary_dim(config: Any, header: Header) -> None:
    key = "rope.dimension_count"
    stated, parameters = header.keys.get(key), getattr(config, "rope_parameters", None)
    if stated is None or not parameters or "rope_theta" not in parameters or hasattr(config, "rotary_dim"):
        return
    head_dim = _head_dim(config)
    if int(head_dim * parameters.get("partial_rotary_factor", 1.0)) == stated:
        return
    if "partial_rotary_factor" not in parameters:
        raise header.unsupported(key, f"but {type(config).__name__} rotates all {head_dim} dims of a head")
    parameters["partial_rotary_factor"] = stated / head_dim


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _set_rope_scaling(config: Any, header: Header) -> None:
    scaling = {name: x for name, x in header.keys.items() if name.startswith("rope.scal")}
    if not scaling and not header.factors:
        return
    for name in _UNREAD:
        if f"rope.scaling.{name}" in scaling:
            raise header.unsupported(f"rope.scaling.{name}", "which no config of transformers has")
    parameters = _scaling(config, header)
    if parameters is None:
        return
    current = _rope_parameters(config, header, next(iter(scaling or header.factors)))
    kept = {name: current[name] for name in _KEPT if name in current}
    current.clear()
    current.update(kept | parameters)
    if hasattr(config, "original_max_position_embeddings") and "original_max_position_embeddings" in current:
        config.original_max_position_embeddings = current["original_max_position_embeddings"]


def _scaling(config: Any, header: Header) -> dict[str, Any] | None:
    """The file's scaling as rope_parameters of transformers; None if it changes nothing.

    Defaults are those of llama.cpp: the type is linear, the factor 1, the original length that of the model.
    """
    keys = {name.removeprefix("rope.scaling."): x for name, x in header.keys.items()}
    kind = keys.get("type", "linear")
    if kind not in _SCALINGS:
        raise header.unsupported("rope.scaling.type", f"allowed are {', '.join(_SCALINGS)}")
    factor = 1.0 if kind == "none" else keys.get("factor") or keys.get("rope.scale_linear") or 1.0
    attention_factor = keys.get("attn_factor", 1.0)
    original = {
        "original_max_position_embeddings": keys.get("original_context_length") or keys.get("context_length")
    }
    if kind == "yarn":
        if header.factors:
            raise header.unsupported("rope.scaling.type", f"and a tensor {', '.join(header.factors)}")
        return original | {
            "rope_type": "yarn",
            "factor": factor,
            "attention_factor": attention_factor * (1.0 + 0.1 * math.log(max(factor, 1.0))),
            "beta_fast": keys.get("yarn_beta_fast", 32.0),
            "beta_slow": keys.get("yarn_beta_slow", 1.0),
        }
    both = header.factors.get("rope_freqs")
    short = both or header.factors.get("rope_factors_short")
    long = both or header.factors.get("rope_factors_long")
    if (short is None) != (long is None):
        raise InputError(
            f"its GGUF file has a tensor {', '.join(header.factors)}, but not the other of the two"
        )
    if attention_factor == 1.0 and all(x == 1.0 for x in (short or []) + (long or [])):
        return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    if short is None:
        parameters = _rope_parameters(config, header, "rope.scaling.attn_factor")
        short = long = [1.0] * (int(_head_dim(config) * parameters.get("partial_rotary_factor", 1.0)) // 2)
    return original | {
        "rope_type": "longrope",
        "short_factor": [factor * x for x in short],
        "long_factor": [factor * x for x in long],
        "attention_factor": attention_factor,
    }


def _set_sliding_window(config: Any, header: Header) -> None:
    key = "attention.sliding_window"
    types = getattr(config, "layer_types", None)
    pattern = header.keys.get(f"{key}_pattern")
    if pattern is not None and types != _layer_types(pattern, config.num_hidden_layers):
        raise header.unsupported(f"{key}_pattern", f"but the layers of {type(config).__name__} are {types}")
    if key not in header.keys:
        return
    window = header.keys[key] or None
    if getattr(config, "sliding_window", None) == window:
        return
    if not hasattr(config, "sliding_window") or (types is not None and "sliding_attention" not in types):
        raise header.unsupported(key, f"but {type(config).__name__} has no layer with a sliding window")
    config.sliding_window = window


def _layer_types(pattern: int | list[bool], num_layers: int) -> list[str]:
    """The layers of a pattern: True is a sliding window; an int n means that every n-th layer has none."""
    if isinstance(pattern, int):
        pattern = (
            [bool((layer + 1) % pattern) for layer in range(num_layers)] if pattern else [False] * num_layers
        )
    return ["sliding_attention" if sliding else "full_attention" for sliding in pattern]
