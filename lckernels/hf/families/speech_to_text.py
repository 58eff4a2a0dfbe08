"""Speech2Text: its input is (batch, frames, features), where Whisper's is (batch, features, frames)."""

import inspect

import torch
from torch import Tensor, nn

from lckernels.hf.family import Family


def _inputs(model: nn.Module) -> dict[str, Tensor] | None:
    """Sixteen frames, of which the encoder makes four states, and three tokens of the decoder."""
    parameters = inspect.signature(type(model).forward).parameters
    if "input_features" not in parameters:  # the decoder alone
        return None
    inputs = {"input_features": torch.zeros(2, 16, model.config.input_feat_per_channel, device="meta")}
    if "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = torch.zeros(2, 3, dtype=torch.long, device="meta")
    return inputs


FAMILY = Family(name="speech_to_text", dry_inputs=_inputs)
