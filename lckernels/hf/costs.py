"""What a layer's attention costs for a text, from which keys its queries see."""

from dataclasses import dataclass

from lckernels.hf.dry_run import DryRun
from lckernels.hf.mask import CAUSAL, FULL
from lckernels.hf.report import Report
from lckernels.hf.settings import Kind, LayerSettings
from lckernels.visible import visible_pairs


@dataclass(frozen=True)
class Layer:
    """A layer that a patch would take: its kind with the patch and without, its heads and their sizes."""

    kind: Kind
    before: Kind
    num_heads: int
    head_dim: int
    head_dim_v: int

    def flops(self, pairs: int) -> int:
        """Of q.k and of probabilities times v; a multiply-add is two."""
        return 2 * pairs * self.num_heads * (self.head_dim + self.head_dim_v)


@dataclass(frozen=True)
class Costs:
    """Of one text of `seqlen` tokens, a forward without a cache.

    report: of the patch. layers: those it takes. mask_bytes: the dense masks of transformers' sdpa for a text
    without padding, one for each kind of layer that is not full, bool; mask_bytes_patched: what stands for
    them. flops: of attention's two products in these layers under sdpa, which computes every pair where there
    is a mask; flops_patched: of the pairs that are visible. reach: how many tokens before and behind a token
    the last layer's state can depend on, None to a side for all of them, or where a layer was left.
    """

    seqlen: int
    report: Report
    layers: tuple[Layer, ...]
    mask_bytes: int
    mask_bytes_patched: int
    flops: int
    flops_patched: int
    reach: tuple[int | None, int | None]


def pairs_of(kind: Kind, seqlen: int, sink_tokens: int = 0) -> int:
    """How many (query, key) pairs are visible, of a text of its own or of two as long."""
    if kind.cross:
        return seqlen * seqlen
    return visible_pairs(seqlen, seqlen, kind.window, sink_tokens=sink_tokens, chunk=kind.chunk)


def costs(run: DryRun, report: Report, wanted: LayerSettings, seqlen: int) -> Costs:
    """run: of the model. report: of the patch with `wanted`, from `plan_patch`."""
    layers, seen = [], set()
    for call in run.calls:
        if call.kind is None or call.layer in seen:
            continue
        seen.add(call.layer)
        q, _, v = call.shapes
        layers.append(Layer(wanted.narrowed(call.kind), call.kind, q[2], q[3], v[3]))
    kinds = {layer.before for layer in layers}
    masked = {kind for kind in kinds if needs_mask(kind, seqlen)}
    before = {kind: seqlen * seqlen if kind in masked else pairs_of(kind, seqlen) for kind in kinds}
    pairs = {layer.kind: 0 for layer in layers}
    for kind in pairs:
        sinks = wanted.sink_tokens if any(x.kind == kind != x.before for x in layers) else 0
        pairs[kind] = pairs_of(kind, seqlen, sinks)
    return Costs(
        seqlen=seqlen,
        report=report,
        layers=tuple(layers),
        mask_bytes=len(masked) * seqlen * seqlen,
        mask_bytes_patched=len(masked),
        flops=sum(layer.flops(before[layer.before]) for layer in layers),
        flops_patched=sum(layer.flops(pairs[layer.kind]) for layer in layers),
        reach=_reach(layers, seqlen) if len(report.taken) == len(report.rows) else (None, None),
    )


def needs_mask(kind: Kind, seqlen: int) -> bool:
    """Whether transformers' sdpa makes a mask for a text without padding: where a key in reach is hidden."""
    full = Kind(CAUSAL if kind.window[1] == 0 else FULL)
    return pairs_of(kind, seqlen) < pairs_of(full, seqlen)


def _reach(layers: list[Layer], seqlen: int) -> tuple[int | None, int | None]:
    """Chunks lie at the same places in all layers: what is in one chunk stays in it, layer after layer."""
    kinds = [layer.kind for layer in layers if not layer.kind.cross]
    chunk = max((kind.chunk for kind in kinds), default=0) if all(kind.chunk for kind in kinds) else 0
    sides: list[int | None] = []
    for side in (0, 1):
        widths = [_width(kind, side) for kind in kinds]
        total = None if None in widths else sum(widths)
        total = min(total, chunk - 1) if chunk and total is not None else total
        sides.append(None if total is None or total >= seqlen - 1 else total)
    return sides[0], sides[1]


def _width(kind: Kind, side: int) -> int | None:
    """How many keys a layer sees to a side at most; None for all."""
    bounds = [n for n in (kind.window[side], kind.chunk - 1) if n >= 0]
    return min(bounds) if bounds else None
