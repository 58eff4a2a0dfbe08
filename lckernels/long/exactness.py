"""halo="exact": chunks in which every token that is kept has all that its state depends on.

`lckernels.hf` is imported within functions, since it requires transformers; other modules do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.long.encoder_check import is_transformers_model
from lckernels.long.rotary import rope_by_length
from lckernels.long.short_rows import RunError, ShortRows, are_numbers
from lckernels.long.sizes import Chunking
from lckernels.long.trial import eval_mode, trial_copy, undisturbed
from lckernels.prompts import num_prefix_keys

if TYPE_CHECKING:
    from lckernels.hf.reach import Reach
    from lckernels.long.encoder import LongEncoder

EXACT = "exact"
_COPIES = "tokens that every chunk reads are not there in the whole row"


def model_reach(model: nn.Module) -> "Reach | None":
    """How many tokens each layer of the model attends to; None for one that is no model of transformers."""
    if not is_transformers_model(model):
        return None
    from lckernels.hf.reach import model_reach as found

    return found(model)


def check_options(halo: str | None, prefix: Sequence[int], **options: Any) -> None:
    """Raises ValueError for an unknown halo, or with "exact" for an option with which no halo is exact.

    Args:
        halo: as in LongEncoder.
        prefix: token ids.
        options: overlap, weights, boundaries and merge, with their defaults for this halo.
    """
    if halo not in (None, EXACT):
        raise bad("halo", repr(halo), f"expected None or {EXACT!r}")
    if halo is None:
        return
    if options["overlap"] is not None:
        raise bad("overlap", options["overlap"], "halo='exact' sets it; expected None")
    for name, allowed in (("weights", "crop"), ("boundaries", "sled"), ("merge", "final")):
        value = options[name]
        if not isinstance(value, str) or value != allowed:
            got = repr(value) if isinstance(value, str) else type(value).__name__
            raise bad(name, got, f"halo='exact' requires {allowed!r}")
    if len(prefix):
        raise bad("prefix", f"{len(prefix)} token ids", f"halo='exact' requires none: {_COPIES}")


def exact_chunking(model: nn.Module, chunking: Chunking) -> Chunking:
    """The sizes with the least overlap that is exact.

    Raises:
        ValueError: special tokens in every chunk, a chunk that is too short, or a model whose states depend
            on more than a window.
    """
    special = chunking.num_leading, chunking.num_trailing
    if special != (0, 0):
        raise bad("special_tokens", special, f"halo='exact' requires (0, 0): {_COPIES}")
    overlap = exact_overlap(model)
    if chunking.chunk_len <= overlap:
        raise bad(
            "chunk_len", chunking.chunk_len, f"halo='exact' requires more than {overlap}: {_half(model)}"
        )
    return replace(chunking, overlap=overlap, overlap_given=True)


def _half(model: nn.Module) -> str:
    return f"the model's reach to both sides ({model_reach(model)})"


def exact_overlap(model: nn.Module) -> int:
    """The least overlap of chunks with which half of it has the reach of the model to each side.

    Raises:
        ValueError: no overlap is enough for this model.
    """
    reach = model_reach(model)
    why = _unbounded(model, reach)
    if why:
        raise _inexact(model, why)
    before, after = reach.total
    # Of an odd overlap the smaller half is before the tokens that a chunk keeps.
    return max(2 * before, 2 * after - 1, 0)


def _unbounded(model: nn.Module, reach: "Reach | None") -> str:
    """Why no halo is enough; empty if one is."""
    if reach is None:
        return "it is no model of transformers, so that the reach of its layers is not known"
    if reach.unknown:
        return f"the reach of its layers is not known: {reach.unknown}"
    if reach.unbounded:
        layer, count = reach.unbounded[0], len(reach.unbounded)
        others = f" (as {count - 1} more)" if count > 1 else ""
        return f"{layer.layer}{others} {layer.reason}"
    if num_prefix_keys(model):
        return "PEFT's prefix tuning adds keys to each layer"
    by_length = rope_by_length(model)
    return f"its rope_type {by_length!r} depends on the length of a row" if by_length else ""


def _inexact(model: nn.Module, why: str) -> ValueError:
    return bad("halo", "'exact'", f"{type(model).__name__} does not support it: {why}")


def try_positions(model: nn.Module) -> bool:
    """Checks on copies, which share the model's weights, that only its attention mixes tokens, by distance.

    Returns:
        False if copies have no values: `try_positions_at_call` checks the model itself.

    Raises:
        ValueError: a state depends on its position in a row, or on other tokens without attention.
    """
    copied, local = trial_copy(model), trial_copy(model, whole_configs=True)
    if copied is None or local is None:
        return False
    from lckernels.hf.without_attention import remove_attention

    remove_attention(local)
    device = next(copied.parameters()).device
    try:
        rows = ShortRows(copied, device)
        if type(rows.text) is not Tensor:  # under FakeTensorMode nothing can be compared
            return False
        with undisturbed(device):
            if not are_numbers(rows.states(rows.text)):  # the weights may be loaded later
                return False
            mixed = ShortRows(local, device).are_mixed()
            why = "tokens change each other's states outside attention too" if mixed else ""
            why = why or rows.depend_on_position()
    except RunError as error:
        why = f"a trial run is not possible ({error})"
    if why:
        raise _inexact(model, why)
    return True


def check_call(encoder: "LongEncoder", tried: bool) -> bool:
    """Checks that the halo is still enough, and where positions could not be tried yet, tries them.

    Args:
        encoder: with halo="exact".
        tried: whether positions have been tried.

    Returns:
        Whether they have now.

    Raises:
        ValueError: the model does not support the halo, or has changed since construction.
    """
    model, overlap = encoder.model, exact_overlap(encoder.model)
    if overlap > encoder.overlap:
        changed = f"its layers reach further than at construction: {model_reach(model)}"
        raise _inexact(model, f"{changed}; the overlap of {encoder.overlap} is too short")
    return tried or try_positions_at_call(model, encoder.device, encoder._model_call)


def try_positions_at_call(model: nn.Module, device: torch.device, call: Callable[..., Any]) -> bool:
    """The check of positions in the model itself, with its hooks; else as `try_positions`.

    Args:
        model: the model.
        device: of the rows.
        call: what runs the model.
    """
    try:
        rows = ShortRows(model, device, call)
        if type(rows.text) is not Tensor or device.type == "meta":
            return False
        with eval_mode(model), undisturbed(device):
            why = rows.depend_on_position()
    except RunError as error:
        why = f"a trial run is not possible ({error})"
    if why:
        raise _inexact(model, why)
    return True
