"""The text of the turns of a dialogue: what each turn adds to what was read before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lckernels.checks import bad

_REPLY = "lckernels-reply-b41f"  # in the place of a reply; no template changes it


@dataclass(frozen=True)
class Exchange:
    """The last turn: a message and its reply. Earlier ones are ids alone."""

    message: str
    reply: str


@dataclass(frozen=True)
class Turn:
    """What a turn adds.

    Attributes:
        text: from the end of the reply before, or from the beginning, to the point where the reply begins.
        rewritten: whether the template would write the turn before otherwise than it was read.
    """

    text: str
    rewritten: bool = False


class PlainTurns:
    """Turns for a tokenizer without a chat template.

    `{system}`, a blank line, then for each turn a line `User: {message}` and `Assistant:`, which the reply
    follows. A line break comes before the next turn; one in a reply does not end it.

    Args:
        system: what is before the first turn; None for nothing.
    """

    def __init__(self, system: str | None) -> None:
        self.system = system

    def turn(self, before: Exchange | None, message: str) -> Turn:
        """The turn of a message."""
        opening = "" if self.system is None else f"{self.system}\n\n"
        beginning = opening if before is None else "\n"
        return Turn(f"{beginning}User: {message}\nAssistant:")


class TemplateTurns:
    """Turns by the tokenizer's chat template, which writes the last turn and the new one alone.

    Args:
        tokenizer: with a chat template.
        system: the system message; None for none.
        options: further arguments of the template.
    """

    def __init__(self, tokenizer: Any, system: str | None, options: Mapping[str, Any]) -> None:
        self.tokenizer, self.options = tokenizer, dict(options)
        self.system = [] if system is None else [{"role": "system", "content": system}]

    def turn(self, before: Exchange | None, message: str) -> Turn:
        """The turn of a message.

        Raises:
            ValueError: the template raises an error, or leaves a reply out.
        """
        if before is None:
            return Turn(self._write([message], []))
        text = self._write([before.message, message], [_REPLY])
        if text.count(_REPLY) != 1:
            got = f"a chat template that writes a reply {text.count(_REPLY)} times"
            raise bad("tokenizer", got, "expected one that writes each reply once")
        beginning = self._write([before.message], [])
        written = self._write([before.message, message], [before.reply])
        extends = written.startswith(beginning)
        extends = extends and written[len(beginning) :].lstrip().startswith(before.reply.strip())
        return Turn(text.partition(_REPLY)[2], not extends)

    def _write(self, messages: list[str], replies: list[str]) -> str:
        turns = [{"role": "user", "content": message} for message in messages]
        for i, reply in enumerate(replies):
            turns.insert(2 * i + 1, {"role": "assistant", "content": reply})
        write: Callable[..., str] = self.tokenizer.apply_chat_template
        try:
            return write(self.system + turns, tokenize=False, add_generation_prompt=True, **self.options)
        except Exception as error:  # of the template, for a role that it does not have
            got = f"a chat template that raised {type(error).__name__}: {error}"
            raise bad("tokenizer", got, "expected one for a system prompt, users and assistants") from error
