"""SmolLM2 generates 100,000 tokens with a window: memory and time per token along the way.

`python -m bench.suites.long_generation FOLDER` generates and writes FOLDER/steps.jsonl, a line per 1,000
tokens, and the caches of some positions; `--compare` then times steps from these positions in turns.
"""

import argparse
import copy
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import lckernels
from bench.cases import book, smollm2
from bench.cases.generation import SINKS, WINDOW
from bench.harness.memory import peak_bytes, reset_peak
from bench.harness.rows import dtype_name, machine
from bench.harness.timing import Turns
from bench.peers.decode import cache_argument

TOKENS, EVERY = 100_000, 1_000
PLACES = (2_000, 10_000, 32_000, 64_000, 100_000)  # tokens after which the cache is stored
STEPS = "steps.jsonl"


class Recorder:
    """A streamer of transformers that writes a line for each EVERY tokens and stores the caches of PLACES.

    Attributes:
        folder: where.
        cache: of the generation.
        count: tokens so far.
    """

    def __init__(self, folder: Path, cache: transformers.Cache) -> None:
        self.folder, self.cache, self.count = folder, cache, -1  # the first call has the prompt
        self.seconds: list[float] = []
        self.last, self.cpu = time.perf_counter(), time.process_time()
        reset_peak()

    def put(self, tokens: Tensor) -> None:
        """Takes the tokens of a step."""
        now = time.perf_counter()
        self.count += 1
        if self.count:
            self.seconds.append(now - self.last)
        if self.count in PLACES:
            place = {"cache": copy.deepcopy(self.cache), "token": tokens.reshape(1, 1)}
            torch.save(place, self.folder / f"{self.count}.pt")
        if self.count and self.count % EVERY == 0:
            self._write()
        self.last = time.perf_counter()

    def end(self) -> None:
        """Nothing is left to write."""

    def _write(self) -> None:
        cpu = time.process_time()
        line = {
            "tokens": self.count,
            "median_seconds": statistics.median(self.seconds),
            "least_seconds": min(self.seconds),
            "cpu_seconds": (cpu - self.cpu) / EVERY,
            "peak_bytes": peak_bytes(),
            "cached": self.cache.layers[0].keys.shape[2],
        }
        with (self.folder / STEPS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.seconds, self.cpu = [], time.process_time()
        reset_peak()


def generate(folder: Path, num_tokens: int, dtype: torch.dtype) -> None:
    """Generates, and writes a line of metadata first."""
    model, tokenizer = patched_model(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"commit": _commit(), "machine": machine(), "dtype": dtype_name(dtype), "window": WINDOW}
    about |= {"sink_tokens": SINKS, "torch": torch.__version__, "transformers": transformers.__version__}
    (folder / STEPS).write_text(json.dumps(about) + "\n")
    ids = book.token_ids(tokenizer, 256)[None]
    cache = transformers.DynamicCache(config=model.config)
    torch.manual_seed(0)
    model.generate(
        ids, **{cache_argument(model): cache}, max_new_tokens=num_tokens, min_new_tokens=num_tokens,
        do_sample=True, top_k=50, streamer=Recorder(folder, cache), pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip


def compare(folder: Path, dtype: torch.dtype, rounds: int) -> dict[int, float]:
    """Median seconds of a step from each stored place, in turns."""
    model, _ = patched_model(dtype)
    calls = {}
    for path in sorted(folder.glob("*.pt"), key=lambda x: int(x.stem)):
        place = torch.load(path, weights_only=False)
        calls[path.stem] = _step(model, place)
    turns = Turns(calls, 60.0)
    for _ in range(rounds):
        turns.round()
    found = {int(name): timing.median for name, timing in turns.timings().items()}
    print("\n".join(f"{place:>8,} tokens: {1e3 * seconds:.1f} ms a step" for place, seconds in found.items()))
    with (folder / STEPS).open("a") as file:
        file.write(json.dumps({"step_seconds_in_turns": found}) + "\n")
    return found


def patched_model(dtype: torch.dtype) -> tuple[Any, Any]:
    """SmolLM2 with the window and packed linear layers; its tokenizer."""
    model, tokenizer = smollm2.load(None, dtype)
    lckernels.patch(model, window=WINDOW, sink_tokens=SINKS, linear="packed")
    return model, tokenizer


def _step(model: Any, place: dict[str, Any]) -> Any:
    @torch.inference_mode()
    def step() -> tuple[Tensor]:
        return (model(place["token"], use_cache=True, **{cache_argument(model): place["cache"]}).logits,)

    return step


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the lines and the caches go")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compare", action="store_true", help="time steps from the stored places in turns")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    if options.compare:
        compare(options.folder, dtype, rounds=25)
    else:
        generate(options.folder, options.tokens, dtype)


if __name__ == "__main__":
    main()
