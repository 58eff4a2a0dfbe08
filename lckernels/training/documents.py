"""The arguments of a call: documents of a padded batch, and their labels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lckernels.checks import bad, number
from lckernels.long.batches import token_ranges

IGNORED = -100  # a label that is not scored
_WHY_NOT = {
    "inputs_embeds": "expected input_ids",
    "position_ids": "each chunk has the positions from the first on",
    "output_attentions": "each chunk has attention weights of its own",
    "output_hidden_states": "only the states that are scored are kept",
    "past_key_values": "a cache is not supported",
    "cache": "a cache is not supported",
    "logits_to_keep": "no logits are kept",
    "shift_labels": "pass labels, which are shifted within each document",
}


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents of a batch (batch, seqlen); each has the columns [first, first + length) of its row.

    Attributes:
        shape: (batch, seqlen).
        first: (batch,) int64 on the CPU.
        lengths: (batch,) int64 on the CPU; 0 for an empty document.
        sources: arguments of the model, flattened (num_entries + 1, ...), the last entry for padding.
        labels: (num_entries,) int64, on the device of `input_ids`.
        has_label: (num_entries + 1,) bool on the CPU: whether the entry has a label that is scored.
    """

    shape: tuple[int, int]
    first: Tensor
    lengths: Tensor
    sources: dict[str, Tensor]
    labels: Tensor
    has_label: Tensor

    @property
    def num_entries(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def flat_first(self) -> Tensor:
        """(batch,) int64, the entry of each document's first token."""
        return self.first + torch.arange(self.shape[0], device="cpu") * self.shape[1]

    def inputs(self, index: Tensor, widths: list[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        """The model's arguments for chunks, index (rows, width), and their mask if some are shorter."""
        device = self.labels.device
        entries = index.to(device)
        found = {name: source[entries] for name, source in self.sources.items()}
        if min(widths) == index.shape[1]:
            return found, None
        lengths = torch.tensor(widths, device=device)
        return found, (torch.arange(index.shape[1], device=device) < lengths[:, None]).long()


def read_documents(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    kwargs: dict[str, Any],
    device: torch.device,
    pad_token_id: int,
    vocab_size: int,
    num_special: int = 0,
) -> Documents:
    """The documents of a call.

    Args:
        input_ids: (batch, seqlen) integers.
        attention_mask: (batch, seqlen), 1 for tokens, 0 for padding at the ends of a row; or None.
        labels: (batch, seqlen) integers, -100 where no token is scored.
        kwargs: further arguments; a tensor (batch, seqlen, ...) has an entry per token.
        device: of the model's inputs.
        pad_token_id: what padding reads.
        vocab_size: of the model's head.
        num_special: special tokens of each document that is not empty.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: shapes that do not fit, padding between tokens, a label that is no id or on padding,
            an argument that chunks do not support.
    """
    shape = _check("input_ids", input_ids, None)
    _check("labels", labels, shape)
    check_unsupported(kwargs)
    first, lengths = (
        torch.zeros(shape[0], dtype=torch.int64, device="cpu"),
        torch.full(shape[:1], shape[1], device="cpu"),
    )
    if attention_mask is not None:
        _check("attention_mask", attention_mask, shape)
    if attention_mask is not None and input_ids.numel():
        ranges = token_ranges(attention_mask, shape, "input_ids", allow_empty=True)
        first, lengths = (first, lengths) if ranges is None else ranges
    short = ((lengths > 0) & (lengths < num_special)).nonzero()
    if len(short):
        got = f"row {int(short[0])} with {int(lengths[short[0]])} tokens"
        raise bad("input_ids", got, f"expected at least the {num_special} special tokens")
    values = labels.detach().cpu()
    has_label = values != IGNORED
    unknown = (has_label & ((values < 0) | (values >= vocab_size))).nonzero()
    if len(unknown):
        row, at = unknown[0].tolist()
        got = f"{int(values[row, at])} in row {row}, at column {at}"
        raise bad("labels", got, f"expected ids from 0 to {vocab_size - 1}, or {IGNORED}")
    column = torch.arange(shape[1], device="cpu")
    outside = (column < first[:, None]) | (column >= (first + lengths)[:, None])
    wrong = (has_label & outside).nonzero()
    if len(wrong):
        row, at = wrong[0].tolist()
        got = f"label {int(values[row, at])} on the padding of row {row}, at column {at}"
        raise bad("labels", got, f"expected {IGNORED} there, as DataCollatorForLanguageModeling returns it")
    sources = {"input_ids": _flat(input_ids, device, pad_token_id)}
    for name, value in per_token(kwargs, shape).items():
        sources[name] = _flat(value, device, 0)
    flat = torch.cat([has_label.flatten(), torch.zeros(1, dtype=torch.bool, device="cpu")])
    return Documents(shape, first, lengths, sources, labels.flatten().to(device, torch.int64), flat)


def per_token(kwargs: dict[str, Any], shape: tuple[int, int]) -> dict[str, Tensor]:
    """The arguments that have an entry per token."""
    return {name: x for name, x in kwargs.items() if isinstance(x, Tensor) and tuple(x.shape[:2]) == shape}


def check_unsupported(kwargs: dict[str, Any]) -> None:
    """Raises ValueError for an argument that chunks do not support."""
    for name, why in _WHY_NOT.items():
        value = kwargs.get(name)
        is_default = value is None or (isinstance(value, int) and value == 0)
        if not is_default:
            raise bad(name, type(value).__name__, why)


def divisor(num_items_in_batch: Any, count: int) -> float:
    """What a sum of losses is divided by, > 0.

    Args:
        num_items_in_batch: a number as Trainer passes it: 0-d, or (devices, 1) under DataParallel; 0 where no
            batch of a step has a label. None: count.
        count: tokens that this batch scores.

    Raises:
        TypeError: no number.
        ValueError: a number that is negative, not finite, or 0 where a token is scored.
    """
    name, x = "num_items_in_batch", num_items_in_batch
    if x is None:
        return count or 1
    if isinstance(x, Tensor):
        if not x.numel() or x.dtype == torch.bool or x.is_complex():
            raise TypeError(f"{name}: got shape {tuple(x.shape)} of {x.dtype}; expected one number")
        x = x.flatten()[0].item()
    number(name, x, 0)
    if count and x == 0:
        got = f"0 for a batch with {count} scored tokens"
        raise bad(name, got, "expected the scored tokens of all batches of a step")
    return x or 1


def _check(name: str, x: object, shape: tuple[int, int] | None) -> tuple[int, int]:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}; expected a torch.Tensor (batch, seqlen)")
    if x.dim() != 2 or (shape is not None and tuple(x.shape) != shape):
        expected = "(batch, seqlen)" if shape is None else f"that of input_ids, {shape}"
        raise bad(name, f"shape {tuple(x.shape)}", f"expected {expected}")
    if name != "attention_mask" and (x.is_floating_point() or x.dtype == torch.bool):
        raise bad(name, f"dtype {x.dtype}", "expected integers")
    return tuple(x.shape)


def _flat(x: Tensor, device: torch.device, padding: int) -> Tensor:
    flat = x.to(device).flatten(0, 1)
    return torch.cat([flat, flat.new_full((1, *flat.shape[1:]), padding)])
