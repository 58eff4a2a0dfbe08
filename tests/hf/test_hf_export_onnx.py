"""Patched models in ONNX: torch.onnx.export with lckernels.onnx.translation_table, run by onnxruntime."""

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="patching needs transformers")
pytest.importorskip("onnxscript", reason="an export to ONNX needs onnxscript")
pytest.importorskip("onnxruntime")

from helpers.hf_models import VOCAB
from helpers.hf_patched import model_of
from helpers.onnx_sessions import session

import lckernels
from lckernels.onnx import translation_table

pytestmark = pytest.mark.usefixtures("one_thread")
GROUPED, MULTI_HEAD = "GroupQueryAttention", "MultiHeadAttention"
WINDOW = {"window": 5, "sink_tokens": 2}


class Forward(torch.nn.Module):
    """The first output of a model, without a cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask=None):
        without = {} if self.model.config.model_type in ("bert", "modernbert") else {"use_cache": False}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **without)[0]


def inputs(batch, seqlen):
    """Token ids; the first row is padded on the left, the second on the right, the others are not."""
    made = torch.Generator().manual_seed(seqlen)
    ids = torch.randint(5, VOCAB, (batch, seqlen), generator=made)
    mask = torch.ones_like(ids)
    mask[:1, : seqlen // 3] = 0
    mask[1:2, seqlen - seqlen // 4 :] = 0
    return ids, mask


def exported(module, masked, **options):
    example = inputs(3, 11) if masked else inputs(3, 11)[:1]
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=128)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            module, example, dynamic_shapes=(sizes,) * len(example), dynamo=True, verbose=False,
            custom_translation_table=translation_table(**options),
        )  # fmt: skip


def check(program, module, masked, sizes=((3, 11), (1, 2), (2, 40), (1, 128))):
    run = session(program)
    names = [x.name for x in run.get_inputs()]
    for size in sizes:
        ids, mask = inputs(*size)
        given = (ids, mask) if masked else (ids,)
        with torch.no_grad():
            expected = module(*given)
        found = run.run(None, dict(zip(names, (x.numpy() for x in given), strict=True)))[0]
        seen = mask.bool() if masked else torch.ones_like(mask, dtype=torch.bool)
        np.testing.assert_allclose(found[seen.numpy()], expected[seen].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, options, operators",
    [
        ("llama", {}, [GROUPED] * 2),
        ("llama", WINDOW, [GROUPED] * 2),
        pytest.param("mistral", {}, [GROUPED] * 2, marks=pytest.mark.slow),
        pytest.param("gpt_oss", {}, [GROUPED] * 2, marks=pytest.mark.slow),
        pytest.param("bert", {}, [MULTI_HEAD] * 2, marks=pytest.mark.slow),
        pytest.param("bert", {"window": 6}, [GROUPED] * 2, marks=pytest.mark.slow),
        ("modernbert", {}, [GROUPED, MULTI_HEAD]),
    ],
)
def test_a_patched_model_with_a_mask(name, options, operators):
    model = model_of(name)
    if name == "gpt_oss":  # the default one has an op of its own, which torch.onnx does not translate
        model.set_experts_implementation("batched_mm")
    lckernels.patch(model, **options)
    module = Forward(model).eval()
    program = exported(module, masked=True)
    found = [node.op_type for node in program.model.graph if node.domain == "com.microsoft"]
    assert sorted(found) == operators
    check(program, module, masked=True)


@pytest.mark.slow
@pytest.mark.parametrize("name, options", [("llama", WINDOW), ("mistral", {}), ("modernbert", {})])
def test_a_patched_model_without_a_mask(name, options):
    model = model_of(name)
    lckernels.patch(model, **options)
    module = Forward(model).eval()
    check(exported(module, masked=False), module, masked=False)


def test_operators_of_onnx_alone():
    model = model_of("mistral")
    lckernels.patch(model)
    module = Forward(model).eval()
    program = exported(module, masked=True, standard=True)
    assert {node.domain for node in program.model.graph} == {""}
    check(program, module, masked=True)
