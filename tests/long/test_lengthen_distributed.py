"""lengthen under DDP, FSDP2 and FSDP1 in gloo process groups of one and of two processes, on the CPU."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import SIZES, WIDE, pad, token_ids
from helpers.processes import in_two_processes
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

import lckernels
from lckernels.long import ranks

SIZE = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2, "num_labels": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = torch.tensor([0, 2])
# One micro-batch for each chunk: 5 chunks of the long row, none of the short one, which runs as it is.
OPTIONS = {"max_tokens": 32, "overlap": 7}
LENGTHS = {"ragged": (100, 40), "short": (100, 20)}


def classifier():
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZE, **NO_DROPOUT)).train()


def rows(lengths):
    return [token_ids(n, seed=i) for i, n in enumerate(lengths)]


def ddp(model):
    return DistributedDataParallel(model)


def fsdp2(model, **options):
    mesh = torch.distributed.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for module in (*model.bert.encoder.layer, model):
        fully_shard(module, mesh=mesh, **options)
    return model


def kept(model):
    return fsdp2(model, reshard_after_forward=False)


def mixed(model):
    return fsdp2(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))


def fsdp1(model):
    layers = ModuleWrapPolicy({type(model.bert.encoder.layer[0])})
    device = torch.device("cpu")
    return FullyShardedDataParallel(model, auto_wrap_policy=layers, device_id=device, use_orig_params=True)


def gradients(model):
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            return torch.cat([p.grad.flatten() for p in model.parameters()])
    grads = (p.grad for p in model.parameters())
    return torch.cat([getattr(grad, "full_tensor", lambda grad=grad: grad)().flatten() for grad in grads])


def truth(lengths, **options):
    """Logits and gradients in one process, of the mean over the rows' losses."""
    model = classifier()
    lckernels.lengthen(model, **OPTIONS, **options)
    ids, mask = pad(rows(lengths), "right")
    output = model(input_ids=ids, attention_mask=mask, labels=LABELS)
    output.loss.backward()
    return output.logits.detach(), gradients(model)


def in_order(wrap, first, **options):
    """The wrapped model, lengthened before or after."""
    model = classifier()
    if first == "lengthen":
        lckernels.lengthen(model, **OPTIONS, **options)
        return wrap(model)
    model = wrap(model)
    lckernels.lengthen(model, **OPTIONS, **options)
    return model


WRAPPERS = {"DDP": ddp, "FSDP2": fsdp2, "FSDP2 not resharded": kept, "FSDP1": fsdp1}
CASES = [(name, first) for name in WRAPPERS for first in ("lengthen", "wrap")]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    store = tmp_path_factory.mktemp("gloo") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("wrapper", "first"), CASES)
def test_one_process(group, wrapper, first):
    expected, grads = truth((100, 40))
    model = in_order(WRAPPERS[wrapper], first)
    ids, mask = pad(rows((100, 40)), "right")
    output = model(input_ids=ids, attention_mask=mask, labels=LABELS)
    output.loss.backward()
    torch.testing.assert_close(output.logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(model), grads, rtol=1e-4, atol=1e-5)
    lckernels.unlengthen(model)
    with torch.no_grad(), pytest.raises((RuntimeError, IndexError)):
        model(input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP2", "FSDP1"])
@pytest.mark.parametrize("options", [{}, {"prefix": [7, 8]}], ids=["pair", "prefix"])
def test_a_call_looks_for_shards_once(group, wrapper, options, monkeypatch):
    """It reads each module once, whether the row is longer than a chunk or not."""
    model = in_order(WRAPPERS[wrapper], "lengthen", **options)
    walks, looks = [], []
    groups = ranks._groups

    def looked(encoder):
        def walk(*args, **kwargs):
            walks.append(encoder)
            return type(encoder).named_modules(encoder, *args, **kwargs)

        looks.append(encoder)
        with monkeypatch.context() as context:
            context.setitem(encoder.__dict__, "named_modules", walk)
            return groups(encoder)

    monkeypatch.setattr(ranks, "_groups", looked)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *args: 2)
    for calls, length in enumerate((20, 100, 100), start=1):
        model(input_ids=token_ids(length)[None])
        assert len(looks) == len(walks) == calls


@pytest.mark.parametrize("first", ["lengthen", "wrap"])
def test_mixed_precision_of_fsdp2(group, first):
    expected, _ = truth((100, 40))
    model = in_order(mixed, first)
    ids, mask = pad(rows((100, 40)), "right")
    output = model(input_ids=ids, attention_mask=mask, labels=LABELS)
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    plain = classifier()
    lckernels.lengthen(plain, **OPTIONS)
    half = plain.bfloat16()(input_ids=ids, attention_mask=mask).logits.float()
    error = (output.logits.float() - expected).abs().max()
    assert error <= 2 * (half - expected).abs().max() + 1e-2


LAYER = {"merge": "layer", "summary": "first"}
ON_TWO = [
    *((wrapper, "lengthen", {}) for wrapper in WRAPPERS),
    ("FSDP2", "wrap", {}),
    ("FSDP2", "lengthen", {"recompute": True}),
    ("FSDP2", "lengthen", LAYER),
]


def of_rank(rank):
    """By name of the lengths and number of the case: logits in evaluation and training, gradients."""
    found = {}
    for name, lengths in LENGTHS.items():
        for case, (wrapper, first, options) in enumerate(ON_TWO):
            model = in_order(WRAPPERS[wrapper], first, **options)
            row = rows(lengths)[rank][None]
            labels = LABELS[rank : rank + 1]
            with torch.no_grad():
                evaluated = model(input_ids=row).logits
            output = model(input_ids=row, labels=labels)
            output.loss.backward()
            found[name, case] = evaluated, output.logits.detach(), gradients(model)
    return found


def test_two_processes_with_rows_of_any_length(tmp_path):
    """A rank with fewer chunks takes part in the other's collectives: it neither waits nor differs."""
    found = in_two_processes(of_rank, tmp_path)
    for name, lengths in LENGTHS.items():
        for case, (_, _, options) in enumerate(ON_TWO):
            expected, grads = truth(lengths, **options)
            for rank in (0, 1):
                evaluated, logits, ours = found[rank][name, case]
                torch.testing.assert_close(logits[0], expected[rank], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(evaluated[0], expected[rank], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(ours, grads, rtol=1e-4, atol=1e-5)
