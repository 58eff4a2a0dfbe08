"""A decode step with full attention and with a window, in turns with transformers' SDPA."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.cases.generation import Patch
from bench.cases.models import head_sizes
from bench.harness.check import Checked, check, truth_dtype
from bench.harness.comparison import OWN, Budget, Subject, make_rows
from bench.harness.report.generation_goals import DECODE, STOCK, SUITE
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import Turns, primed_clock
from bench.peers import model_attention
from bench.peers.decode import States, cache_argument, cache_of, plain_step, shared_copy, states_of

_NOTE = "attends to all tokens: another result"
Step = Callable[[], Tensor]  # the logits of one token
Way = tuple[int, Patch | None]  # tokens in the cache; None for the stock model


def decode_rows(
    model: nn.Module,
    ids: Tensor,
    patches: Sequence[Patch],
    places: Sequence[int],
    budget: Budget,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """Rows of a step after as many tokens as `places` has, for each patch; all are timed in the same rounds.

    Args:
        model: A causal model with full attention.
        ids: (1, tokens), whose keys fill the caches.
        patches: What is compared with the stock model.
        places: Numbers of tokens in the cache.
        budget: Limits of the rounds, and of the seconds of each step over all rounds.
        log: Receives a line per step that was checked.

    Raises:
        AssertionError: A result is wrong.
    """
    import lckernels

    models: dict[Patch | None, nn.Module] = {None: model_attention.with_attention(model, "sdpa")}
    for patch in patches:
        models[patch] = model_attention.with_attention(model, "sdpa")
        lckernels.patch(models[patch], **patch.options())
    steps, checks = {}, {}
    expected = _Expected(model)
    for place in places:
        states = states_of(models[None], ids, place)
        token, whole = ids[:, min(place, ids.shape[1] - 1)][:, None], cache_of(states)
        for patch, one in models.items():
            way, rolls = (place, patch), patch is not None and patch.window is not None
            steps[way] = _step(one, token, shared_copy(whole) if rolls else whole, back=not rolls)
            result = steps[way]()
            checks[way] = expected.check(_name(way), result, states, token, patch or Patch())
            log(f"  {_name(way)}: off by {checks[way].error:.2g}, allowed is {checks[way].bound:.2g}")
    turns = Turns(steps, budget.peer_seconds, primed_clock)
    turns.warm_up()
    for _ in range(budget.rounds):
        turns.round()
    timings = turns.timings()
    made = []
    for place in places:
        for patch in patches:
            ways = {OWN: (place, patch), STOCK: (place, None)}
            made += make_rows(
                _subject(model, patch, place),
                {name: timings[way] for name, way in ways.items()},
                {name: checks[way] for name, way in ways.items()},
                {},
                (),
                notes={STOCK: _NOTE} if patch.num_visible(place) <= place else {},
            )
    return made


class _Expected:
    """Steps of transformers' eager attention, in higher precision and in the model's dtype."""

    def __init__(self, model: nn.Module) -> None:
        self.plain = model_attention.with_attention(model, "eager")
        self.exact = model_attention.in_dtype(self.plain, truth_dtype(model.dtype))

    def check(self, name: str, result: Tensor, states: States, token: Tensor, patch: Patch) -> Checked:
        want, baseline = (plain_step(one, states, token, patch) for one in (self.exact, self.plain))
        return check(name, (result,), (want,), (baseline,))


def _step(model: nn.Module, token: Tensor, cache: object, back: bool) -> Step:
    """A step; `back` removes its key again, a rolling cache goes on, as in a generation."""
    argument = {cache_argument(model): cache}

    @torch.inference_mode()
    def step() -> Tensor:
        logits = model(input_ids=token, use_cache=True, **argument).logits
        if back:
            cache.crop(-1)
        return logits

    return step


def _name(way: Way) -> str:
    place, patch = way
    if patch is None:
        return f"{place} tokens, stock"
    given = ", ".join(f"{name}={value!r}" for name, value in patch.options().items() if value is not None)
    return f"{place} tokens, patch({given})"


def _subject(model: nn.Module, patch: Patch, place: int) -> Subject:
    heads, _, head_dim = head_sizes(model.config)
    layers = model.config.num_hidden_layers
    pairs = patch.num_visible(place)
    return Subject(
        suite=SUITE,
        op=DECODE,
        direction="decode",
        shape=patch.shape(place, layers),
        dtype=dtype_name(model.dtype),
        work=2 * sum(x.numel() for x in model.parameters()) + 4 * layers * heads * head_dim * pairs,
        unit="GFLOP/s",
        backend="cpu",
    )
