"""Arguments of a call that are no tensors: lists and arrays, also with rows of different length."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lckernels.checks import bad

Numbers = Tensor | Sequence[Any]  # or an array; a sequence has a row per text
_MAIN = ("input_ids", "inputs_embeds")
_OTHERS = ("attention_mask", "token_type_ids")
_WHY_NOT = {
    "output_attentions": ": each chunk has attention weights of its own",
    "position_ids": ": each chunk has the positions from the first on",
}


def as_tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with tensors for lists and arrays.

    Rows of different length are padded on the right with zeros; without an attention_mask they get one, 1 for
    their tokens.

    Args:
        inputs: arguments of a call by name; all but the input, its mask and its types stay as they are.

    Raises:
        TypeError: an argument holds no numbers.
        ValueError: mask or types have rows of other lengths than the input.
    """
    given = {name: inputs[name] for name in (*_MAIN, *_OTHERS) if inputs.get(name) is not None}
    if all(isinstance(value, Tensor) for value in given.values()):
        return dict(inputs)
    rows = {name: _rows(name, value) for name, value in given.items()}
    tensors = {name: _padded(name, of_name) for name, of_name in rows.items()}
    main = next((name for name in _MAIN if name in rows), None)
    if main is None or any(tensor.dim() < 2 for tensor in tensors.values()):
        return {**inputs, **tensors}
    lengths = [len(row) for row in rows[main]]
    for name in _OTHERS:
        others = [len(row) for row in rows.get(name, rows[main])]
        if len(others) == len(lengths) and others != lengths:
            i = next(i for i, pair in enumerate(zip(others, lengths, strict=True)) if pair[0] != pair[1])
            raise bad(name, f"row {i} with {others[i]} tokens", f"{main} has {lengths[i]} in it")
    if len(set(lengths)) > 1 and "attention_mask" not in rows:
        column = torch.arange(max(lengths), device="cpu")
        tensors["attention_mask"] = (column < torch.tensor(lengths, device="cpu")[:, None]).long()
    return {**inputs, **tensors}


def check_unsupported(kind: str, arguments: Mapping[str, Any], config: Any) -> None:
    """Raises ValueError for an argument that is neither None nor False, and for attentions of the config.

    Args:
        kind: what does not support them, for the message.
        arguments: by name.
        config: of the model.
    """
    attentions = getattr(config, "output_attentions", None) is True
    given = {"output_attentions": True} if attentions and "output_attentions" not in arguments else {}
    for name, value in {**arguments, **given}.items():
        if value is not None and value is not False:
            got = f"{value} in the config" if name in given else type(value).__name__
            raise bad(name, got, f"{kind} does not support it{_WHY_NOT.get(name, '')}")


def expected_shape(name: str) -> str:
    """The shape and the kind of an argument, in words."""
    return "(batch, seqlen, dim) floating point" if name == "inputs_embeds" else "(batch, seqlen) integers"


def _rows(name: str, value: object) -> Tensor | list[Tensor]:
    """The rows of an argument, a tensor each; those of a tensor are the tensor itself."""
    if isinstance(value, Tensor):
        return value
    expected = f"expected {expected_shape(name)}: a tensor, an array or lists"
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        hint = "; pass a tokenizer's output as encoder(**inputs)" if isinstance(value, Mapping) else ""
        raise TypeError(f"{name}: got {type(value).__name__}; {expected}{hint}")
    rows = []
    for i, row in enumerate(value):
        try:
            tensor = row if isinstance(row, Tensor) else torch.tensor(row, device="cpu")
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise TypeError(f"{name}: got {type(row).__name__} for row {i}; {expected}") from None
        integers = not tensor.is_floating_point() and tensor.dtype != torch.bool
        rows.append(tensor.long() if integers else tensor)
    return rows


def _padded(name: str, rows: Tensor | list[Tensor]) -> Tensor:
    """The rows as one tensor, shorter ones with zeros on the right."""
    if isinstance(rows, Tensor):
        return rows
    if not rows or rows[0].dim() == 0:
        return torch.zeros(len(rows), dtype=torch.int64, device="cpu")
    like = next((row for row in rows if row.numel()), rows[0])
    rows = [row if row.numel() else like[:0] for row in rows]
    for i, row in enumerate(rows):
        if row.dtype != like.dtype or row.shape[1:] != like.shape[1:]:
            got = f"row {i} of shape {tuple(row.shape)} in {row.dtype}"
            raise bad(name, got, f"another row has shape {tuple(like.shape)} in {like.dtype}")
    return pad_sequence(rows, batch_first=True)
