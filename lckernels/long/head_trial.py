"""A trial run of a model with its head: what the head reads of the encoder's output."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.long.parts import Parts
from lckernels.long.pooling import pooling_way
from lckernels.long.short_rows import RunError, ShortRows, are_numbers, is_same
from lckernels.long.trial import eval_mode, trial_copy, undisturbed


@dataclass(frozen=True)
class HeadTrial:
    """What a trial run found.

    Attributes:
        pooling: how pooler_output follows from the last hidden states, as in `pooling_way`; "" if the model
            has none, or in no known way; None if no trial run was possible.
        is_pooled: whether the encoder returns a pooler_output.
        reads_pooled: whether the head reads pooler_output.
        reads_last: whether the head reads the last state of a row otherwise than those before it.
        tuple_has_none: whether the encoder's tuple has None in the place of a pooler_output.
    """

    pooling: str | None = None
    is_pooled: bool = False
    reads_pooled: bool = False
    reads_last: bool = False
    tuple_has_none: bool = False


def try_head(parts: Parts) -> HeadTrial:
    """A trial run of a copy that shares the model's weights; the model and the random state do not change."""
    copied = None if parts.is_encoder_decoder else trial_copy(parts.model)
    if copied is None:
        return HeadTrial()
    name = next(name for name, module in parts.model.named_modules() if module is parts.encoder)
    encoder = copied.get_submodule(name)
    device = next(encoder.parameters()).device
    try:
        rows = ShortRows(encoder, device)
        if type(rows.text) is not Tensor:  # under FakeTensorMode nothing can be compared
            return HeadTrial()
        with undisturbed(device):
            return _try(copied, encoder, rows)
    except RunError:
        return HeadTrial()


def pooling_at_call(model: nn.Module, device: torch.device, call: Callable[..., Any]) -> str:
    """`HeadTrial.pooling` of an encoder that could not be copied: it runs itself, in eval mode."""
    with eval_mode(model), undisturbed(device):
        try:
            rows = ShortRows(model, device, call)
            output = call(**{rows.argument: rows.text}, return_dict=True)
        except Exception:  # whatever stops the model: its pooler_output is not known
            return ""
        pooled = getattr(output, "pooler_output", None)
        return "" if pooled is None else pooling_way(model, output.last_hidden_state, pooled)


def check_head(model: nn.Module, parts: Parts, trial: HeadTrial) -> None:
    """Raises TypeError for a head, or a pooling, that reads what merged states do not have.

    Args:
        model: the argument of `lengthen`.
        parts: of it.
        trial: of its head.
    """
    name, encoder = type(parts.model).__name__, type(parts.encoder).__name__
    pools_last = parts.readers and _pools_last(model)
    if trial.reads_last or pools_last:
        what = f"{type(model).__name__}, whose pooling" if pools_last else f"{name}, whose head"
        got = f"{what} reads the last state of a row, which only the last chunk determines"
        raise TypeError(f"model: got {got}; expected a head that reads the first state, each, or their mean")
    if trial.reads_pooled and trial.pooling == "":
        got = f"{name}, whose head reads pooler_output, which {encoder} computes from other states"
        raise TypeError(f"model: got {got}; expected a head that reads last_hidden_state")


def _pools_last(model: nn.Module) -> bool:
    """Whether a pooling of sentence-transformers reads the last token."""
    modes = (getattr(module, "pooling_mode", ()) for module in model.modules())
    by_flag = any(getattr(module, "pooling_mode_lasttoken", False) is True for module in model.modules())
    return by_flag or any("lasttoken" in ((mode,) if isinstance(mode, str) else mode) for mode in modes)


