"""A progress bar over tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lckernels.extras import import_extra


@contextmanager
def token_bar(num_tokens: int, title: str, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function that advances the bar by a number of tokens; the bar (tqdm) shows tokens per second.

    Args:
        num_tokens: tokens in all.
        title: text before the bar.
        shown: False shows nothing; the function then has no effect.
    """
    if not shown:
        yield lambda _: None
        return
    tqdm = import_extra("tqdm.auto", "hf").tqdm
    with tqdm(total=num_tokens, unit="tok", unit_scale=True, desc=title) as bar:
        yield bar.update
