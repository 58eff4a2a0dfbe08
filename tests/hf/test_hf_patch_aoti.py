"""lckernels.patch under AOTInductor: a package of a patched decoder, loaded again, for several sizes."""

# ruff: noqa: E402
import shutil
import subprocess
import sys

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_models import VOCAB
from helpers.hf_patched import close, model_of

import lckernels

# A package takes half a minute to compile.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor requires g++"),
]
WINDOW = {"window": 5, "sink_tokens": 2}


class Logits(torch.nn.Module):
    """A decoder that returns one tensor, which any process can load."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask=None):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def inputs(batch, seqlen, masked):
    ids = torch.randint(5, VOCAB, (batch, seqlen), generator=torch.Generator().manual_seed(seqlen))
    mask = torch.ones_like(ids)
    mask[:1, : seqlen // 3] = 0
    return (ids, mask) if masked else (ids,)


def compiled(module, masked, path):
    example = inputs(3, 11, masked)
    sizes = {0: torch.export.Dim("batch", max=16), 1: torch.export.Dim("length", min=2, max=128)}
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=(sizes,) * len(example))
        assert str(program.graph).count("torch.ops.lckernels.windowed_attention") == 2
        return torch._inductor.aoti_compile_and_package(program, package_path=str(path))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name, options", [("llama", {}), ("llama", WINDOW), ("mistral", {})])
def test_a_package_for_any_size(name, options, masked, tmp_path):
    model = model_of(name, "sdpa")
    stock, module = Logits(model_of(name, "sdpa")), Logits(model).eval()
    lckernels.patch(model, **options)
    package = torch._inductor.aoti_load_package(compiled(module, masked, tmp_path / "model.pt2"))
    for size in ((3, 11), (1, 2), (2, 40), (16, 128)):
        given = inputs(*size, masked)
        seen = given[1].bool() if masked else torch.ones_like(given[0], dtype=torch.bool)
        with torch.no_grad():
            ours = package(*given)
            close(ours, module(*given), seen)
            if not options:
                close(ours, stock(*given), seen)


def test_a_package_requires_the_ops(tmp_path):
    """Its process has imported lckernels; else the error names the op."""
    model = model_of("llama")
    lckernels.patch(model)
    path = compiled(Logits(model).eval(), True, tmp_path / "model.pt2")
    load = f"import torch; package = torch._inductor.aoti_load_package({path!r}); x = torch.ones(1, 4).long()"
    for first, succeeds in (("", False), ("import lckernels; ", True)):
        code = f"{first}{load}; print(package(x, x).shape)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (run.returncode == 0) == succeeds, run.stderr
        assert ("torch.Size([1, 4, " in run.stdout) == succeeds
        assert ("Could not find schema for lckernels::windowed_attention" in run.stderr) != succeeds
