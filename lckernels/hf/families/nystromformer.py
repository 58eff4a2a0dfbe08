"""Nystromformer: with landmarks a row has one length; other rows are mixed with each other, or an error."""

from torch import nn
from transformers import PreTrainedModel

from lckernels.hf.family import Family


def _has_landmarks(module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    return isinstance(module, PreTrainedModel) and config.num_landmarks != config.segment_means_seq_len


def _fixed_rows(module: nn.Module) -> tuple[int, str] | None:
    if not _has_landmarks(module):
        return None
    tokens = module.config.segment_means_seq_len
    return tokens, f"segment_means_seq_len {tokens} fixes the length of a row"


def _single_rows(module: nn.Module) -> str:
    return "the landmarks of all rows of a batch share one maximum" if _has_landmarks(module) else ""


FAMILY = Family(name="nystromformer", fixed_rows=_fixed_rows, single_rows=_single_rows)
