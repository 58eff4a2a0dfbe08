"""BigBird and BigBird-Pegasus: a call with a short row changes the model to full attention from then on."""

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel

from lckernels.hf.family import Family

_SPARSE = "block_sparse"


def _is_member(cls: type) -> bool:
    modules = {base.__module__.rpartition(".")[2] for base in cls.__mro__}
    ours = not modules.isdisjoint(("modeling_big_bird", "modeling_bigbird_pegasus"))
    return ours and issubclass(cls, PreTrainedModel) and hasattr(cls, "set_attention_type")


def _equal_rows(model: nn.Module) -> str:
    if model.attention_type != _SPARSE:
        return ""
    return "its sparse attention depends on the length that rows are padded to, and is full for short rows"


def _left_out(model: nn.Module) -> str:
    if model.attention_type != _SPARSE:
        return ""
    return (
        "its block-sparse attention has code of its own: each training step draws its random blocks, outside "
        "training all of them are the first block, whose keys then count 1 + num_random_blocks times, and a "
        "short row changes the model to full attention"
    )


def _restore(model: nn.Module) -> Callable[[], None] | None:
    if model.attention_type != _SPARSE:
        return None
    layers = (module for module in model.modules() if hasattr(module, "attention_type"))
    before = [(layer, layer.attention_type, layer._modules.get("self")) for layer in layers]

    def undo() -> None:
        for layer, attention_type, attention in before:
            layer.attention_type = attention_type
            if attention is not None:
                layer.self = attention

    return undo


FAMILY = Family(
    name="big_bird", matches=_is_member, equal_rows=_equal_rows, restore=_restore, left_out=_left_out
)
