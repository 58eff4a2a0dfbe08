"""The model of a command for a task: its head, its tokenizer, and the errors of its arguments."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lckernels.cli.console import remarks, set_threads, show_progress, silence_libraries
from lckernels.cli.encoder import check_backend
from lckernels.cli.models import check_no_gguf
from lckernels.cli.options import Dtype, Merge
from lckernels.cli.sources import Sources
from lckernels.errors import InputError
from lckernels.extras import import_extra

if TYPE_CHECKING:
    from torch import nn

EXTRAS = dict.fromkeys(("safetensors", "transformers"), "hf")
_ARGUMENT = re.compile(r"(\w+)(?:\[(\d+)\])?: (.*)", re.DOTALL)


def load_task_model(
    name: str,
    task: str,
    auto: str,
    dtype: Dtype,
    threads: int | None,
    *,
    quantize: bool = False,
    fast: bool = True,
) -> tuple["nn.Module", Any]:
    """A model with its task head, in eval mode, and its tokenizer; sets the number of threads first.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        task: of the head, in words.
        auto: the class of transformers that loads it, such as "AutoModelForQuestionAnswering".
        dtype: of the model.
        threads: of the CPU. None: torch's own number.
        quantize: whether its linear layers compute in int8.
        fast: whether the tokenizer must be a fast one.

    Raises:
        InputError: a folder that is missing or incomplete, a model without the head or its weights, a
            tokenizer that is not a fast one; with `quantize` a model or a machine for which it is impossible.
    """
    from lckernels.long.loading import load
    from lckernels.long.text_encoder import DTYPES

    check_no_gguf(name)
    check_backend(Merge.final, dtype)
    set_threads(threads)
    silence_libraries()
    _check_head(name, task, auto)
    tokenizer, model, _ = load(name, DTYPES[dtype.value], auto, fast=fast)
    if quantize:
        from lckernels.hf.quantize import quantize as in_int8

        with input_errors(name, [Path(name)], ()):
            in_int8(model)
    return model, tokenizer


def _check_head(name: str, task: str, auto: str) -> None:
    """Raises InputError where the config shows that the model has no such head.

    Heads of two tasks may have weights of equal names and shapes, which would load for the other task.
    """
    from lckernels.long.loading import folder

    place = folder(name)
    if place is not None and not (place / "config.json").is_file():
        return  # `load` raises, or loads an adapter
    try:
        config = import_extra("transformers", "hf").AutoConfig.from_pretrained(str(place or name))
    except Exception:
        return  # `load` raises an error of its own
    head, classes = auto.removeprefix("AutoModel"), config.architectures or []
    if head == "ForSeq2SeqLM":
        fits, without = config.is_encoder_decoder, f"which is no encoder-decoder for {task}"
    else:
        fits = not classes or any(head in one for one in classes)
        without = f"without a head for {task}"
    if not fits:
        kind = ", ".join(map(str, classes)) or type(config).__name__
        raise InputError(f"the model {name} is {kind}, {without}; expected one as {auto} loads it")


def run_task(
    task: Callable[..., Any],
    kind: tuple[str, str],
    model: str,
    sources: Sources,
    options: Mapping[str, Any],
    *,
    question: str | None = None,
    dtype: Dtype,
    threads: int | None,
    quiet: bool,
    quantize: bool = False,
    fast: bool = True,
) -> Any:
    """The result of a task for all texts, in one call of it; its warnings are remarks.

    Args:
        task: a function of `lckernels.tasks`.
        kind: of the model, as the arguments `task` and `auto` of `load_task_model`.
        model: the option --model.
        sources: the texts.
        options: keyword arguments of the task; the options of the command have their names, with dashes.
        question: an argument of the task before the texts.
        dtype: of the model.
        threads: of the CPU. None: torch's own number.
        quiet: whether no progress bar is shown.
        quantize: whether the model's linear layers compute in int8.
        fast: whether the tokenizer must be a fast one.

    Raises:
        InputError: as `load_task_model`, and for what the task raises about an argument.
    """
    network, tokenizer = load_task_model(model, *kind, dtype, threads, quantize=quantize, fast=fast)
    first = () if question is None else (question,)
    contents, notify = [text.content for text in sources.texts], remarks(quiet)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        try:
            with input_errors(model, [text.path for text in sources.texts], options):
                return task(network, tokenizer, *first, contents, **options, progress=show_progress(quiet))
        finally:
            for warning in found:
                if warning.category is UserWarning:
                    notify(str(warning.message))


@contextmanager
def input_errors(model: str, files: Sequence[Path], options: Iterable[str]) -> Iterator[None]:
    """Errors about arguments of a task as InputError, with the words of the command line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        match = _ARGUMENT.fullmatch(str(error))
        if match is None:
            raise
        argument, index, why = match.groups()
        places = {
            **{name: f"--{name.replace('_', '-').replace('top-k', 'top')}" for name in options},
            **dict.fromkeys(("text", "texts"), files[int(index or 0)]),
            "model": f"the model {model}",
            "tokenizer": f"the tokenizer of {model}",
            "question": "the question",
            "query": "the query",
        }
        if argument not in places:
            raise
        raise InputError(f"{places[argument]}: {why}") from None
