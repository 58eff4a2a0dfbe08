"""Which models support merge="layer": one forward over a whole sequence, attention within chunks."""

import inspect

from torch import nn

from lckernels.long.positions import position_table
from lckernels.prompts import num_prefix_keys


def check_layer_merge(model: nn.Module) -> None:
    """Raises TypeError for a model that does not support merge="layer"."""
    from lckernels.hf.support import unsupported_reasons

    why = unsupported_reasons(model) or _not_tokenwise(model) or _narrowed(model) or _not_one_row(model)
    if why:
        got = f"{type(model).__name__}, and {why[0]}"
        raise TypeError(f"model: got {got}; merge='layer' does not support it, merge='final' does")


def _not_tokenwise(model: nn.Module) -> list[str]:
    """Why tokens do more outside attention than each on its own, or have no position of their own."""
    from lckernels.hf.reach import mixing

    if num_prefix_keys(model):
        return ["PEFT's prefix tuning adds keys to each layer"]
    if position_table(model) is None:
        return ["it has no table of absolute positions"]
    parameters = inspect.signature(model.forward).parameters.values()
    if not any(p.name == "position_ids" or p.kind is p.VAR_KEYWORD for p in parameters):
        return ["its forward has no position_ids"]
    mixes = mixing(model)
    return [mixes] if mixes else []


def _narrowed(model: nn.Module) -> list[str]:
    """Whether a patch gave its attention a window."""
    from lckernels.hf.calls import NARROWED
    from lckernels.hf.settings import settings_of

    return [NARROWED] if any(settings_of(m).window is not None for m in model.modules()) else []


def _not_one_row(model: nn.Module) -> list[str]:
    """Why a row cannot have more tokens than positions, found by a dry run; a call may find more reasons."""
    from lckernels.hf.patch.dry_run import padded_dry_run, row_dry_run

    padded, whole = padded_dry_run(model), row_dry_run(model, position_table(model).num_embeddings + 1)
    narrow = padded.dense or padded.restricted
    if narrow:
        return [f"some of its layers attend to less than a chunk: {narrow[0]}"]
    if whole.error and (whole.unsupported or not padded.error):
        return [whole.error if whole.unsupported else f"it cannot read a sequence as one row ({whole.error})"]
    unmasked = "its attention gets no mask" if any(call.kind is not None for call in whole.calls) else ""
    return [f"{reason} for a sequence in one row" for reason in (*whole.dense, unmasked) if reason][:1]
