"""Perplexity of a long text under a causal language model, on lckernels' attention."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.devices import execution_device
from lckernels.perplexity.arguments import check_sizes, fit, repeated_tokens, scored_windows, token_ids
from lckernels.perplexity.head import (
    Hidden,
    check_causal,
    check_model,
    hidden_states,
    logits,
    rows_at_a_time,
    vocab_size,
)
from lckernels.perplexity.results import Comparison, Scored
from lckernels.perplexity.windows import Window
from lckernels.progress import token_bar

Variant = Callable[[], AbstractContextManager[object]]  # within the context the model runs in one way


def score(
    model: nn.Module,
    input_ids: Tensor,
    *,
    context: int | None = None,
    stride: int | None = None,
    window: int | None = None,
    sink_tokens: int | None = None,
    given: int = 1,
    bos: str | None = None,
    progress: bool = False,
) -> Scored:
    """Scores each token once, from the tokens before it in a context of `context` tokens.

    The model runs on lckernels' attention during the call, and is as before after it. At most 64 MiB of fp32
    logits exist at a time.

    Args:
        model: a causal language model of transformers, as AutoModelForCausalLM loads it, or one in PEFT; in
            eval mode. It runs on its own device. A model after `lckernels.patch` runs with that patch.
        input_ids: (num_tokens,) or (1, num_tokens) integers, special tokens at the start included.
        context: tokens read at a time, repeated ones included. Default: all positions of the model, at most
            8,192.
        stride: tokens from one context to the next; the last `stride` tokens of a context are scored.
            Default: half the context. With bos="every" it is reduced to context - given.
        window: as in `lckernels.patched`: keys that a token sees where the model has full attention. Default:
            None, the model's own attention, exactly.
        sink_tokens: as in `lckernels.patched`: first tokens that stay visible beside the window.
        given: number of tokens at the start that are not scored; at least the first one is not.
        bos: "every": each context begins with the first `given` tokens, which are the special tokens at the
            start of the text. "first": only the first context has them. Default: "every" if `given` is 1 and
            input_ids begins with the bos_token_id of the model's config, else "first".
        progress: whether to show a progress bar (tqdm) with tokens per second.

    Raises:
        TypeError: `model` is no causal language model of transformers; `input_ids` are no integers.
        ValueError: sizes or ids that do not fit, more than one sequence, no token to score, a model in
            training mode, a window for a patched model, and what `lckernels.patched` raises.
    """
    context, stride, window, sink_tokens = check_sizes(context, stride, window, sink_tokens)
    variants = {"patched": _patched(model, window, sink_tokens)}
    return _score(model, input_ids, variants, context, stride, given, bos, progress).result("patched")


def compare(
    model: nn.Module,
    input_ids: Tensor,
    *,
    context: int | None = None,
    stride: int | None = None,
    window: int | None = None,
    sink_tokens: int | None = None,
    given: int = 1,
    bos: str | None = None,
    progress: bool = False,
) -> Comparison:
    """Scores each token by the model as it is and on lckernels' attention, and compares every logit.

    The two variants take turns, context by context. Without `window` they differ by rounding. With `window`
    the difference is that of the approximation, unless the model has no attention wider than that.

    Args, errors: as in `score`; ValueError too for a model that is patched.
    """
    context, stride, window, sink_tokens = check_sizes(context, stride, window, sink_tokens)
    if _is_patched(model):
        wrong = f"{type(model).__name__}, patched already"
        raise bad("model", wrong, "compare runs it without a patch too: call lckernels.unpatch(model) first")
    variants = {"stock": nullcontext, "patched": _patched(model, window, sink_tokens)}
    tally = _score(model, input_ids, variants, context, stride, given, bos, progress)
    return Comparison(tally.result("stock"), tally.result("patched"), tally.difference, tally.largest)


def _patched(model: nn.Module, window: int | None, sink_tokens: int | None) -> Variant:
    """The model on lckernels' attention; of a patched model its own patch."""
    from lckernels.hf.patch.api import patched

    if not _is_patched(model):
        return lambda: patched(model, window=window, sink_tokens=sink_tokens)
    for name, value in (("window", window), ("sink_tokens", sink_tokens)):
        if value is not None:
            raise bad(
                name, value, f"{type(model).__name__} is patched already, with a window of its own or none"
            )
    return nullcontext


