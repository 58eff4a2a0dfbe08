"""windowed_attention on tensors that end at the end of readable memory: a read past the end is a fault.

A program, since a fault ends the process. It prints each problem before it runs it, then "done".
"""

import ctypes
import mmap

import torch
from helpers.attention_problem import Problem, with_tensors
from helpers.backends import scaled_count, supported
from helpers.compare_attention import assert_same_bits, forward_backward, run_backend

from lckernels import Layout, Score
from lckernels.options import AttentionOptions

_kept = []  # the mappings: they must exist as long as their tensors


def at_page_end(x: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of x that ends where a page without read access begins."""
    size = x.numel() * x.element_size()
    if size == 0:
        return x
    readable = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, readable + mmap.PAGESIZE)
    _kept.append(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    protect = libc.mprotect(ctypes.c_void_p(address + readable), ctypes.c_size_t(mmap.PAGESIZE), 0)
    assert protect == 0, f"mprotect: errno {ctypes.get_errno()}"
    y = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=readable - size)
    return y.view(x.shape).copy_(x)


def problems():
    """Problems whose lengths and head dims are not those of a tile, with every optional tensor."""
    for dtype in supported(torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for head_dim, head_dim_v in ((1, 1), (6, 10), (8, 8), (33, 40), (64, 72)):
            for seqlen in (1, 17, 67):
                q = torch.randn(2, seqlen, 4, head_dim).to(dtype)
                k, v = (torch.randn(2, seqlen, 2, d).to(dtype) for d in (head_dim, head_dim_v))
                layout = Layout(
                    offset=torch.tensor([0, 1]),
                    kv_start=torch.tensor([0, 1]),
                    kv_end=torch.tensor([seqlen, seqlen], dtype=torch.int32),
                    kv_mask=torch.rand(2, seqlen) < 0.9,
                    segment_ids=torch.arange(seqlen).expand(2, seqlen) // 20,
                    sink_tokens=2,
                    chunk=50,
                    chunk_origin=torch.tensor([0, 3]),
                )
                score = Score(rel_bias=torch.randn(4, 7), bias_center=3, sink_logits=torch.randn(4))
                dout, dlse = torch.randn(2, seqlen, 4, head_dim_v).to(dtype), torch.randn(2, 4, seqlen)
                dlse = dlse.double() if dtype == torch.float64 else dlse
                scale = head_dim**-0.5
                options = AttentionOptions((30, 20), scale, layout, score, 0.0, None)
                yield Problem(q, k, v, options, dout, dlse)
                plain = options._replace(layout=Layout(), score=Score())
                yield Problem(q, k, v, plain, dout, None)
                yield Problem(q[:, :2].contiguous(), k, v, plain, dout[:, :2].contiguous(), None)


def main() -> None:
    torch.set_num_threads(1)
    every = list(problems())
    for problem in every[:: len(every) // scaled_count(len(every))]:
        print(problem, flush=True)
        guarded = with_tensors(problem, at_page_end)
        assert_same_bits(forward_backward(run_backend, guarded), forward_backward(run_backend, problem))
    print("done")


if __name__ == "__main__":
    main()
