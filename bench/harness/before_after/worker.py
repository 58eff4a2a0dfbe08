"""Calls of the ops and of models, timed in a process of their own; it imports lckernels from one checkout.

The file runs as a script, on old checkouts too: it imports torch, transformers, and lckernels' public API.
It reads a name per line from stdin and writes the seconds of one call as a JSON line to stdout.
"""

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

Call = Callable[[], object]

_SETTLE_SECONDS = 0.003  # idle OpenMP threads spin for about a millisecond after a call
_SAMPLE_SECONDS = 0.02  # short calls are repeated until a sample takes so long


def attention(
    dtype: torch.dtype,
    window_size: tuple[int, int],
    *,
    seqlen: int = 4096,
    seqlen_q: int | None = None,
    batch: int = 1,
    backward: bool = False,
) -> Call:
    """windowed_attention with 8 heads of 64."""
    from lckernels import windowed_attention

    generator = torch.Generator().manual_seed(0)

    def noise(length: int) -> Tensor:
        return torch.randn(batch, length, 8, 64, generator=generator).to(dtype).requires_grad_(backward)

    q, k, v = noise(seqlen_q or seqlen), noise(seqlen), noise(seqlen)
    if not backward:
        return lambda: windowed_attention(q, k, v, window_size=window_size)
    dout = torch.ones_like(q)
    return lambda: torch.autograd.grad(windowed_attention(q, k, v, window_size=window_size), (q, k, v), dout)


def overlap(backward: bool) -> Call:
    """overlap_merge of 96 chunks of 512, overlap 256, dim 384, fp32."""
    from lckernels import overlap_merge, plan_chunks

    plan = plan_chunks(256 + 96 * 256, 512, 256)
    chunks = torch.ones(plan.num_chunks, plan.chunk_len, 384, requires_grad=backward)
    if not backward:
        return lambda: overlap_merge(chunks, plan, "triangular")
    out = overlap_merge(chunks, plan, "triangular")
    grad = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, chunks, grad, retain_graph=True)


def chunked(dtype: torch.dtype) -> Call:
    """chunked_attention of 8,448 tokens in chunks of 512, overlap 256."""
    from lckernels import chunked_attention, plan_chunks

    plan = plan_chunks(33 * 256, 512, 256)
    q = torch.randn(plan.total_len, 8, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    return lambda: chunked_attention(q, q, q, plan, "triangular")


def long_encoder(tokens: int) -> Call:
    """LongEncoder around a BERT of 6 layers, dim 64, random weights."""
    import transformers

    from lckernels import LongEncoder

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 128}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=100, **sizes)).eval()
    encoder = LongEncoder(model, chunk_len=512, overlap=128).eval()
    ids = torch.randint(5, 100, (1, tokens), generator=torch.Generator().manual_seed(0))
    return torch.no_grad()(lambda: encoder(input_ids=ids))


def patched_model(tokens: int) -> Call:
    """A patched Mistral of 2 layers, window 256, random weights."""
    import transformers

    import lckernels

    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=100,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=256,
        use_cache=False,
    )
    model = transformers.MistralModel(config).eval()
    lckernels.patch(model)
    ids = torch.randint(5, 100, (1, tokens), generator=torch.Generator().manual_seed(0))
    return torch.no_grad()(lambda: model(input_ids=ids))


_FP32, _BF16 = torch.float32, torch.bfloat16
CALLS: dict[str, Callable[[], Call]] = {
    "windowed forward, fp32, W=512, N=4096": lambda: attention(_FP32, (511, 0)),
    "windowed forward, bf16, W=512, N=4096": lambda: attention(_BF16, (511, 0)),
    "windowed forward + backward, fp32": lambda: attention(_FP32, (511, 0), backward=True),
    "windowed forward + backward, bf16": lambda: attention(_BF16, (511, 0), backward=True),
    "full causal forward, fp32, N=4096": lambda: attention(_FP32, (-1, 0)),
    "full causal forward, bf16, N=4096": lambda: attention(_BF16, (-1, 0)),
    "decode, fp32, 16 sequences of 4096 keys": lambda: attention(_FP32, (-1, 0), seqlen_q=1, batch=16),
    "decode, bf16, 16 sequences of 4096 keys": lambda: attention(_BF16, (-1, 0), seqlen_q=1, batch=16),
    "decode call over 64 keys (host time)": lambda: attention(_FP32, (-1, 0), seqlen=64, seqlen_q=1),
    "overlap_merge forward, fp32, dim 384": lambda: overlap(backward=False),
    "overlap_merge backward, fp32, dim 384": lambda: overlap(backward=True),
    "chunked_attention forward, fp32": lambda: chunked(_FP32),
    "LongEncoder on 12 tokens": lambda: long_encoder(12),
    "LongEncoder on 4096 tokens": lambda: long_encoder(4096),
    "patched Mistral, 2 layers, 1024 tokens": lambda: patched_model(1024),
}


def seconds(call: Call) -> float:
    """Seconds of one call, of short ones the mean over a sample."""
    time.sleep(_SETTLE_SECONDS)
    call()
    begin, count = time.perf_counter(), 0
    while True:
        call()
        count += 1
        elapsed = time.perf_counter() - begin
        if elapsed >= _SAMPLE_SECONDS:
            return elapsed / count


def main() -> None:
    """Answers every line of stdin until it ends."""
    import lckernels

    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not mix with the answers
    print(json.dumps({"path": lckernels.__file__}), file=answers, flush=True)
    built: dict[str, Call] = {}
    for line in sys.stdin:
        name = line.rstrip("\n")
        if name not in built:
            built.clear()
            built[name] = CALLS[name]()
            built[name]()
        print(json.dumps({"seconds": seconds(built[name])}), file=answers, flush=True)


if __name__ == "__main__":
    main()
