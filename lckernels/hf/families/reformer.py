"""Reformer: rows longer than a chunk are padded to whole chunks, and hashes over the row sort its tokens."""

from torch import nn
from transformers import PreTrainedModel

from lckernels.hf.family import Family


def _equal_rows(module: nn.Module) -> str:
    if not isinstance(module, PreTrainedModel):
        return ""
    return "its chunks of attention depend on the length that rows are padded to"


FAMILY = Family(name="reformer", equal_rows=_equal_rows)
