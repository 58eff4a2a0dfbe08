"""The states of a text: loaded from a file that fits, or computed and saved."""

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path

from lckernels.errors import InputError
from lckernels.long.text_encoder import TextEncoder
from lckernels.search.saved_states import (
    FORMAT,
    States,
    check_target,
    differences,
    load_states,
    read_metadata,
    save_states,
)
from lckernels.text_files import Text

_VERSIONS = ("lckernels", "torch", "transformers")


def encode_text(
    text: Text,
    encoder: TextEncoder,
    language: str | None = None,
    progress: bool = False,
    notify: Callable[[str], None] | None = None,
    hashes: Mapping[str, str] | None = None,
) -> States:
    """Runs the encoder over the whole text.

    Args:
        text: the text, as `read_text` returns it.
        encoder: the model, with its tokenizer and options.
        language: ISO 639 code for finding sentences. Default: `text.language()`.
        progress: whether to show a progress bar.
        notify: receives remarks, one line each.
        hashes: `encoder.hashes()` if known, which reads all weights. Default: computed.

    Returns:
        The states, with all that they depend on in the metadata.

    Raises:
        InputError: the tokenizer makes no token of the text.
    """
    language = language or text.language()
    tokens = encoder.tokenize(text.content)
    if not len(tokens.offsets):
        raise InputError(f"{text.path} is an empty text to the tokenizer of {encoder.name}")
    encoded = encoder.encode(tokens, text.content, language, notify, progress)
    metadata = _identity(text, encoder, language, hashes) | {
        "format": FORMAT,
        "model": encoder.name,
        "num_tokens": str(len(tokens.offsets)),
        "num_chunks": str(encoded.num_chunks),
        "seconds": f"{encoded.seconds:.3f}",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS),
    }
    return States(encoded.states, tokens.offsets + text.content_start, metadata)


def load_or_encode(
    text: Text,
    encoder: TextEncoder,
    path: Path | None,
    language: str | None = None,
    *,
    overwrite: bool = False,
    progress: bool = False,
    notify: Callable[[str], None] | None = None,
    hashes: Mapping[str, str] | None = None,
) -> tuple[States, bool]:
    """The states of the text from the file `path` if they fit, else computed and saved there.

    Args:
        text, encoder, language, progress, notify, hashes: as in `encode_text`.
        path: a states file, which need not exist. None saves nothing, and the metadata has no hashes.
        overwrite: whether to replace states of another text. States of the same text by another model or with
            other options are always replaced, and `notify` receives the differences.

    Returns:
        The states, and whether they are from the file.

    Raises:
        InputError: `path` cannot be written or stores something else, or the tokenizer makes no token.
    """
    notify = notify or (lambda _: None)
    if path is None:
        return encode_text(text, encoder, language, progress, notify, hashes={}), False
    check_target(path, None if overwrite else text.sha256)
    hashes = encoder.hashes() if hashes is None else hashes
    if path.exists():
        expected = _identity(text, encoder, language or text.language(), hashes)
        reasons = differences(read_metadata(path), expected)
        if not reasons:
            return load_states(path), True
        notify(f"{path} does not fit and is made anew: {'; '.join(reasons)}")
    states = encode_text(text, encoder, language, progress, notify, hashes)
    save_states(path, states)
    notify(f"states kept in {path}, {path.stat().st_size / 2**20:,.1f} MiB")
    return states, False


def _identity(
    text: Text, encoder: TextEncoder, language: str, hashes: Mapping[str, str] | None
) -> dict[str, str]:
    hashes = encoder.hashes() if hashes is None else hashes
    # States of earlier versions have no such key; their offsets did not count the mark.
    mark = {"byte_order_mark": "counted"} if text.content_start else {}
    return {"text_sha256": text.sha256, **mark, **hashes, **encoder.settings(language)}
