"""A progress bar over tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lckernels.extras import import_extra


@contextmanager
def token_bar(num_tokens: int, title: str, shown: bool) -> Iterator[Callable[[int], object]]:
    """Gives what counts tokens that were read; the bar (tqdm) shows tokens per second."""
    if not shown:
        yield lambda _: None
        return
    tqdm = import_extra("tqdm.auto", "hf").tqdm
    with tqdm(total=num_tokens, unit="tok", unit_scale=True, desc=title) as bar:
        yield bar.update
