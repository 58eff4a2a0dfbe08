"""lckernels.patch under torch.export, FakeTensorMode and torch.jit.trace."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_models import VOCAB
from helpers.hf_patched import IDS, MASK, close, logits, model_of
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")

LONGER = torch.randint(5, VOCAB, (2, 34), generator=torch.Generator().manual_seed(4))
LONGER_MASK = torch.ones_like(LONGER)
LONGER_MASK[0, :9] = 0


def options(model):
    """No cache: it would be another output of the graph."""
    return {} if model.config.model_type in ("bert", "modernbert") else {"use_cache": False}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["bert", "mistral", "llama"])
def test_export(name, dynamic, strict):
    model = model_of(name, "sdpa")
    wanted = [(IDS, MASK), (IDS, MASK.flip(0)), *([(LONGER, LONGER_MASK)] if dynamic else [])]
    expected = [logits(model, input_ids=ids, attention_mask=mask) for ids, mask in wanted]
    lckernels.patch(model)
    inputs = {"input_ids": IDS, "attention_mask": MASK, **options(model)}
    length = {1: torch.export.Dim("length", min=2, max=128)}
    shapes = {name: length if isinstance(x, torch.Tensor) else None for name, x in inputs.items()}
    program = torch.export.export(
        model, (), inputs, dynamic_shapes=shapes if dynamic else None, strict=strict
    )
    assert str(program.graph).count("torch.ops.lckernels.windowed_attention") == 2
    assert "scaled_dot_product_attention" not in str(program.graph)
    for (ids, mask), truth in zip(wanted, expected, strict=True):
        out = program.module()(input_ids=ids, attention_mask=mask, **options(model))[0]
        close(out, truth, mask.bool())


@pytest.mark.parametrize("name", ["bert", "mistral", "modernbert"])
def test_export_for_any_number_of_rows(name):
    model = model_of(name, "sdpa")
    rows, row_masks = LONGER.repeat(2, 1)[:3], LONGER_MASK.repeat(2, 1)[:3]
    expected = logits(model, input_ids=rows, attention_mask=row_masks)
    lckernels.patch(model)
    inputs = {"input_ids": IDS, "attention_mask": MASK, **options(model)}
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=128)}
    shapes = {name: sizes if isinstance(x, torch.Tensor) else None for name, x in inputs.items()}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    close(program(input_ids=rows, attention_mask=row_masks, **options(model))[0], expected, row_masks.bool())


def test_executorch_static_cache():
    model = model_of("llama", "sdpa")
    model.generation_config = transformers.GenerationConfig(
        use_cache=True, cache_implementation="static",
        cache_config={"batch_size": 1, "max_cache_len": 16, "device": "cpu"},
    )  # fmt: skip

    def program():
        wrapped = TorchExportableModuleWithStaticCache(model, batch_size=1, max_cache_len=16)
        inputs = {"input_ids": IDS[:1, :1], "cache_position": torch.arange(1)}
        return torch.export.export(wrapped, (), inputs, strict=True)

    stock = program()
    with lckernels.patched(model):
        ours = program()
    assert str(ours.graph).count("torch.ops.lckernels.windowed_attention") == 2
    one, other = (p.module() for p in (ours, stock))
    for position in range(12):
        given = {"input_ids": IDS[:1, position : position + 1], "cache_position": torch.tensor([position])}
        close(one(**given), other(**given), slice(None))


@pytest.mark.parametrize("name", ["bert", "mistral", "llama", "llama4_text"])
def test_fake_tensors(name):
    """As estimators of memory run a model: no value can be read."""
    model = model_of(name)
    shape = logits(model).shape
    lckernels.patch(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        ids, mask = mode.from_tensor(IDS), mode.from_tensor(MASK)
        out = model(input_ids=ids, attention_mask=mask, **options(model))[0]
        assert isinstance(out, torch._subclasses.fake_tensor.FakeTensor)
        assert out.shape == shape


class States(torch.nn.Module):
    """A model whose call returns one tensor, which torch.jit.trace requires."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(input_ids=ids, attention_mask=mask, **options(self.model))[0]


@pytest.mark.parametrize("name", ["bert", "mistral", "llama"])
def test_a_traced_model_reads_its_mask(name):
    """The mask of the trace is all ones; the trace is called with padding, at both sides."""
    model = model_of(name)
    whole = torch.ones_like(MASK)
    masks = (whole, MASK, MASK.flip(1))
    expected = [logits(model, input_ids=IDS, attention_mask=mask) for mask in masks]
    lckernels.patch(model)
    with torch.no_grad():
        traced = torch.jit.trace(States(model), (IDS, whole), check_trace=False)
        for mask, truth in zip(masks, expected, strict=True):
            close(traced(IDS, mask), truth, mask.bool())
