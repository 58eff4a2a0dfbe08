"""Hidden states of a text on disk: one safetensors file."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from lckernels.errors import InputError
from lckernels.files import reason, resolve_link, whole_file

FORMAT = "lckernels-states-1"
# The metadata on which the states depend; versions and the model's name are for information.
IDENTITY = (
    "text_sha256",
    "byte_order_mark",
    "weights_sha256",
    "tokenizer_sha256",
    "chunk_len",
    "overlap",
    "weights",
    "boundaries",
    "merge",
    "language",
    "dtype",
    "quantize",
)


@dataclass(frozen=True, eq=False)
class States:
    """The hidden states of one text.

    Attributes:
        states: (num_tokens, dim), any float dtype; one row for each token, special tokens left out.
        offsets: (num_tokens, 2) int64, the file's characters: the first of each token and the one behind
            its last.
        metadata: strings; docs/cli.md lists them.
    """

    states: Tensor
    offsets: Tensor
    metadata: dict[str, str]

    @property
    def document(self) -> Tensor:
        """(dim,) float32, of length 1: the direction of the mean state, as one vector for the whole text."""
        return F.normalize(self.states.float().mean(0), dim=0)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a states file.

    Raises:
        InputError: the file is something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} exists and is not a file of states: {reason(error)}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} exists and is not a file of states of lckernels ({FORMAT})")
    return metadata


def differences(metadata: dict[str, str], expected: dict[str, str]) -> list[str]:
    """How stored states differ, e.g. ["overlap is 32, not 64"]; empty if they can be used."""
    return [
        f"{name} is {metadata.get(name)}, not {expected.get(name)}"
        for name in IDENTITY
        if metadata.get(name) != expected.get(name)
    ]


def load_states(path: Path) -> States:
    """Reads a states file.

    Raises:
        InputError: the file is something else, or damaged.
    """
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
        expected = "states (num_tokens, dim) and offsets (num_tokens, 2)"
        raise InputError(f"{path} is a damaged file of states: it holds {shapes}, not {expected}")
    return States(tensors["states"], tensors["offsets"], metadata)


def check_target(path: Path, text_sha256: str | None = None, remedy: str = "pass overwrite=True") -> None:
    """Checks before any work that states can be saved at `path`.

    Args:
        path: where states will be saved.
        text_sha256: if given, states of a text with another hash are not replaced.
        remedy: what the error for such states advises.

    Raises:
        InputError: `path` cannot be written, or stores anything but states, or states of another text.
    """
    path = resolve_link(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} for {path.name} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file for the states")
    if path.exists():
        stored = read_metadata(path).get("text_sha256")
        if text_sha256 not in (None, stored):
            difference = f"text_sha256 is {stored}, not {text_sha256}"
            raise InputError(f"{path} stores the states of another text ({difference}); {remedy}")
    with whole_file(path):
        pass


def save_states(path: Path, states: States) -> None:
    """Saves states and their document vector; the file at `path` appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {"states": states.states, "offsets": states.offsets, "document": states.document}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(resolve_link(path)) as partial:
        try:
            save_file(tensors, partial, states.metadata)
        except SafetensorError as error:
            raise InputError(f"{path} cannot be written: {reason(error)}") from None
