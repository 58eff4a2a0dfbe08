"""Where a command's model is: GGUF files are named by an option of their own."""

from pathlib import Path

from lckernels.errors import InputError

GGUF_EXTRAS = dict.fromkeys(("gguf", "accelerate"), "gguf")


def check_gguf(model: str, gguf_file: str | None) -> None:
    """Checks the option --gguf-file of commands that have it.

    Raises:
        InputError: `model` is a GGUF file, or a folder with GGUF files and no config.json, and no `gguf_file`
            is given; the message has the options to add.
    """
    found = _gguf_files(model)
    if found and Path(model).is_file():
        folder, name = found[0].parent, found[0].name
        raise InputError(f"{model} is a GGUF file; name its folder and the file: {folder} --gguf-file {name}")
    if found and gguf_file is None:
        names = ", ".join(path.name for path in found[:3])
        raise InputError(
            f"the model folder {model} has no config.json, but GGUF files; choose one with --gguf-file: {names}"
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
