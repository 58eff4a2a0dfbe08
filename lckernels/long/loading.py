"""A model and its tokenizer from a folder or the Hugging Face hub, complete or refused."""

import io
import re
from collections.abc import Set
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from lckernels.errors import InputError
from lckernels.extras import import_extra

# Nothing here reads it, and many encoders are stored without it.
_POOLER = re.compile(r"(^|\.)pooler\.")


def load(
    name: str, dtype: torch.dtype, auto: str = "AutoModel", gguf_file: str | None = None
) -> tuple[Any, torch.nn.Module, Set[str]]:
    """Tokenizer, model, and the names of its parameters that no file gave and are random: of a pooler only.

    auto: the class of transformers that chooses the model's. gguf_file: the file in the folder or repository
    that holds model and tokenizer; its weights are made `dtype`.

    Raises InputError when it cannot be loaded, or misses other parameters.
    """
    transformers = import_extra("transformers", "hf")
    path = folder(name)
    source = str(path) if path else name
    if path and gguf_file and not (path / gguf_file).is_file():
        raise InputError(f"the model folder {name} has no file {gguf_file}")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    import_extra("huggingface_hub", "hf").logging.set_verbosity_error()
    options = {"gguf_file": gguf_file} if gguf_file else {}
    # Reading a GGUF file shows a bar that no setting of transformers turns off.
    silence = redirect_stderr(io.StringIO()) if gguf_file else nullcontext()
    try:
        with silence:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model, loaded = getattr(transformers, auto).from_pretrained(
                source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except Exception as error:
        # A damaged folder makes the libraries raise whatever they run into.
        what = "model folder" if path else "model (no folder, so a name on the Hugging Face hub)"
        why = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise InputError(f"the {what} {name} cannot be loaded: {why}") from None
    _check_complete(name, type(model).__name__, loaded)
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer of {name} is not a fast one, so it cannot say where a token stands")
    return tokenizer, model, loaded["missing_keys"]


def folder(name: str) -> Path | None:
    """The folder that `name` is, None for a name on the hub. Raises InputError for a path to no folder."""
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:
        raise InputError(f"the model folder {name} cannot be read: {error}") from None
    if is_file:
        raise InputError(f"the model {name} is a file; expected a folder or a name on the Hugging Face hub")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"the model folder {name} does not exist")
    return None


def _check_complete(name: str, kind: str, loaded: dict[str, Any]) -> None:
    missing = sorted(key for key in loaded["missing_keys"] if not _POOLER.search(key))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"the model {name} has no weights for {', '.join(missing[:3])}{more} of {kind}")
    for key, stored, expected in sorted(loaded["mismatched_keys"]):
        shapes = f"has shape {tuple(stored)} for {key}, its config says {tuple(expected)}"
        raise InputError(f"the model {name} {shapes}")
    if loaded["error_msgs"]:
        raise InputError(f"the model {name} cannot be loaded: {loaded['error_msgs'][0]}".split("\n")[0])
