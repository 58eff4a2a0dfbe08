"""One training step of MiniLM's shape on a long row: peak memory and CPU time, with and without recompute.

`python -m bench.suites.training_memory TOKENS [--recompute]` prints a line. A process per line: memory that a
step freed would hide that of the next.
"""

import argparse
import json
import time

import torch
import transformers

import lckernels
from bench.harness.memory import peak_bytes, reset_peak, resident_bytes
from bench.harness.rows import machine

MIB = 2**20
WARM_UP = 600  # tokens of a step before, which loads what torch loads late


def measure(tokens: int, recompute: bool, max_tokens: int, layers: int) -> dict[str, object]:
    """Peak bytes above the model, in MiB, and CPU seconds of forward, backward and AdamW's first step."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536
    )
    model = transformers.BertModel(config, add_pooling_layer=False).train()
    encoder = lckernels.LongEncoder(model, recompute=recompute, max_tokens=max_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(1000, 30000, (1, tokens))
    ids[0, 0], ids[0, -1] = 101, 102
    encoder(ids[:, :WARM_UP]).last_hidden_state.square().mean().backward()
    optimizer.zero_grad()
    before = resident_bytes()
    found: dict[str, object] = {"tokens": tokens, "recompute": recompute}
    found |= {"max_tokens": max_tokens, "layers": layers}
    loss = None

    def forward() -> None:
        nonlocal loss
        loss = encoder(ids).last_hidden_state.square().mean()

    for name, step in (
        ("forward", forward),
        ("backward", lambda: loss.backward()),
        ("AdamW", optimizer.step),
    ):
        reset_peak()
        begin = time.process_time()
        step()
        seconds, peak = time.process_time() - begin, peak_bytes()
        extra = None if peak is None or before is None else round((peak - before) / MIB)
        found[name] = {"cpu_seconds": round(seconds, 1), "peak_mib": extra}
    return found | {"torch": torch.__version__, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tokens", type=int)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--max-tokens", type=int, default=4096, help="of a micro-batch")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure(options.tokens, options.recompute, options.max_tokens, options.layers)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
