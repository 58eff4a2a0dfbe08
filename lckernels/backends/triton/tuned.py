"""Tiles measured by `lckernels tune` on this machine, stored in the user's cache folder."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import triton

from lckernels.backends.triton.tiles import NOT_TUNED, TABLE, Chip, Key, Tiles, allowed

_trying: dict[Key, Tiles] = {}


def path(chip: Chip) -> Path:
    """The file of a chip's tiles: in $XDG_CACHE_HOME/lckernels, else ~/.cache/lckernels."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(folder) / "lckernels" / f"tiles-{chip.arch}-{chip.num_sms}.json"


def tiles(chip: Chip) -> Mapping[Key, Tiles]:
    """The chip's tuned tiles, read once per process; candidates of `trying` have precedence."""
    return {**read(chip), **_trying} if _trying else read(chip)


@contextmanager
def trying(candidates: Mapping[Key, Tiles]) -> Iterator[None]:
    """Temporarily uses these tiles for these keys."""
    before = dict(_trying)
    _trying.update(candidates)
    try:
        yield
    finally:
        _trying.clear()
        _trying.update(before)


@cache
def read(chip: Chip) -> Mapping[Key, Tiles]:
    """The tiles in the chip's file; none if it is missing, invalid, or of another version of Triton."""
    file = path(chip)
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        found = dict(_entry(name, sizes) for name, sizes in stored["tiles"].items())
        version = stored["triton"]
    except FileNotFoundError:
        return NOT_TUNED
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"{file} is not used: {error!r}; `lckernels tune` writes it anew", stacklevel=2)
        return NOT_TUNED
    if version != triton.__version__:
        warnings.warn(
            f"{file} is not used: it is of Triton {version}, this is {triton.__version__}; "
            "`lckernels tune` writes it anew",
            stacklevel=2,
        )
        return NOT_TUNED
    return found


def text(found: Mapping[Key, Tiles]) -> str:
    """The contents of the file."""
    named = {str(key): list(sizes) for key, sizes in sorted(found.items())}
    return json.dumps({"triton": triton.__version__, "tiles": named}, indent=1) + "\n"


_KEYS = {str(key): key for key in TABLE}


def _entry(name: str, sizes: list[int]) -> tuple[Key, Tiles]:
    """A key and its tiles. Raises ValueError or KeyError for an invalid entry."""
    key, tiles = _KEYS[name], Tiles(*sizes)
    if not allowed(key, tiles):
        raise ValueError(f"{name}: got the tiles {sizes}")
    return key, tiles
