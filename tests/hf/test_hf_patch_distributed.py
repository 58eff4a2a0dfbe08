"""lckernels.patch under DDP, FSDP1 and FSDP2 in a gloo process group of one process, on the CPU."""

# ruff: noqa: E402
import functools

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.compare import assert_as_good_as
from helpers.hf_patched import IDS, MASK, VALID, model_of
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread", "group")
NAMES = ("mistral", "bert", "modernbert")
HALF = torch.bfloat16


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    store = tmp_path_factory.mktemp("gloo") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def layers_of(model):
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)


def fsdp2(model, mixed):
    policy = MixedPrecisionPolicy(param_dtype=HALF) if mixed else MixedPrecisionPolicy()
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for module in (*layers_of(model), model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return model


def fsdp1(model, mixed):
    wrap = functools.partial(
        transformer_auto_wrap_policy, transformer_layer_cls={type(layer) for layer in layers_of(model)}
    )
    return FullyShardedDataParallel(
        model, auto_wrap_policy=wrap, device_id=torch.device("cpu"), use_orig_params=True,
        mixed_precision=MixedPrecision(param_dtype=HALF, cast_forward_inputs=True) if mixed else None,
    )  # fmt: skip


def ddp(model, mixed):
    return DistributedDataParallel(model, find_unused_parameters=True)  # BERT's pooler


WRAPPERS = {"FSDP2": fsdp2, "FSDP1": fsdp1, "DDP": ddp}
CASES = [
    *(("FSDP2", mixed, first) for mixed in (True, False) for first in ("patch", "wrap")),
    *(("FSDP1", mixed, "patch") for mixed in (True, False)),
    ("DDP", False, "patch"),
]


def run(model):
    """The states of valid tokens, and all gradients of a loss over them."""
    states = model(input_ids=IDS, attention_mask=MASK)[0]
    (states * MASK[..., None]).float().square().mean().backward()
    grads = [p.grad for name, p in model.named_parameters() if "pooler" not in name]
    grads = [getattr(grad, "full_tensor", lambda grad=grad: grad)() for grad in grads]
    return states.detach()[VALID], torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize(("wrapper", "mixed", "first"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_states_and_gradients(name, wrapper, mixed, first):
    truth = run(model_of(name, "sdpa").double())
    honest = run(WRAPPERS[wrapper](model_of(name, "sdpa"), mixed))
    model = model_of(name)
    if first == "patch":
        report = lckernels.patch(model)
        wrapped = WRAPPERS[wrapper](model, mixed)
    else:
        wrapped = WRAPPERS[wrapper](model, mixed)
        report = lckernels.patch(wrapped)
    assert len(report.taken) == 2
    ours = run(wrapped)
    assert ours[0].dtype == (HALF if mixed else torch.float32)
    for one, exact, other, what in zip(ours, truth, honest, ("states", "gradients"), strict=True):
        assert_as_good_as(one, exact, other, what)