def _try(model: nn.Module, encoder: nn.Module, rows: ShortRows) -> HeadTrial:
    run = _Run(model, encoder, rows)
    results = run.results()
    states, pooled = run.output.last_hidden_state, getattr(run.output, "pooler_output", None)
    is_pooled = pooled is not None
    way = pooling_way(encoder, states, pooled) if is_pooled else ""
    found = {"pooling": way, "is_pooled": is_pooled, "tuple_has_none": run.tuple_has_none()}
    if states.is_meta or not are_numbers(states) or model is encoder:
        return HeadTrial(**found)
    # One result for a row has no column for each token.
    of_row = {key for key, x in results.items() if x.dim() < 2 or states.shape[1] not in x.shape[1:]}
    if not of_row and not is_pooled:
        return HeadTrial(**found)
    base = run.results(states, pooled)
    found["reads_last"] = _reads_last(run, base, of_row, states, pooled)
    if is_pooled:
        others = run.results(states, pooled.flip(-1) + pooled.std())
        found["reads_pooled"] = any(not torch.equal(x, others[key]) for key, x in base.items())
    return HeadTrial(**found)


def _reads_last(
    run: "_Run", base: dict[str, Tensor], of_row: set[str], states: Tensor, pooled: Tensor | None
) -> bool:
    """Whether a result for a row depends on the last state, and on which of the states is the last.

    A mean, or a sum weighted by each state, does not depend on the order of the states.
    """
    last, at = states.shape[1] - 1, states.shape[1] // 2
    if not 1 < at < last:
        return False
    changed = states.clone()
    changed[:, last] = states[:, last].flip(-1) + states.std()
    results = [run.results(x, pooled) for x in (changed, _swapped(states, at, last))]
    inner = run.results(_swapped(states, at, at - 1), pooled)
    return any(
        is_same(base[key], inner[key]) and not any(is_same(base[key], result[key]) for result in results)
        for key in of_row
        if base[key].is_floating_point()
    )


def _swapped(states: Tensor, one: int, other: int) -> Tensor:
    """States (rows, seqlen, dim) with two of each row in the other's place."""
    order = list(range(states.shape[1]))
    order[one], order[other] = other, one
    return states[:, order]


class _Run:
    """Runs of a copy of a model, of whose encoder the output may be replaced.

    Args:
        model: the copy, which changes.
        encoder: in it.
        rows: of the encoder.

    Attributes:
        output: of the encoder, in the last run that did not replace it.
    """

    def __init__(self, model: nn.Module, encoder: nn.Module, rows: ShortRows) -> None:
        self.model, self.argument = model, rows.argument
        labels = getattr(model.config, "num_labels", None)
        self.row = rows.text if labels != rows.width else rows.text[:, :-1]
        self.own, self.output, self.replacement = encoder.forward, None, None
        encoder.forward = self._forward
        self.shaped = self.row

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.replacement is not None:
            return self.replacement
        self.output = self.own(*args, **kwargs)
        return self.output

    def results(self, states: Tensor | None = None, pooled: Tensor | None = None) -> dict[str, Tensor]:
        """The tensors of the model's output; those of the encoder may be given.

        Raises:
            RunError: the model raised an error, or its output or that of its encoder is a tuple.
        """
        if states is not None:
            fields = {"last_hidden_state": states} | ({} if pooled is None else {"pooler_output": pooled})
            self.replacement = type(self.output)(**fields)
        try:
            output = self._call()
        finally:
            self.replacement = None
        if getattr(self.output, "last_hidden_state", None) is None or not hasattr(output, "items"):
            raise RunError("no output with names")
        return {key: x for key, x in output.items() if isinstance(x, Tensor)}

    def _call(self) -> Any:
        try:
            return self.model(**{self.argument: self.shaped}, return_dict=True)
        except Exception as error:
            if self.shaped.dim() > self.row.dim():
                raise RunError(str(error)) from error
        self.shaped = self.row[:, None]  # of one choice, for a multiple choice
        return self._call()

    def tuple_has_none(self) -> bool:
        """Whether the encoder's tuple has None in its second place."""
        try:
            output = self.own(**{self.argument: self.row}, return_dict=False)
        except Exception:  # the head calls it otherwise
            return False
        return isinstance(output, tuple) and len(output) > 1 and output[1] is None
