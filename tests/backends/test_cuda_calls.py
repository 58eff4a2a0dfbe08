"""The wrappers of the CUDA backend against the schemas of _C_cuda.so: no GPU is needed, no kernel runs.

The library requires one function that a torch without CUDA lacks: a stub replaces it. The private ops have
implementations for the CPU that only record the call.
"""

import shutil
import subprocess

import pytest
from helpers import fresh_python

from lckernels.backends.cuda.library import LIBRARY

CALLS = """
import ctypes
import torch
ctypes.CDLL(STUB, mode=ctypes.RTLD_GLOBAL)
torch.ops.load_library(LIBRARY)
from lckernels import plan_chunks
from types import SimpleNamespace
from lckernels.backends.cuda import BACKEND
from lckernels.fields import flat_options
from lckernels.options import AttentionOptions, ExtraTokens, Layout, Score

called = []
cuda = SimpleNamespace(**BACKEND.ops)
ops = torch.library.Library("lckernels_cuda", "IMPL")
for name, result in OPS.items():
    ops.impl(name, lambda *args, name=name, result=result: called.append(name) or result, "CPU")

def randn(*shape):
    return torch.randn(shape, dtype=torch.bfloat16)

def options(**fields):
    layout = Layout(kv_start=torch.zeros(2, dtype=torch.int32), kv_mask=torch.ones(2, 9, dtype=torch.bool))
    score = Score(30.0, torch.zeros(4, 5), 2, torch.zeros(4))
    seed = torch.zeros(1, dtype=torch.int64)
    return flat_options(AttentionOptions((3, 0), 0.5, layout, score, 0.1, seed))

q, k = randn(2, 9, 4, 16), randn(2, 9, 2, 16)
out, lse = cuda.windowed_attention(q, k, k, options())
grads = cuda.windowed_attention_backward(out, lse, q, k, k, out, lse, options())
assert [x.shape for x in grads] == [q.shape, k.shape, k.shape, (4, 5), (4,)]
plan = plan_chunks([20], 12, 4)
plan = plan.args
chunks, sequence = randn(plan.num_chunks, plan.chunk_len, 6), randn(plan.total_len, 6)
weights = torch.rand(plan.num_chunks, plan.chunk_len)
for mode in ("triangular", weights):
    assert cuda.overlap_merge(chunks, mode, plan).shape == sequence.shape
dchunks, dweights = cuda.overlap_merge_backward(sequence, chunks, weights, plan)
assert dchunks.shape == chunks.shape and dweights.shape == weights.shape
assert cuda.overlap_split(sequence, plan).shape == chunks.shape
assert cuda.overlap_split_backward(chunks, plan).shape == sequence.shape
outs, lses = [randn(2, 9, 4, 16)] * 3, [torch.zeros(2, 4, 9)] * 3
merged = cuda.merge_attention_states(outs, lses)
assert len(cuda.merge_attention_states_backward(None, lses[0], outs, lses, *merged)[0]) == 3
q, k = randn(plan.total_len, 4, 16), randn(plan.total_len, 2, 16)
extra = ExtraTokens(randn(plan.num_chunks, 1, 4, 16), *[randn(plan.num_chunks, 1, 2, 16)] * 2)
out, extra_out = cuda.chunked_attention(q, k, k, extra, weights, plan, 0.5)
found = cuda.chunked_attention_backward(out, extra_out, q, k, k, extra, weights, plan, 0.5, out)
assert found[3].q.shape == extra.q.shape and found[4].shape == weights.shape
print(sorted(set(called)) == sorted(OPS))
"""
OPS = {
    "overlap_gather": None,
    "overlap_scatter": None,
    "overlap_weight_grad": None,
    "attention_forward": None,
    "attention_backward": None,
    "bias_strips": 3,
    "chunked_forward": None,
    "chunked_backward": None,
    "merge_states": None,
    "merge_states_backward": None,
}


@pytest.mark.skipif(not LIBRARY.exists(), reason="_C_cuda.so was not built (make cuda)")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the stub")
def test_every_wrapper_calls_its_op_according_to_the_schema(tmp_path):
    source, stub = tmp_path / "stub.c", tmp_path / "stub.so"
    source.write_text("int aoti_torch_get_current_cuda_stream(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(stub), str(source)], check=True)
    code = f"OPS, STUB, LIBRARY = {OPS!r}, {str(stub)!r}, {str(LIBRARY)!r}\n{CALLS}"
    done = fresh_python.run(code)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
