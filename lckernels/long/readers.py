"""Modules of sentence-transformers that read texts: without a limit, with the prompt in every chunk."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.inner_forward import OuterForward, outer_forward, unwrap_forward, wrap_forward
from lckernels.long.positions import usable_positions
from lckernels.long.text_limits import NO_LIMIT, own_limits

_CONFIG = "get_config_dict"  # method whose result a module saves and prints
_prompt_length: ContextVar[int] = ContextVar("prompt_length", default=0)


def prompt_length() -> int:
    """First tokens of each row that are its prompt, leading special tokens included; 0 without a prompt."""
    return _prompt_length.get()


def longest_chunk(encoder: nn.Module, readers: Sequence[nn.Module]) -> tuple[int, str] | None:
    """The most tokens that the encoder reads at once, and why; None without a limit.

    Args:
        encoder: of transformers.
        readers: modules of sentence-transformers that read texts with it; a limit of theirs counts.
    """
    positions = usable_positions(encoder)
    limits = (getattr(reader, "max_seq_length", None) for reader in readers)
    made_for = min((x for x in limits if isinstance(x, int)), default=NO_LIMIT)
    if made_for < (NO_LIMIT if positions is None else positions[0]):
        return made_for, "max_seq_length, which the model was made for"
    return None if positions is None else (positions[0], f"the encoder's positions: {positions[1]}")


def raise_limits(module: nn.Module, chunk_len: int, model: nn.Module) -> None:
    """The module does not truncate a text; what it saves and prints does not change.

    Args:
        module: of sentence-transformers.
        chunk_len: tokens of a chunk of its encoder.
        model: that the module is in, or the module itself.
    """
    restore_limits(module, model)  # of a copy of which the encoder alone was restored
    raised = {name: x for name, x in _raised(module).items() if getattr(module, name) != x}
    own = {name: getattr(module, name) for name in raised}
    _set(module, raised)
    setattr(module, _CONFIG, _OwnConfig(module, own))
    wrap_forward(module, _ReaderForward(module, chunk_len))
    model.save = _Save(model, module)


def check_restorable(module: nn.Module) -> None:
    """Raises ValueError if another library has replaced the forward that `raise_limits` installed."""
    if _CONFIG in module.__dict__:
        outer_forward(module, _ReaderForward)


def restore_limits(module: nn.Module, model: nn.Module) -> None:
    """Undoes `raise_limits`, where there is one."""
    if _CONFIG in module.__dict__:
        unwrap_forward(module, _ReaderForward)
        _set(module, module.__dict__.pop(_CONFIG).own)
    for saved in (module, model):
        saved.__dict__.pop("save", None)


class _OwnConfig:
    """A module's get_config_dict that returns its own limits, not the raised ones.

    Attributes:
        module: whose limits are raised.
        own: its attributes from before.
    """

    def __init__(self, module: nn.Module, own: dict[str, Any]) -> None:
        self.module, self.own = module, own

    def __call__(self) -> dict[str, Any]:
        with self.used():
            return type(self.module).get_config_dict(self.module)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Until the end the module has its own attributes."""
        raised = {name: getattr(self.module, name) for name in self.own}
        _set(self.module, self.own)
        try:
            yield
        finally:
            _set(self.module, raised)


class _Save:
    """A model's `save` that stores its own limits, in the model card too.

    Attributes:
        model: of sentence-transformers.
        module: that reads its texts.
    """

    def __init__(self, model: nn.Module, module: nn.Module) -> None:
        self.model, self.module = model, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        config = self.module.__dict__.get(_CONFIG)  # none after `unlengthen` of the module alone
        with nullcontext() if config is None else config.used(), own_limits(self.module.tokenizer):
            return type(self.model).save(self.model, *args, **kwargs)


class _ReaderForward(OuterForward):
    """A module's forward during which `prompt_length` is that of its features.

    Attributes:
        chunk_len: tokens of a chunk of its encoder.
    """

    def __init__(self, module: nn.Module, chunk_len: int) -> None:
        super().__init__(module)
        self.chunk_len = chunk_len

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        features = args[0] if args and isinstance(args[0], Mapping) else {}
        length = features.get("prompt_length", 0)
        # A data collator returns one number per row, all equal.
        token = _prompt_length.set(int(length[0]) if isinstance(length, Tensor) else int(length))
        try:
            if self._mixes_lengths(features):
                return self._run_apart(features, **kwargs)
            return self.inner(*args, **kwargs)
        finally:
            _prompt_length.reset(token)

    def _mixes_lengths(self, features: Mapping[str, Any]) -> bool:
        """Whether a batch has rows of several chunks, and queries with an expansion that has no attention.

        Raises:
            ValueError: the expansion of a query is longer than a chunk.
        """
        expanded, mask = features.get("query_expansion_positions"), features.get("attention_mask")
        if expanded is None or mask is None or mask.shape[1] <= self.chunk_len:
            return False
        expanded = expanded & (mask == 0)
        if expanded[:, self.chunk_len :].any():
            allowed = f"expected at most chunk_len, {self.chunk_len}"
            raise bad("query_expansion", f"length {self.module.query_expansion['length']}", allowed)
        return bool(expanded.any())

    def _run_apart(self, features: MutableMapping[str, Any], **kwargs: Any) -> MutableMapping[str, Any]:
        """The features after a call for the rows of one chunk, expansion included, and one for the rest."""
        mask, name = features["attention_mask"], self.module.module_output_name
        fits = mask.sum(1) <= self.chunk_len
        states = None
        for rows, width in ((fits, self.chunk_len), (~fits, mask.shape[1])):
            if not rows.any():  # padding alone is longer than a chunk
                continue
            part = {
                key: x[rows, :width] if isinstance(x, Tensor) and x.shape == mask.shape else x
                for key, x in features.items()
            }
            found = self.inner(part, **kwargs)[name]
            if states is None:
                states = found.new_zeros(*mask.shape, found.shape[-1])
            states[rows, :width] = found
        features[name] = states
        return features


def _raised(module: nn.Module) -> dict[str, Any]:
    """Attributes of the module and their values without limits, of those that it has."""
    # Texts packed in one row without a mask, as for flash attention, are one long row for the encoder.
    values: dict[str, Any] = {"can_flatten_inputs": False, "query_length": None, "document_length": None}
    if "max_seq_length" in vars(module):  # until sentence-transformers 5.3; later it is the tokenizer's
        values["max_seq_length"] = NO_LIMIT
    expansion = getattr(module, "query_expansion", None)
    if expansion is not None:
        # "fixed" truncates queries to their padded length, "min" only pads them.
        values["query_expansion"] = {**expansion, "strategy": "min"}
    processing = getattr(module, "processing_kwargs", None)
    if processing:
        values["processing_kwargs"] = {kind: _without_limit(given) for kind, given in processing.items()}
    return {name: x for name, x in values.items() if hasattr(module, name)}


def _without_limit(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a tokenizer's call without its limit, and without padding to that limit."""
    given = {name: x for name, x in given.items() if name != "max_length"}
    return given | {"padding": True} if given.get("padding") == "max_length" else given


def _set(module: nn.Module, values: dict[str, Any]) -> None:
    for name, x in values.items():
        setattr(module, name, x)
