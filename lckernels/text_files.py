"""A text file: its characters, its hash, and lines and positions in it."""

import hashlib
import re
import textwrap
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lckernels.errors import InputError

_OLD_MAC_LINE_END = re.compile(r"\r(?!\n)")


@dataclass(frozen=True, eq=False)
class Text:
    """The text of one file.

    Attributes:
        path: the file.
        content: its characters, without a byte order mark; a carriage return alone becomes a line feed.
        sha256: of the file's bytes, in hex.
        content_start: characters of the file before `content`: 1 with a byte order mark, else 0.
    """

    path: Path
    content: str
    sha256: str
    content_start: int = 0

    def line(self, position: int) -> int:
        """The line, counted from 1, of the character at `position`."""
        return bisect_left(self._line_ends, position) + 1

    @cached_property
    def _line_ends(self) -> list[int]:
        return [match.start() for match in re.finditer("\n", self.content)]

    def lines(self, start: int, end: int) -> str:
        """The characters from `start` to `end`, without common indentation and blank lines at the ends."""
        first, _, rest = self.content[start:end].replace("\r\n", "\n").partition("\n")
        return f"{first.strip()}\n{textwrap.dedent(rest)}".strip("\n")

    def percent(self, position: int) -> float:
        """The part of the text before `position`, 0 to 100."""
        return 100.0 * position / len(self.content)

    def language(self) -> str:
        """A guess, as `language_of`."""
        return language_of(self.content)


def language_of(text: str) -> str:
    """A guess: "zh" if more than a fifth of the first 100,000 characters are Chinese, else "en"."""
    sample = text[:100_000]
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in sample)
    return "zh" if 5 * chinese > len(sample) else "en"


def read_text(path: Path) -> Text:
    """Reads a UTF-8 file.

    Raises:
        InputError: it is missing, a folder, not text, or blank.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a text file")
        if not path.exists():
            raise InputError(f"{path} does not exist")
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if raw.startswith(b"%PDF-"):
        raise InputError(f"{path} is a PDF; expected a text file: pdftotext writes one")
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a text file in UTF-8: byte {error.start} is {raw[error.start]:#04x}"
        ) from None
    if "\0" in content:
        raise InputError(f"{path} is not a text file: byte {raw.index(0)} is NUL")
    content_start = int(content.startswith("\ufeff"))
    content = _OLD_MAC_LINE_END.sub("\n", content[content_start:])
    if not content.strip():
        raise InputError(f"{path} is an empty text")
    return Text(path, content, hashlib.sha256(raw).hexdigest(), content_start)
