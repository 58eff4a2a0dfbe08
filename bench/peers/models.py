"""The ways to run a whole model: our patch, what transformers has, and the floor without attention."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from bench.cases.models import ModelCase, head_sizes
from bench.harness.report.model_goals import FLOOR
from bench.peers import model_attention
from bench.peers.limits import Unsupported, refuse_dense_pass

MEMORY_LIMIT = 8 * 2**30  # bytes of masks or scores above which a peer does not run


@dataclass(frozen=True)
class ModelPeer:
    """One way to run the model; `attention` is the implementation whose result is the truth for it."""

    model: nn.Module
    attention: str = model_attention.BLOCKS
    note: str = ""


# Builds a peer that shares the model's weights; what it enters ends with the contest.
Build = Callable[[nn.Module, ModelCase, ExitStack], ModelPeer]


def own(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    """lckernels.patched."""
    from lckernels import patched

    twin = model_attention.with_attention(model, model.config._attn_implementation)
    stack.enter_context(patched(twin))
    return ModelPeer(twin)


def eager(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    return ModelPeer(model_attention.with_attention(model, "eager"))


def sdpa(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    return ModelPeer(model_attention.with_attention(model, "sdpa"))


def flex(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    return ModelPeer(model_attention.with_attention(model, "flex_attention"))


def floor(model: nn.Module, case: ModelCase, stack: ExitStack) -> ModelPeer:
    note = "has no attention: another result, what every other way takes beside its attention"
    return ModelPeer(model_attention.with_attention(model, model_attention.NONE), model_attention.NONE, note)


PEERS: dict[str, Build] = {"eager": eager, "sdpa": sdpa, "flex": flex, FLOOR: floor}


def refuse_if_dense(name: str, model: nn.Module, case: ModelCase, limit: float) -> None:
    """Raises Unsupported for too many bytes of masks or scores, TooSlow for surely over `limit` seconds."""
    if name not in ("eager", "sdpa"):
        return
    heads, _, head_dim = head_sizes(model.config)
    pairs, size = case.seqlen**2, case.dtype.itemsize
    # The scores, their softmax in fp32, and that in the model's dtype; or a bool mask and a float one.
    needed = heads * pairs * (2 * size + 4) if name == "eager" else pairs * (1 + size)
    if needed > MEMORY_LIMIT:
        what = "scores" if name == "eager" else "masks"
        raise Unsupported(f"{what} of more than {MEMORY_LIMIT / 2**30:.0f} GiB")
    refuse_dense_pass(4 * heads * head_dim * pairs * case.layers, limit)
