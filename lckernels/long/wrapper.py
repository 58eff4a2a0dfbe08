"""A module around one encoder of transformers: loading, saving, and the encoder's own attributes."""

import inspect
import os
import warnings
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from lckernels.devices import any_weight, execution_device
from lckernels.extras import import_extra
from lckernels.long.checkpoints import dropped_head
from lckernels.long.linear import LinearContexts
from lckernels.long.loading import folder

if TYPE_CHECKING:
    from lckernels.hf.linear_report import LinearReport


class EncoderWrapper(nn.Module):
    """The parts of LongEncoder that concern the encoder alone.

    Attributes:
        model: the encoder.
        prefix: token ids, a buffer that is not saved.
    """

    model: nn.Module
    prefix: Tensor
    _linear_contexts: LinearContexts

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, *, model_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> Self:
        """Loads an encoder with AutoModel.from_pretrained, in eval mode, and wraps it.

        Args:
            path: a folder, or a name on the Hugging Face hub.
            model_kwargs: arguments of AutoModel.from_pretrained.
            kwargs: arguments of LongEncoder; all others (dtype, device_map, revision, ...) are passed to
                AutoModel.from_pretrained too.

        Raises:
            InputError: `path` is a path and no folder.
            TypeError: an argument of neither LongEncoder nor the model.

        Warns:
            UserWarning: the checkpoint has a task head (a classifier, a tagger, ...), which is not loaded.
        """
        transformers = import_extra("transformers", "hf")
        folder(os.fspath(path))  # raises for a path that does not exist, which is no name on the hub
        own = [name for name in inspect.signature(cls).parameters if name != "model"]
        options = {name: kwargs.pop(name) for name in list(kwargs) if name in own}
        try:
            model = transformers.AutoModel.from_pretrained(path, **(model_kwargs or {}), **kwargs)
        except TypeError as error:
            unknown = next((name for name in kwargs if f"'{name}'" in str(error)), None)
            if unknown is None:
                raise
            allowed = f"expected an argument of AutoModel.from_pretrained or one of {', '.join(own)}"
            raise TypeError(f"{unknown}: got an unknown argument; {allowed}") from error
        dropped = dropped_head(path, model.config)
        if dropped:
            warnings.warn(dropped, stacklevel=2)
        return cls(model, **options)

    def save_pretrained(self, path: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the wrapped model. The options of LongEncoder are not stored; see `options`."""
        self.model.save_pretrained(path, **kwargs)

    @property
    def config(self) -> Any:
        """The wrapped model's config."""
        return self.model.config

    @property
    def linear_report(self) -> "LinearReport | None":
        """With linear="packed" the linear layers, from the first call on; else None."""
        return self._linear_contexts.report

    @property
    def device(self) -> torch.device:
        """Where the model computes; of offloaded weights the device that they are copied to."""
        weight = any_weight(self.model)
        return execution_device(self.model, self.prefix if weight is None else weight)

    @property
    def dtype(self) -> torch.dtype:
        weight = any_weight(self.model)
        return torch.get_default_dtype() if weight is None else weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()
