"""UDOP: its encoder reads boxes of tokens, and the bias of its layers depends on them."""

import inspect

import torch
from torch import Tensor, nn

from lckernels.hf.family import Family


def _inputs(model: nn.Module) -> dict[str, Tensor] | None:
    """Four tokens with their boxes, without an image, and three tokens of the decoder."""
    parameters = inspect.signature(type(model).forward).parameters
    if "bbox" not in parameters or getattr(model, "is_decoder", False):
        return None
    ids = torch.zeros(2, 4, dtype=torch.long, device="meta")
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "bbox": torch.zeros(2, 4, 4, device="meta"),
    }
    if "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = ids[:, :3]
    return inputs


FAMILY = Family(name="udop", dry_inputs=_inputs)
