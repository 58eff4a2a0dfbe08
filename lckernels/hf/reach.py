"""How many tokens before and after a token its state depends on: in each layer, and through all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lckernels.flops import format_count
from lckernels.hf.family import token_mixing
from lckernels.hf.masks.descriptor import INTERFACE
from lckernels.hf.masks.kinds import Kind
from lckernels.hf.patch.attention_modules import attention_modules, is_reached
from lckernels.hf.patch.dry_run import Call, DryRun, padded_dry_run
from lckernels.hf.settings import LayerSettings, settings_of

Side = int | None  # tokens to one side of a token; None for all of them
_MIXING = (nn.Conv1d, nn.Conv2d, nn.RNNBase)


@dataclass(frozen=True)
class LayerReach:
    """One call of attention.

    Attributes:
        layer: name of the module.
        before: tokens before a token that it attends to at most; None without a bound.
        after: the same for those after it.
        reason: what it attends to, as the end of a sentence about the layer, where that is no window.
    """

    layer: str
    before: Side
    after: Side
    reason: str = ""


@dataclass(frozen=True)
class Reach:
    """Of all layers of a model.

    Attributes:
        layers: the calls of attention in their order; a layer that is called again is there again.
        unknown: why not every layer is known; empty if each is.
    """

    layers: tuple[LayerReach, ...]
    unknown: str = ""

    @property
    def total(self) -> tuple[Side, Side]:
        """How many tokens before and after a token its last state depends on; None without a bound."""
        sides = ([getattr(layer, side) for layer in self.layers] for side in ("before", "after"))
        before, after = (None if self.unknown or None in found else sum(found) for found in sides)
        return before, after

    @property
    def unbounded(self) -> tuple[LayerReach, ...]:
        """The layers that attend to more than a window."""
        return tuple(layer for layer in self.layers if layer.reason)

    def __str__(self) -> str:
        if self.unknown:
            return f"not known: {self.unknown}"
        wide, count = self.unbounded, len(self.layers)
        if not wide:
            before, after = self.total
            return f"{before:,} tokens before a token, {after:,} after it, through {count} layers"
        return f"all tokens; no window in {len(wide)} of {count} layers: {wide[0].layer} {wide[0].reason}"


def model_reach(model: nn.Module) -> Reach:
    """The reach of a model as it is now, with the windows of a patch; found by a dry run.

    Args:
        model: a transformers model, or a module that contains one.
    """
    run = padded_dry_run(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = tuple(_layer_reach(call, settings_of(modules[call.layer])) for call in run.calls)
    return Reach(layers, _unknown(model, run))


def sides(kind: Kind) -> tuple[Side, Side]:
    """The largest numbers of tokens that a layer of this kind sees before and after a token."""
    return _side(kind, 0), _side(kind, 1)


def total_reach(kinds: Sequence[Kind]) -> tuple[Side, Side]:
    """The sums over layers of these kinds. Chunks are the same in all layers, so that they are a bound."""
    chunk = max((kind.chunk for kind in kinds), default=0) if all(kind.chunk for kind in kinds) else 0
    found = []
    for side in (0, 1):
        widths = [_side(kind, side) for kind in kinds]
        total = None if None in widths else sum(widths)
        found.append(min(total, chunk - 1) if chunk and total is not None else total)
    return found[0], found[1]


def mixing(model: nn.Module) -> str:
    """What mixes tokens outside attention, as the end of a sentence about the model; or empty."""
    named = token_mixing(model)
    found = next((type(module).__name__ for module in model.modules() if isinstance(module, _MIXING)), None)
    return named or ("" if found is None else f"its {found} mixes neighbouring tokens outside attention")


def _side(kind: Kind, side: int) -> Side:
    bounds = [n for n in (kind.window[side], kind.chunk - 1) if n >= 0 and not kind.global_tokens]
    return min(bounds) if bounds else None


def _layer_reach(call: Call, settings: LayerSettings) -> LayerReach:
    if call.kind is None:
        return LayerReach(call.layer, None, None, f"runs as dense attention: {call.dense}")
    kind = settings.narrowed(call.kind)
    if kind.cross:
        return LayerReach(call.layer, None, None, "attends to another sequence")
    if kind.chunk:
        chunks = f"attends within chunks of {kind.chunk}, counted from a row's first token"
        return LayerReach(call.layer, None, None, chunks)
    if kind != call.kind and settings.sink_tokens:
        first = format_count(settings.sink_tokens, "token")
        sinks = f"attends to the first {first} of a row, sink tokens of lckernels.patch"
        return LayerReach(call.layer, None, _side(kind, 1), sinks)
    if kind.global_tokens:
        return LayerReach(
            call.layer, None, None, "attends to tokens with global attention, wherever they are"
        )
    before, after = sides(kind)
    wide = f"has {kind} attention without a bound" if None in (before, after) else ""
    return LayerReach(call.layer, before, after, wide)


def _unknown(model: nn.Module, run: DryRun) -> str:
    """Why the calls of a dry run are not all that mixes tokens; empty if they are."""
    if run.error:
        return run.error
    known = {call.layer: call for call in (*run.calls, *run.parts)}
    own = [name for name in attention_modules(model) if not is_reached(name, known) and name in run.finished]
    if own:
        return f"the code of {own[0]} does not go through {INTERFACE}"
    if not run.calls:
        return f"no attention of it goes through {INTERFACE}"
    return mixing(model)
