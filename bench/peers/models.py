"""The ways to run a whole model: our patch, transformers' implementations, and no attention at all."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from bench.cases.models import ModelCase, head_sizes
from bench.harness.comparison import Unsupported
from bench.harness.report.model_goals import FLOOR
from bench.peers import model_attention
from bench.peers.limits import raise_if_dense_pass_is_slow

MEMORY_LIMIT = 8 * 2**30  # bytes of masks or scores above which a peer does not run


@dataclass(frozen=True)
class ModelPeer:
    """One way to run the model.

    Attributes:
        model: A model with the same weights.
        attention: The implementation whose result is expected.
        note: What it computes, where that is another result.
    """

    model: nn.Module
    attention: str = model_attention.BLOCKS
    note: str = ""


# Builds a peer that shares the model's weights; contexts that it enters end with the comparison.
Build = Callable[[nn.Module, ModelCase, ExitStack], ModelPeer]


def own(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    """lckernels.patched."""
    from lckernels import patched

    copied = model_attention.with_attention(model, model.config._attn_implementation)
    stack.enter_context(patched(copied))
    return ModelPeer(copied)


def eager(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    return ModelPeer(model_attention.with_attention(model, "eager"))


def sdpa(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    return ModelPeer(model_attention.with_attention(model, "sdpa"))


def flex(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    return ModelPeer(model_attention.with_attention(model, "flex_attention"))


def floor(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    note = "has no attention: another result, the time of everything else in the model"
    return ModelPeer(model_attention.with_attention(model, model_attention.NONE), model_attention.NONE, note)


PEERS: dict[str, Build] = {"eager": eager, "sdpa": sdpa, "flex": flex, FLOOR: floor}


def raise_if_dense(name: str, model: nn.Module, case: ModelCase, limit: float) -> None:
    """Raises Unsupported above MEMORY_LIMIT of masks or scores, TooSlow above `limit` seconds."""
    if name not in ("eager", "sdpa"):
        return
    heads, _, head_dim = head_sizes(model.config)
    pairs, size = case.seqlen**2, case.dtype.itemsize
    # The scores, their softmax in fp32, and that in the model's dtype; or a bool mask and a float one.
    needed = heads * pairs * (2 * size + 4) if name == "eager" else pairs * (1 + size)
    if needed > MEMORY_LIMIT:
        what = "scores" if name == "eager" else "masks"
        raise Unsupported(f"{what} of more than {MEMORY_LIMIT / 2**30:.0f} GiB")
    raise_if_dense_pass_is_slow(4 * heads * head_dim * pairs * case.layers, limit)
