"""The arguments of a call as one batch: validated, flattened, and gathered chunk by chunk."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lckernels.checks import bad


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs (batch, seqlen, ...); the tokens of each row are its columns [first, first + length).

    Attributes:
        shape: (batch, seqlen).
        sources: the model's arguments, (batch, seqlen, ...).
        ranges: first and lengths; None if no row has padding.
    """

    shape: tuple[int, int]
    sources: dict[str, Tensor]
    ranges: tuple[Tensor, Tensor] | None

    @property
    def num_entries(self) -> int:
        return self.shape[0] * self.shape[1]

    @cached_property
    def first(self) -> Tensor:
        """(batch,) int64 on the CPU, the column of each row's first token."""
        return torch.zeros(self.shape[0], dtype=torch.int64, device="cpu") if self.whole else self.ranges[0]

    @cached_property
    def lengths(self) -> Tensor:
        """(batch,) int64 on the CPU, the tokens of each row, special tokens included."""
        return torch.full(self.shape[:1], self.shape[1], device="cpu") if self.whole else self.ranges[1]

    @property
    def whole(self) -> bool:
        """Whether no row has padding."""
        return self.ranges is None

    @property
    def readable_ids(self) -> Tensor | None:
        """The token ids if they are on the CPU and have values, which fake tensors do not; else None."""
        ids = self.sources.get("input_ids")
        return ids if type(ids) is Tensor and ids.device.type == "cpu" else None

    @property
    def flat_first(self) -> Tensor:
        """(batch,) int64, the entry of each row's first token."""
        return self.first + torch.arange(self.shape[0], device="cpu") * self.shape[1]

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """The model's arguments (batch, seqlen, ...) on its device."""
        return {name: source.to(device) for name, source in self.sources.items()}

    def entries(self, device: torch.device, prefix: Tensor, model: nn.Module) -> "Entries":
        """The flattened arguments on the model's device, then the prefix and one entry of padding."""
        extra = {}
        if "input_ids" in self.sources:
            pad = getattr(model.config, "pad_token_id", None) or 0
            extra["input_ids"] = torch.cat([prefix, prefix.new_tensor([pad])])
        if "token_type_ids" in self.sources:
            extra["token_type_ids"] = prefix.new_zeros(len(prefix) + 1)
        if "inputs_embeds" in self.sources and len(prefix):
            scale = getattr(model, "embed_scale", 1)  # Pegasus and Marian scale the embeddings of ids alone
            if scale != 1:
                got = f"embeddings, and a prefix of ids, whose embeddings the model scales by {scale:.4g}"
                raise bad("inputs_embeds", got, "pass input_ids")
            rows = model.get_input_embeddings()(prefix.to(device))
            extra["inputs_embeds"] = torch.cat([rows, torch.zeros_like(rows[:1])])
        sources = {name: source.flatten(0, 1) for name, source in self.on(device).items()}
        for name, rows in extra.items():
            sources[name] = torch.cat([sources[name], rows.to(device, sources[name].dtype)])
        return Entries(sources, device)

    def first_tokens(self, count: int) -> dict[str, Tensor]:
        """The model's arguments for at most `count` first tokens of the first row, (1, tokens, ...)."""
        start = int(self.first[0])
        stop = start + min(int(self.lengths[0]), count)
        return {name: source[:1, start:stop] for name, source in self.sources.items()}

    def unpack(self, packed: Tensor) -> Tensor:
        """(total_len, dim) -> (batch, seqlen, dim), zero in padding."""
        batch, seqlen = self.shape
        if packed.shape[0] == self.num_entries:
            return packed.view(batch, seqlen, -1)
        ends = self.lengths.cumsum(0)
        shift = self.flat_first - (ends - self.lengths)
        index = torch.arange(packed.shape[0], device="cpu") + shift.repeat_interleave(self.lengths)
        rows = packed.new_zeros(self.num_entries, packed.shape[1])
        return rows.index_copy_(0, index.to(packed.device), packed).view(batch, seqlen, -1)


@dataclass(frozen=True, eq=False)
class Entries:
    """A flattened batch, which `Chunks.index` indexes: its entries, the prefix, one entry of padding.

    Attributes:
        sources: the model's arguments, (num_entries, ...).
        device: of the sources.
    """

    sources: dict[str, Tensor]
    device: torch.device

    def gather(self, index: Tensor, widths: list[int]) -> dict[str, Tensor]:
        """The model's arguments for chunks: index (rows, width); a mask is added only where widths differ."""
        inputs = {}
        for name, source in self.sources.items():
            # Embeddings are not copied to append a row of padding: the mask makes padding zero.
            entries = index.flatten().clamp(max=len(source) - 1)
            inputs[name] = source.index_select(0, entries).view(*index.shape, *source.shape[1:])
        if min(widths) < index.shape[1]:
            lengths = torch.tensor(widths, device=index.device)
            mask = torch.arange(index.shape[1], device=index.device) < lengths[:, None]
            inputs["attention_mask"] = mask.long()
            if "inputs_embeds" in inputs:
                inputs["inputs_embeds"] = torch.where(mask[..., None], inputs["inputs_embeds"], 0)
        return inputs


