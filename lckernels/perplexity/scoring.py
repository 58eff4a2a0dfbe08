"""Perplexity of a long text under a causal language model, on lckernels' attention."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lckernels.perplexity.head import check_model, hidden_states, logits, rows_at_a_time
from lckernels.perplexity.results import Comparison, Scored
from lckernels.perplexity.windows import Window, windows
from lckernels.progress import token_bar

DEFAULT_CONTEXT = 8192  # of a model with more positions
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
    progress: bool = False,
) -> Scored:
    """Scores each token once, from the tokens before it in a context of `context` tokens.

    The model runs on lckernels' attention during the call, and is as before after it. At most 64 MiB of fp32
    logits exist at a time.

    Args:
        model: a causal language model of transformers, as AutoModelForCausalLM loads it; in eval mode and not
            patched by `lckernels.patch`. It runs on its own device.
        input_ids: (num_tokens,) or (1, num_tokens) int64, special tokens at the start included.
        context: tokens read at a time. Default: all positions of the model, at most 8,192.
        stride: tokens from one context to the next; the last `stride` tokens of a context are scored.
            Default: half the context.
        window: as in `lckernels.patched`: keys that a token sees where the model has full attention. Default:
            None, the model's own attention, exactly.
        sink_tokens: as in `lckernels.patched`: first tokens that stay visible beside the window.
        given: number of tokens at the start that are not scored; at least the first one is not.
        progress: whether to show a progress bar (tqdm) with tokens per second.

    Raises:
        TypeError: `model` is no causal language model of transformers.
        ValueError: sizes that do not fit, a model in training mode or already patched, and what
            `lckernels.patched` raises.
    """
    check_sizes(context, stride, window, sink_tokens)
    variants = {"patched": _patched(model, window, sink_tokens)}
    return _score(model, input_ids, variants, context, stride, given, progress).result("patched")


def compare(
    model: nn.Module,
    input_ids: Tensor,
    *,
    context: int | None = None,
    stride: int | None = None,
    window: int | None = None,
    sink_tokens: int | None = None,
    given: int = 1,
    progress: bool = False,
) -> Comparison:
    """Scores each token by the model as it is and on lckernels' attention, and compares every logit.

    The two variants take turns, context by context. Without `window` they differ by rounding. With `window`
    the difference is that of the approximation, unless the model has no attention wider than that.

    Args, errors: as in `score`.
    """
    check_sizes(context, stride, window, sink_tokens)
    variants = {"stock": nullcontext, "patched": _patched(model, window, sink_tokens)}
    tally = _score(model, input_ids, variants, context, stride, given, progress)
    return Comparison(tally.result("stock"), tally.result("patched"), tally.difference, tally.largest)


def check_sizes(context: int | None, stride: int | None, window: int | None, sink_tokens: int | None) -> None:
    """Raises ValueError for sizes that fit no model; None is a default."""
    if context is not None and context < 2:
        raise ValueError(f"context: got {context}; expected at least 2, a token and one before it")
    if stride is not None and (stride < 1 or stride > (context or stride)):
        raise ValueError(f"stride: got {stride}; expected 1 <= stride <= context = {context}")
    if window is not None or sink_tokens is not None:
        from lckernels.hf.patch.arguments import check_window

        check_window(window, sink_tokens)


def fit(model: nn.Module, num_tokens: int, context: int | None, stride: int | None) -> tuple[int, int]:
    """context and stride with their defaults.

    Raises:
        ValueError: sizes that do not fit the model.
    """
    if num_tokens < 2:
        raise ValueError(f"input_ids: got {num_tokens} tokens; expected at least 2, one to score another by")
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        context = min(positions or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if positions is not None and context > positions:
        raise ValueError(f"context: got {context}; {type(model).__name__} has {positions} positions")
    stride = context // 2 if stride is None else stride
    check_sizes(context, stride, None, None)
    return context, stride


def _patched(model: nn.Module, window: int | None, sink_tokens: int | None) -> Variant:
    from lckernels.hf.patch import api

    return lambda: api.patched(model, window=window, sink_tokens=sink_tokens)


def _score(
    model: nn.Module,
    input_ids: Tensor,
    variants: Mapping[str, Variant],
    context: int | None,
    stride: int | None,
    given: int,
    progress: bool,
) -> "_Tally":
    """Runs every variant of the model over the text, window by window."""
    ids = input_ids.reshape(1, -1).to(model.device)
    context, stride = fit(model, ids.shape[1], context, stride)
    check_model(model)
    tally = _Tally(ids.shape[1], variants, ids.device)
    with torch.inference_mode(), token_bar(ids.shape[1], "perplexity", progress) as advance:
        for window in windows(ids.shape[1], context, stride, given):
            part, hidden = ids[:, window.begin : window.end], {}
            for name, variant in variants.items():
                with variant(), tally.clock(name):
                    hidden[name] = hidden_states(model, part)
            for rows in _pieces(model, window):
                of_variant = {}
                for name in variants:
                    with tally.clock(name):
                        of_variant[name], nll = _log_likelihoods(model, hidden[name], part, rows)
                        tally.store(name, window.begin, rows, nll)
                tally.compare(*of_variant.values())
            advance(window.end - window.first)
    return tally


class _Tally:
    """Log-likelihoods and seconds of each variant, and the largest difference from the first one's logits."""

    def __init__(self, num_tokens: int, names: Iterable[str], device: torch.device) -> None:
        self.device = device
        self.nll = {name: torch.zeros(num_tokens) for name in names}
        self.seconds = dict.fromkeys(self.nll, 0.0)
        self.scored = torch.zeros(num_tokens, dtype=torch.bool)
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
    """The scored tokens of a window in pieces of a bounded number of logits, counted from its begin."""
    step, size = rows_at_a_time(model), window.end - window.begin
    starts = range(window.first - window.begin, size, step)
    return [range(start, min(start + step, size)) for start in starts]


def _log_likelihoods(model: nn.Module, hidden: object, part: Tensor, rows: range) -> tuple[Tensor, Tensor]:
    """The fp32 logits before the tokens `rows` of the window `part`, (1, seqlen), and the tokens' nll."""
    before = torch.arange(rows.start - 1, rows.stop - 1, device=part.device)
    found = logits(model, hidden, part, before).float()
    return found, F.cross_entropy(found, part[0, rows.start : rows.stop], reduction="none")
