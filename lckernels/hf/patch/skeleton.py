"""What a dry run runs: a copy of the model without weights, and inputs, all on the meta device."""

import inspect
from collections.abc import Sequence
from copy import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lckernels.hf.family import dry_inputs, packs_sequences, replacements
from lckernels.hf.masks.chunk_mask import ChunkMask
from lckernels.hf.patch.methods import lock
from lckernels.hf.private import STORED_IMPLEMENTATION
from lckernels.module_copy import copy_without_hooks

META = torch.device("meta")


def outermost(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the transformers model in a wrapper that contains one; else the whole model."""
    inside = [(name, m) for name, m in model.named_modules() if isinstance(m, PreTrainedModel)]
    held = sum(isinstance(m, PreTrainedModel) for m in inside[0][1].modules()) if inside else 0
    return inside[0] if held and held == len(inside) else ("", model)


def own_config(module: nn.Module) -> PreTrainedConfig | None:
    """The config that is an attribute of the module itself."""
    config = module.__dict__.get("config")
    return config if isinstance(config, PreTrainedConfig) else None


class _ShapeOnly(nn.Linear):
    """A linear layer that computes the shape of its result alone; it has a weight, since models read it."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x.new_empty(*x.shape[:-1], self.out_features)


def linear_layers(model: nn.Module) -> list[nn.Module]:
    """The linear layers whose code is not torch's own, such as quantized ones."""
    return [
        module
        for module in model.modules()
        if type(module) is not nn.Linear
        and all(type(getattr(module, name, None)) is int for name in ("in_features", "out_features"))
        and not any(type(inner) is nn.Linear for inner in module.modules())
    ]


def packed_linear_layers(model: nn.Module) -> list[nn.Module]:
    """Those of `linear_layers` whose weights are no parameters, so that no copy without weights exists."""
    return [module for module in linear_layers(model) if next(module.parameters(), None) is None]


def skeleton(
    model: nn.Module, implementation: str, packed: str, shapes_only: Sequence[nn.Module] = ()
) -> nn.Module:
    """The model without weights, hooks or methods of the instance, in eval mode, with this attention.

    `packed` is its name in modules that pack sequences. The linear layers in `shapes_only` return the shape
    of their result alone.
    """
    instead = {
        id(module): _ShapeOnly(module.in_features, module.out_features, device=META) for module in shapes_only
    }
    with lock:
        result = copy_without_hooks(model, _on_meta, instead)
    set_attention(result, implementation, packed)
    for module in result.modules():
        if own_config(module) is not None:
            # The other implementations of experts read the values that route tokens.
            module.config._experts_implementation = "batched_mm"
    return result


def set_attention(copied: nn.Module, implementation: str, packed: str = "") -> None:
    """Sets the attention of a copy that has configs of its own, with what families replace for lckernels.

    Args:
        copied: the copy.
        implementation: the name of the attention.
        packed: another name of it, in modules that pack sequences.
    """
    for module in copied.modules():
        for name, value in replacements(module).items():
            module.__dict__[name] = MethodType(value, module) if callable(value) else value
        if own_config(module) is not None:
            module.config._attn_implementation = implementation
            if packed and packs_sequences(type(module)):
                module.config = copy(module.config)
                module.config.__dict__[STORED_IMPLEMENTATION] = packed


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def padded_inputs(model: nn.Module) -> dict[str, Tensor]:
    """A padded batch of two rows; of an encoder-decoder model with another length of the decoder."""
    main = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), model)
    inputs = dry_inputs(main)
    if inputs is not None:
        return inputs
    config, name = getattr(main, "config", None), getattr(main, "main_input_name", "input_ids")
    parameters = inspect.signature(type(main).forward).parameters
    if name not in parameters and "input_ids" in parameters:  # a decoder whose class inherits the name
        name = "input_ids"
    inputs = {name: _main_input(name, config)}
    if name == "input_ids":
        inputs["attention_mask"] = torch.ones_like(inputs[name])
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = torch.zeros(2, 3, dtype=torch.long, device=META)
    return inputs


def row_inputs(seqlen: int) -> dict[str, Tensor]:
    """One row of `seqlen` tokens under a ChunkMask."""
    ids = torch.zeros(1, seqlen, dtype=torch.long, device=META)
    mask = ChunkMask.of_shape(1, 1, seqlen, seqlen, device=META)
    return {"input_ids": ids, "position_ids": torch.zeros_like(ids), "attention_mask": mask}


def _main_input(name: str, config: Any) -> Tensor:
    """Two rows of four tokens, or two images, spectrograms or waveforms of the smallest size that fits."""
    if name == "pixel_values":
        inside = [x for x in vars(config).values() if isinstance(x, PreTrainedConfig)] if config else []
        config = next((x for x in (config, *inside) if hasattr(x, "image_size")), config)
        size = getattr(config, "image_size", 32)
        size = tuple(size) if isinstance(size, list | tuple) else (size, size)
        return torch.zeros(2, getattr(config, "num_channels", 3), *size, device=META)
    if name == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 50)
        return torch.zeros(2, getattr(config, "num_mel_bins", 80), frames, device=META)
    if name == "input_values":
        channels = (getattr(config, "audio_channels", None),)
        return torch.zeros(2, *(n for n in channels if n is not None), 6400, device=META)
    return torch.zeros(2, 4, dtype=torch.long, device=META)
