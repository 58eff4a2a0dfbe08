"""The model of a command: GGUF files, and a model without weights from its config."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lckernels.errors import InputError
from lckernels.extras import import_extra

if TYPE_CHECKING:
    from torch import nn

GGUF_EXTRAS = dict.fromkeys(("gguf", "accelerate"), "gguf")


def check_gguf(model: str, gguf_file: str | None) -> None:
    """Checks the option --gguf-file of commands that have it.

    Raises:
        InputError: `model` is a GGUF file, or a folder with GGUF files and no config.json, and no `gguf_file`
            is given; the message has the options to add.
    """
    found = _gguf_files(model)
    if found and Path(model).is_file():
        place = f"{found[0].parent} --gguf-file {found[0].name}"
        raise InputError(f"the model {model} is a GGUF file; expected its folder, and the file: {place}")
    if found and gguf_file is None:
        names = ", ".join(path.name for path in found[:3])
        raise InputError(
            f"the model folder {model} has GGUF files and no config.json; add --gguf-file with one of {names}"
        )


def check_no_gguf(model: str) -> None:
    """Raises InputError for a model in a GGUF file, for commands that read none."""
    if _gguf_files(model):
        raise InputError(
            f"the model {model} is a GGUF file, which this command does not read; "
            "perplexity and explain do, with --gguf-file NAME"
        )


def _gguf_files(model: str) -> list[Path]:
    """The file itself, or the GGUF files of a folder without a config.json; empty for any other model."""
    try:
        path = Path(model).expanduser()
        if path.is_file():
            return [path] if path.suffix.lower() == ".gguf" else []
        if not path.is_dir() or (path / "config.json").exists():
            return []
        return sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
    except (OSError, RuntimeError):
        return []  # the library that loads the model raises its own error


def model_from_config(name: str, gguf_file: str | None = None) -> "nn.Module":
    """The model without a head and without weights, on the meta device.

    Args:
        name: a folder with a config.json, a config file, or a name on the Hugging Face hub.
        gguf_file: the GGUF file in the folder or repository that holds the config.

    Raises:
        InputError: no model can be made of the config.
    """
    import torch

    from lckernels.long.gguf_config import gguf_config
    from lckernels.long.loading import first_line, folder

    transformers = import_extra("transformers", "hf")
    transformers.logging.set_verbosity_error()
    is_file = os.path.isfile(name)
    if is_file and not name.endswith(".json"):
        allowed = "a folder, a config file (.json) or a name on the Hugging Face hub"
        raise InputError(f"the model {name} is a file; expected {allowed}")
    path = Path(name) if is_file else folder(name)
    if path and gguf_file and not (path / gguf_file).is_file():
        raise InputError(f"the model folder {name} has no file {gguf_file}")
    source = str(path) if path else name
    try:
        config = (
            gguf_config(source, gguf_file) if gguf_file else transformers.AutoConfig.from_pretrained(source)
        )
        with torch.device("meta"):
            return transformers.AutoModel.from_config(config)
    except Exception as error:
        # A damaged folder makes the libraries raise errors of many types.
        what = "" if path else " (no folder, so a name on the Hugging Face hub)"
        raise InputError(f"no model can be made of the config of {name}{what}: {first_line(error)}") from None


def stored_config(name: str) -> dict[str, Any]:
    """The content of the config.json of a model that `model_from_config` has made."""
    from lckernels.long.loading import folder

    path = Path(name) if os.path.isfile(name) else folder(name)
    return import_extra("transformers", "hf").PreTrainedConfig.get_config_dict(str(path or name))[0]