def read_batch(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    num_special: int,
) -> Batch:
    """The batch of a call's arguments. Raises ValueError naming the argument and the row."""
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"input_ids, inputs_embeds: got {given}; expected one of the two")
    name, source = ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
    rank = 2 if inputs_embeds is None else 3
    shape = tuple(source.shape)
    dims = "(batch, seqlen)" if rank == 2 else "(batch, seqlen, dim)"
    if source.dim() != rank or source.numel() == 0:
        raise bad(name, f"shape {shape}", f"expected {dims}, not empty")
    if source.is_floating_point() != (rank == 3) or source.dtype == torch.bool:
        raise bad(name, f"dtype {source.dtype}", f"expected {'integers' if rank == 2 else 'floating point'}")
    sources = {name: source}
    if token_type_ids is not None:
        _same_shape("token_type_ids", token_type_ids, shape[:2], name)
        sources["token_type_ids"] = token_type_ids
    ranges = None if attention_mask is None else token_ranges(attention_mask, shape[:2], name)
    short = [] if ranges is None else (ranges[1] < num_special).nonzero()
    if len(short) or shape[1] < num_special:
        row = int(short[0]) if len(short) else 0
        tokens = int(ranges[1][row]) if ranges else shape[1]
        got = f"row {row} with {tokens} tokens"
        raise bad(name, got, f"expected at least the {num_special} special tokens")
    return Batch(shape[:2], sources, ranges)


def check_token_ids(batch: Batch, model: nn.Module) -> None:
    """Checks that token ids on the CPU are rows of the model's embedding; elsewhere that would synchronize.

    A model whose embedding has another size than config.vocab_size is not checked: it may map its ids first.

    Raises:
        ValueError: an id outside padding is outside the embedding.
    """
    ids, vocab_size = batch.readable_ids, num_token_ids(model)
    if ids is None or vocab_size is None:
        return
    low, high = torch.aminmax(ids)
    if low.item() >= 0 and high.item() < vocab_size:
        return
    for row in ((ids < 0) | (ids >= vocab_size)).any(1).nonzero().flatten().tolist():
        first = int(batch.first[row])
        tokens = ids[row, first : first + int(batch.lengths[row])]
        outside = tokens[(tokens < 0) | (tokens >= vocab_size)]
        if len(outside):
            got = f"token id {int(outside[0])} in row {row}"
            raise bad("input_ids", got, f"the model's embedding has the ids 0 to {vocab_size - 1}")


def check_prefix(prefix: Tensor, model: nn.Module) -> None:
    """Raises ValueError for ids outside the model's embedding; not checked where `check_token_ids` is not."""
    vocab_size = num_token_ids(model)
    if vocab_size is None or not len(prefix) or type(prefix) is not Tensor:
        return
    outside = prefix[(prefix < 0) | (prefix >= vocab_size)]
    if len(outside):
        got = f"token id {int(outside[0])}"
        raise bad("prefix", got, f"the model's embedding has the ids 0 to {vocab_size - 1}")


def check_embeds(batch: Batch, model: nn.Module) -> None:
    """Raises ValueError for embeddings of another size than those of the model's token ids."""
    embeds = batch.sources.get("inputs_embeds")
    size = _of_embedding(model, "embedding_dim")
    if embeds is not None and size not in (None, embeds.shape[2]):
        got = f"shape {tuple(embeds.shape)}"
        raise bad("inputs_embeds", got, f"the model's embeddings have {size} values")


def num_token_ids(model: nn.Module) -> int | None:
    """The ids of the model; None if they are not the rows of its embedding."""
    vocab_size = getattr(model.config, "vocab_size", None)
    return vocab_size if vocab_size is not None and embedding_size(model) == vocab_size else None


def embedding_size(model: nn.Module) -> int | None:
    """The number of rows of the model's embedding of token ids; None if it has no such table."""
    return _of_embedding(model, "num_embeddings")


def _of_embedding(model: nn.Module, name: str) -> int | None:
    """An attribute of the model's embedding of token ids; None if it has no such table."""
    with suppress(AttributeError, NotImplementedError):  # transformers raises for a model of characters
        return getattr(model.get_input_embeddings(), name, None)
    return None


def _same_shape(argument: str, x: Tensor, shape: tuple[int, int], name: str) -> None:
    if tuple(x.shape) != shape:
        raise bad(argument, f"shape {tuple(x.shape)}", f"{name} has (batch, seqlen) = {shape}")


def token_ranges(
    mask: Tensor, shape: tuple[int, int], name: str, allow_empty: bool = False
) -> tuple[Tensor, Tensor] | None:
    """First column and number of tokens of each row; None if the mask has no padding.

    Raises ValueError for padding between a row's tokens, and unless allow_empty for a row without tokens.
    """
    _same_shape("attention_mask", mask, shape, name)
    mask = mask.detach().cpu()
    low, high = (x.item() for x in torch.aminmax(mask))
    if low == high == 1:
        return None
    if not ((mask == 0) | (mask == 1)).all():
        raise bad("attention_mask", "values beside 0 and 1", "expected 1 for tokens and 0 for padding")
    mask = mask.to(torch.uint8)
    lengths = mask.sum(1, dtype=torch.long)
    empty = (lengths == 0).nonzero()
    if len(empty) and not allow_empty:
        got = f"row {int(empty[0])} with padding only, an empty sequence"
        raise bad("attention_mask", got, "expected at least one token")
    first = mask.argmax(1)
    column = torch.arange(shape[1], device="cpu")
    inside = (column >= first[:, None]) & (column < (first + lengths)[:, None])
    holes = (inside & (mask == 0)).nonzero()
    if len(holes):
        row, at = holes[0].tolist()
        got = f"row {row} with padding in the middle, at column {at}"
        raise bad("attention_mask", got, "expected padding at the ends only")
    return first, lengths
