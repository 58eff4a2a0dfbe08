"""A model and its tokenizer from a folder or the Hugging Face hub; incomplete ones raise."""

import io
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from lckernels.errors import InputError
from lckernels.extras import import_extra
from lckernels.long.encoder_check import check_encoder
from lckernels.long.gguf_config import gguf_config

# Hidden states do not depend on it, and many encoders are stored without it.
_POOLER = re.compile(r"(^|\.)pooler\.")
# Names of the files that hold a vocabulary; the other files of a tokenizer have its settings.
_VOCABULARY = re.compile(r"tok|vocab|merges|bpe|spm|piece|dict|\.model$")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def load(
    name: str,
    dtype: torch.dtype,
    auto: str = "AutoModel",
    gguf_file: str | None = None,
    fast: bool = True,
) -> tuple[Any, torch.nn.Module, Set[str]]:
    """A tokenizer and a model, without output on the console.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        dtype: dtype of the weights.
        auto: the auto class of transformers that loads the model.
        gguf_file: a GGUF file in the folder or repository that holds model and tokenizer.
        fast: whether the tokenizer must be a fast one. Default: True.

    Returns:
        The tokenizer, the model in eval mode, and the names of parameters that no file holds and are random:
        a pooler's only.

    Raises:
        InputError: it cannot be loaded, its tokenizer is not a fast one, or other parameters are missing.
    """
    transformers = import_extra("transformers", "hf")
    path = folder(name)
    source = str(path) if path else name
    if path and gguf_file and not (path / gguf_file).is_file():
        raise InputError(f"the model folder {name} has no file {gguf_file}")
    if path and not gguf_file:
        _check_files(path, name)
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    # Reading a GGUF file shows a bar that no setting of transformers turns off.
    no_bar = redirect_stderr(io.StringIO()) if gguf_file else nullcontext()
    try:
        with quiet_transformers(), no_bar:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            if gguf_file:
                options["config"] = gguf_config(source, gguf_file)
            model, loaded = getattr(transformers, auto).from_pretrained(
                source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except Exception as error:
        # From a damaged folder the libraries raise errors of many types.
        what = "model folder" if path else "model (no folder, so a name on the Hugging Face hub)"
        raise InputError(f"the {what} {name} cannot be loaded: {first_line(error)}") from None
    if loaded["missing_keys"] and auto == "AutoModelForCausalLM":
        _check_decoder(name, model.base_model)
    _check_complete(name, type(model).__name__, loaded)
    if fast and not tokenizer.is_fast:
        raise InputError(f"the tokenizer of {name} is not a fast one; expected one with offset mappings")
    return tokenizer, model, loaded["missing_keys"]


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the error's name if that is empty."""
    return " ".join(str(error).split("\n")[0].split()).rstrip(":") or type(error).__name__


def _check_files(path: Path, name: str) -> None:
    """Raises InputError for a folder without config or vocabulary; transformers would make an empty one."""
    why = ""
    names = {file.name for file in path.iterdir()}
    if names.isdisjoint(("config.json", "adapter_config.json")):
        why = "it has no config.json, which model.save_pretrained writes"
    elif not any(map(_VOCABULARY.search, names.difference(_SETTINGS))):
        why = "it has no file of a tokenizer, such as tokenizer.json, which tokenizer.save_pretrained writes"
    if why:
        raise InputError(f"the model folder {name} cannot be loaded: {why}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Temporarily no progress bars, and no messages below CRITICAL, from transformers and huggingface_hub."""
    logging, hub = import_extra("transformers", "hf").logging, import_extra("huggingface_hub", "hf")
    verbosity, hub_verbosity = logging.get_verbosity(), hub.logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not hub.utils.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    hub.logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub.logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
        if bars and not hub_bars:
            hub.utils.disable_progress_bars()  # enabled with transformers' own


def folder(name: str) -> Path | None:
    """The folder at path `name`; None for a name on the hub. Raises InputError for another path."""
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


def _check_decoder(name: str, model: torch.nn.Module) -> None:
    """Raises InputError for an encoder."""
    try:
        check_encoder(model)
    except TypeError:
        return
    raise InputError(f"the model {name} is an encoder, {type(model).__name__}; expected a decoder")


def _check_complete(name: str, kind: str, loaded: dict[str, Any]) -> None:
    """Raises InputError for parameters that are missing or have another shape, but not for a pooler's."""
    missing = sorted(key for key in loaded["missing_keys"] if not _POOLER.search(key))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"the model {name} has no weights for {', '.join(missing[:3])}{more} of {kind}")
    for key, stored, expected in sorted(loaded["mismatched_keys"]):
        shapes = f"has shape {tuple(stored)} for {key}, the config has {tuple(expected)}"
        raise InputError(f"the model {name} {shapes}")
    if loaded["error_msgs"]:
        raise InputError(f"the model {name} cannot be loaded: {loaded['error_msgs'][0]}".split("\n")[0])
