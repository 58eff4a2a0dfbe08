"""The library's dataclasses as pytrees of torch: arguments of exported models, and torch's tree functions."""

import torch


def register_pytree(cls: type) -> None:
    """Makes a dataclass a pytree: its tensors and numbers are leaves, None is none.

    torch.export saves it under the name `lckernels.<class>`.
    """
    torch.export.register_dataclass(cls, serialized_type_name=f"lckernels.{cls.__name__}")