def _is_patched(model: nn.Module) -> bool:
    from lckernels.hf.patch.modules import is_patched

    return isinstance(model, nn.Module) and is_patched(model)


def _score(
    model: nn.Module,
    input_ids: Any,
    variants: Mapping[str, Variant],
    context: int | None,
    stride: int | None,
    given: int,
    bos: str | None,
    progress: bool,
) -> "_Tally":
    """Runs every variant of the model over the text, window by window."""
    check_model(model)
    ids = token_ids(input_ids, vocab_size(model))
    num_tokens = ids.shape[1]
    repeated = repeated_tokens(bos, given, ids, getattr(model.config.get_text_config(), "bos_token_id", None))
    context, stride = fit(model, context, stride, repeated)
    cut = scored_windows(num_tokens, context, stride, given, repeated)
    ids = ids.to(execution_device(model, next(model.parameters())))
    check_causal(model, ids.device)
    tally = _Tally(num_tokens, variants, ids.device)
    with torch.inference_mode(), token_bar(num_tokens, "perplexity", progress) as advance:
        for window in cut:
            part = torch.cat([ids[:, : window.repeated], ids[:, window.begin : window.end]], dim=1)
            hidden = {}
            for name, variant in variants.items():
                with variant(), tally.clock(name):
                    hidden[name] = hidden_states(model, part)
            for rows in _pieces(model, window):
                of_variant = {}
                for name in variants:
                    with tally.clock(name):
                        of_variant[name], nll = _log_likelihoods(model, hidden[name], rows)
                        tally.store(name, window.end - window.num_tokens, rows, nll)
                tally.compare(*of_variant.values())
            advance(window.end - window.first)
    return tally


class _Tally:
    """Log-likelihoods and seconds of each variant, and the largest difference from the first one's logits."""

    def __init__(self, num_tokens: int, names: Iterable[str], device: torch.device) -> None:
        self.device = device
        self.nll = {name: torch.zeros(num_tokens, dtype=torch.float32, device="cpu") for name in names}
        self.seconds = dict.fromkeys(self.nll, 0.0)
        self.scored = torch.zeros(num_tokens, dtype=torch.bool, device="cpu")
        self.difference = self.largest = 0.0

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - begin

    def store(self, name: str, begin: int, rows: range, nll: Tensor) -> None:
        tokens = slice(begin + rows.start, begin + rows.stop)
        self.nll[name][tokens] = nll.cpu()
        self.scored[tokens] = True

    def compare(self, first: Tensor, *others: Tensor) -> None:
        for other in others:
            self.difference = _larger(self.difference, float((other - first).abs().max()))
            self.largest = _larger(self.largest, float(first.abs().max()))

    def result(self, name: str) -> Scored:
        return Scored(self.nll[name], self.scored, self.seconds[name])


def _larger(a: float, b: float) -> float:
    """The larger one; NaN if one of them is."""
    return b if b > a or math.isnan(b) else a


def _pieces(model: nn.Module, window: Window) -> list[range]:
    """The places of the scored tokens in a window, in pieces of a bounded number of logits."""
    step, scored = rows_at_a_time(model), window.scored
    return [range(start, min(start + step, scored.stop)) for start in range(scored.start, scored.stop, step)]


def _log_likelihoods(model: nn.Module, hidden: Hidden, rows: range) -> tuple[Tensor, Tensor]:
    """The fp32 logits before the tokens `rows` of a window, and the tokens' nll."""
    ids = hidden.input_ids
    before = torch.arange(rows.start - 1, rows.stop - 1, device=ids.device)
    found = logits(model, hidden, before).float()
    return found, F.cross_entropy(found, ids[0, rows.start : rows.stop], reduction="none")
