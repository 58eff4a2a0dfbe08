"""The text files that a command reads, and where it writes the states of each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lckernels.errors import InputError
from lckernels.files import reason
from lckernels.text_files import Text, read_text

SUFFIXES = (".txt", ".md")  # of the files that are read in a folder


@dataclass(frozen=True)
class Sources:
    """The texts of one command.

    Attributes:
        texts: the texts, in the order of the arguments; those of a folder in the order of their paths.
        names: for each text its path within the folder argument, or the file's name.
        single: whether the argument was one file.
    """

    texts: tuple[Text, ...]
    names: tuple[Path, ...]
    single: bool


def check_language(language: str | None) -> None:
    """Raises InputError for an option --language that is no ISO 639 code."""
    from lckernels import sentences

    if language is None:
        return
    try:
        sentences.check_language(language)
    except ValueError as error:
        raise InputError(f"--{error}") from None


def read_sources(arguments: list[Path]) -> Sources:
    """Reads all files, and those of each folder and its subfolders that end in .txt or .md.

    Raises:
        InputError: a file is missing or is not a text in UTF-8, a folder has no text file, or a file is named
            twice.
    """
    texts, names = [], []
    for argument in arguments:
        if os.path.isdir(argument):
            paths = _files_of(argument)
            names += [path.relative_to(argument) for path in paths]
        else:
            paths = [argument]
            names.append(Path(argument.name))
        texts += map(read_text, paths)
    seen: set[Path] = set()
    for text in texts:
        if text.path.absolute() in seen:
            raise InputError(f"{text.path} is named twice")
        seen.add(text.path.absolute())
    return Sources(tuple(texts), tuple(names), len(arguments) == 1 and not os.path.isdir(arguments[0]))


def read_sources_and_question(arguments: list[Path], question: str, name: str = "question") -> Sources:
    """As `read_sources`, for a command whose last argument is a question.

    Args:
        arguments: files and folders.
        question: the last argument.
        name: what the question is called.

    Raises:
        InputError: as `read_sources`, with a hint where the order of arguments or the quotes may be the
            cause; or a question that is blank or no text in UTF-8.
    """
    if not question.strip():
        raise InputError(f"the {name} is empty")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the {name} is not text in UTF-8, at character {error.start}") from None
    try:
        return read_sources(arguments)
    except InputError as error:
        if all(map(os.path.exists, arguments)) or not (len(arguments) > 1 or os.path.exists(question)):
            raise
        order = f"the {name.upper()} is the last argument, in quotes: got {question!r}"
        raise InputError(f"{error}; {order}") from None


def _files_of(folder: Path) -> list[Path]:
    """The text files of the folder and its subfolders; names that begin with a dot are left out."""
    found = []
    try:
        for place, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = (name for name in files if not name.startswith("."))
            found += [Path(place, name) for name in names if name.lower().endswith(SUFFIXES)]
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {reason(error)}") from None
    if not found:
        raise InputError(f"the folder {folder} has no text file ({', '.join(SUFFIXES)})")
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def states_beside(sources: Sources) -> list[Path]:
    """FILE.safetensors for each file. Raises InputError for a pipe, which has no folder."""
    for text in sources.texts:
        if not text.path.is_file():
            raise InputError(
                f"--keep needs a FILE to keep states beside; {text.path} is a pipe, name a --states PATH"
            )
    return [text.path.with_name(f"{text.path.name}.safetensors") for text in sources.texts]


def states_in(sources: Sources, output: Path) -> list[Path]:
    """`output` itself for one file; else NAME.safetensors of each file within the folder `output`.

    The folder is created.

    Raises:
        InputError: the folder cannot be created, or two files have the same place in it.
    """
    if sources.single:
        return [output]
    paths = [output / name.with_name(f"{name.name}.safetensors") for name in sources.names]
    for number, path in enumerate(paths):
        first = paths.index(path)
        if first != number:
            both = f"{sources.texts[first].path} and {sources.texts[number].path}"
            raise InputError(f"the states of {both} would both be {path}")
    if os.path.exists(output) and not os.path.isdir(output):
        raise InputError(f"{output} is a file; expected a folder for the states of {len(paths)} files")
    try:
        for path in paths:
            path.parent.mkdir(parents=path.parent != output, exist_ok=True)
    except FileNotFoundError:
        raise InputError(f"the folder {output.parent} for {output.name} does not exist") from None
    except OSError as error:
        raise InputError(f"{output} cannot be written: {reason(error)}") from None
    return paths


def check_states_paths(sources: Sources, paths: Sequence[Path | None], overwrite: bool) -> None:
    """Raises InputError if a path cannot be written, or stores anything but states of the same text."""
    from lckernels.search.saved_states import check_target

    for text, path in zip(sources.texts, paths, strict=True):
        if path is not None:
            check_target(path, None if overwrite else text.sha256, "choose another path or add --overwrite")
