"""What a model's attention costs for a sequence, with a patch and without."""

from dataclasses import dataclass

from lckernels.flops import attention_flops
from lckernels.hf.masks.kinds import CAUSAL, FULL, Kind
from lckernels.hf.patch.dry_run import DryRun
from lckernels.hf.reach import Side, total_reach
from lckernels.hf.report import Report
from lckernels.hf.settings import LayerSettings
from lckernels.options import Layout
from lckernels.visible import visible_pairs


@dataclass(frozen=True)
class Layer:
    """An attention layer that a patch would change.

    Attributes:
        kind: its kind of attention with the patch.
        before: its kind without the patch.
        num_heads: number of query heads.
        head_dim: of queries and keys.
        head_dim_v: of values.
    """

    kind: Kind
    before: Kind
    num_heads: int
    head_dim: int
    head_dim_v: int

    def flops(self, pairs: int) -> int:
        """Of its two products, for the visible pairs of one head."""
        return attention_flops(pairs, self.num_heads, self.head_dim, self.head_dim_v)


@dataclass(frozen=True)
class Costs:
    """Of a forward over one sequence without padding and without a cache.

    Attributes:
        seqlen: number of tokens.
        report: of the patch.
        layers: the attention layers that the patch changes.
        mask_bytes: dense bool masks of transformers' sdpa, one for each kind of layer that is not full.
        mask_bytes_patched: their descriptors.
        flops: of the two products of attention under sdpa, which computes every pair where there is a mask.
        flops_patched: of the visible pairs.
        reach: how many tokens before and after a token the state of the last layer depends on; None for all
            of them, or where a layer is left to dense attention.
    """

    seqlen: int
    report: Report
    layers: tuple[Layer, ...]
    mask_bytes: int
    mask_bytes_patched: int
    flops: int
    flops_patched: int
    reach: tuple[Side, Side]


def pairs_of(kind: Kind, seqlen: int, sink_tokens: int = 0) -> int:
    """The number of visible (query, key) pairs of a sequence, or of two sequences of that length."""
    if kind.cross:
        return seqlen * seqlen
    return visible_pairs(seqlen, seqlen, kind.window, Layout(sink_tokens=sink_tokens, chunk=kind.chunk))


def costs(run: DryRun, report: Report, requested: LayerSettings, seqlen: int) -> Costs:
    """The costs of a sequence of `seqlen` tokens.

    Args:
        run: of the model.
        report: of the patch, from `plan_patch`.
        requested: window and sink tokens of the patch.
        seqlen: number of tokens.
    """
    layers = []
    for call in run.calls:
        if call.kind is None:
            continue
        q, _, v = call.shapes
        layers.append(Layer(requested.narrowed(call.kind), call.kind, q[2], q[3], v[3]))
    kinds = {layer.before for layer in layers}
    masked = {kind for kind in kinds if needs_mask(kind, seqlen)}
    before = {kind: seqlen * seqlen if kind in masked else pairs_of(kind, seqlen) for kind in kinds}
    pairs = {layer.kind: 0 for layer in layers}
    for kind in pairs:
        sinks = requested.sink_tokens if any(x.kind == kind != x.before for x in layers) else 0
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
    """Whether transformers' sdpa builds a mask for a sequence without padding: where a window hides a key."""
    full = Kind(CAUSAL if kind.window[1] == 0 else FULL)
    return pairs_of(kind, seqlen) < pairs_of(full, seqlen)


def _reach(layers: list[Layer], seqlen: int) -> tuple[Side, Side]:
    """The sum of the layers' windows; None for a side with all tokens of the sequence."""
    found = total_reach([layer.kind for layer in layers if not layer.kind.cross])
    before, after = (None if n is None or n >= max(seqlen - 1, 1) else n for n in found)
    return before, after
