"""A reply that is generated in a thread, and whose text is an iterator of pieces."""

import threading
from collections.abc import Callable, Generator
from typing import Any

from transformers import TextIteratorStreamer


def pieces(tokenizer: Any, run: Callable[[Any, threading.Event], None]) -> Generator[str]:
    """The text of a reply while it is generated.

    Args:
        tokenizer: of the model.
        run: generates with a streamer and an event that ends the generation; it finishes the turn.

    Yields:
        Pieces of text; the iterator that is closed ends the generation at the next token.

    Raises:
        BaseException: what `run` raised.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop, errors = threading.Event(), []

    def generate() -> None:
        try:
            run(streamer, stop)
        except BaseException as error:
            errors.append(error)
        finally:
            streamer.end()

    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
