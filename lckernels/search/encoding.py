"""The states of a text: taken from a file that fits, or computed and kept."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from lckernels.errors import InputError
from lckernels.long.text_encoder import TextEncoder
from lckernels.search.saved_states import FORMAT, States, differences, load_states, read_metadata, save_states
from lckernels.search.text import Text


def encode_text(
    text: Text, encoder: TextEncoder, language: str, progress: bool, notify: Callable[[str], None]
) -> States:
    """Runs the encoder over the whole text; the metadata tells all that the result depends on."""
    tokens = encoder.tokenize(text.content)
    if not len(tokens.offsets):
        raise InputError(f"{text.path} is an empty text to the tokenizer of {encoder.name}")
    encoded = encoder.encode(tokens, text.content, language, notify, progress)
    metadata = _identity(text, encoder, language) | {
        "format": FORMAT,
        "model": encoder.name,
        "num_tokens": str(len(tokens.offsets)),
        "num_chunks": str(encoded.num_chunks),
        "seconds": f"{encoded.seconds:.3f}",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS),
    }
    return States(encoded.states, tokens.offsets, metadata)


def load_or_encode(
    text: Text,
    encoder: TextEncoder,
    language: str,
    kept: Path | None,
    progress: bool,
    notify: Callable[[str], None],
) -> tuple[States, bool]:
    """The states, and whether they came from the file `kept`; if they did not, they are kept there."""
    if kept is not None and kept.exists():
        reasons = differences(read_metadata(kept), _identity(text, encoder, language))
        if not reasons:
            return load_states(kept), True
        notify(f"{kept} does not fit and is made anew: {'; '.join(reasons)}")
    states = encode_text(text, encoder, language, progress, notify)
    if kept is not None:
        save_states(kept, states)
        notify(f"states kept in {kept}, {kept.stat().st_size / 2**20:,.1f} MiB")
    return states, False


_VERSIONS = ("lckernels", "torch", "transformers")


def _identity(text: Text, encoder: TextEncoder, language: str) -> dict[str, str]:
    return {"text_sha256": text.sha256, **encoder.identity(language)}
