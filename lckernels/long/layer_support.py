"""Which models support merge="layer": one forward over a whole sequence, attention within chunks."""

import inspect

from torch import nn

from lckernels.long.attention import cannot_be_replaced
from lckernels.long.limits import position_table

_MIXING = (nn.Conv1d, nn.Conv2d, nn.RNNBase)


def check_layer_merge(model: nn.Module) -> None:
    """Raises TypeError for a model that does not support merge="layer"."""
    why = cannot_be_replaced(model) or _not_tokenwise(model) or _not_one_row(model)
    if why:
        got = f"{type(model).__name__}, and {why[0]}"
        raise TypeError(f"model: got {got}; merge='layer' cannot run it, merge='final' can")


def _not_tokenwise(model: nn.Module) -> list[str]:
    """Why tokens do more outside attention than each on its own, or have no position of their own."""
    if position_table(model) is None:
        return ["it has no table of absolute positions"]
    parameters = inspect.signature(model.forward).parameters.values()
    if not any(p.name == "position_ids" or p.kind is p.VAR_KEYWORD for p in parameters):
        return ["it takes no position_ids"]
    if getattr(model.config, "trigram_input", False):  # MobileBERT
        return ["its embeddings mix neighbouring tokens"]
    mixing = next((type(m).__name__ for m in model.modules() if isinstance(m, _MIXING)), None)
    return [] if mixing is None else [f"its {mixing} mixes neighbouring tokens outside attention"]


def _not_one_row(model: nn.Module) -> list[str]:
    """Why a row cannot have more tokens than positions, found by a dry run; a call may find more reasons."""
    from lckernels.hf.dry_run import padded_run, whole_run

    padded, whole = padded_run(model), whole_run(model, position_table(model).num_embeddings + 1)
    narrow = padded.dense or padded.narrow
    if narrow:
        return [f"some of its layers see not all of a chunk: {narrow[0]}"]
    if whole.error and (whole.refused or not padded.error):
        return [whole.error if whole.refused else f"it cannot read a text as one row ({whole.error})"]
    unmasked = "it brings no mask" if any(call.kind is not None for call in whole.calls) else ""
    return [f"{reason} for a text in one row" for reason in (*whole.dense, unmasked) if reason][:1]
