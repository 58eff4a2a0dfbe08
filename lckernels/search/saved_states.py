"""Hidden states of a text on disk: one safetensors file."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lckernels.errors import InputError
from lckernels.files import reason, resolve_link, whole_file

FORMAT = "lckernels-states-1"
# These must agree for states to be used again; the versions and the model's name are only told.
IDENTITY = (
    "text_sha256",
    "weights_sha256",
    "tokenizer_sha256",
    "chunk_len",
    "overlap",
    "weights",
    "boundaries",
    "merge",
    "language",
    "dtype",
)


@dataclass(frozen=True, eq=False)
class States:
    """states: (num_tokens, dim), a row per token of the text, special tokens left out.

    offsets: (num_tokens, 2) int64, the characters of each token. metadata: strings, see docs/cli.md.
    """

    states: Tensor
    offsets: Tensor
    metadata: dict[str, str]


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a states file. Raises InputError when the file is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} exists and is not a file of states: {reason(error)}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} exists and is not a file of states of lckernels ({FORMAT})")
    return metadata


def differences(metadata: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Why stored states cannot be used, e.g. ["overlap is 32, not 64"]; empty when they can."""
    return [
        f"{name} is {metadata.get(name)}, not {wanted.get(name)}"
        for name in IDENTITY
        if metadata.get(name) != wanted.get(name)
    ]


def load_states(path: Path) -> States:
    """Reads a states file. Raises InputError when it is something else or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    rows, *dims = shapes.get("states", ()) or (0,)
    if len(dims) != 1 or shapes.get("offsets") != (rows, 2):
        wanted = "states (num_tokens, dim) and offsets (num_tokens, 2)"
        raise InputError(f"{path} is a damaged file of states: it holds {shapes}, not {wanted}")
    return States(tensors["states"], tensors["offsets"], metadata)


def check_target(path: Path) -> None:
    """Raises InputError before any work when `path` cannot be written, or holds anything but states."""
    path = resolve_link(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} for {path.name} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file for the states")
    if path.exists():
        read_metadata(path)
    with whole_file(path):
        pass


def save_states(path: Path, states: States) -> None:
    """Writes beside the target, then renames: the file at `path` is whole or absent, whatever happens.

    Raises InputError when the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {"states": states.states.contiguous(), "offsets": states.offsets.contiguous()}
    with whole_file(resolve_link(path)) as partial:
        try:
            save_file(tensors, partial, states.metadata)
        except SafetensorError as error:
            raise InputError(f"{path} cannot be written: {reason(error)}") from None
