"""MiniLM over the bundled book in fp32, bf16 and int8: tokens per second, closeness, and what a search finds.

`python -m bench.suites.quantized_search` prints a table and writes quantized_search.json. All ways read the
book in turns, page by page; "packed" is linear="packed", "autocast" is float32 under torch.autocast in
bfloat16. The cosine is of each token's state to that of fp32. For 10 fixed queries the first five passages,
found as `lckernels search` finds them, are compared with those of fp32: in their order, and as a set.
`--layers` measures the products of the linear layers alone, with torch's own int8, and torchao's if it is
installed. `--cpu-time` counts CPU seconds, for a machine with other load; use it with one thread.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import lckernels
from bench.cases import book, minilm
from bench.harness import rows
from bench.suites import int8_layers
from lckernels.long.encoder import LongEncoder
from lckernels.long.tokens import Tokens, tokenize
from lckernels.passages import Passages, passage_vectors, split_passages
from lckernels.text_files import read_text

QUERIES = (
    "a bug that was a real insect",
    "jokes about programming languages",
    "the history of Unix",
    "how hackers write and spell",
    "slang for broken hardware",
    "food that hackers like",
    "insults for bad programmers",
    "magic numbers and constants",
    "rules of behaviour on Usenet",
    "computer games of the early days",
)
FOUND, PASSAGE_TOKENS = 5, 128  # as of `lckernels search`
PAGE_TOKENS = 16_384
FP32 = "float32"
Clock = Callable[[], float]


class Autocast:
    """The calls of an encoder in float32 under autocast: products alone in bfloat16."""

    def __init__(self, encoder: LongEncoder) -> None:
        self.encoder = encoder

    def __call__(self, input_ids: Tensor) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return self.encoder(input_ids=input_ids)

    def embed(self, input_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.encoder.embed(input_ids)


def ways() -> dict[str, LongEncoder | Autocast]:
    """The encoders that are compared, the base first."""
    made = {}
    for name, dtype in ((FP32, torch.float32), ("bfloat16", torch.bfloat16)):
        for packed in (None, "packed"):
            label = f"{name}, packed" if packed else name
            made[label] = minilm.encoder(minilm.load(dtype)[0], linear=packed)
    made["autocast"] = Autocast(minilm.encoder(minilm.load()[0]))
    made["quantize"] = minilm.encoder(minilm.load()[0])
    lckernels.quantize(made["quantize"])
    return made


def pages(ids: Tensor) -> list[Tensor]:
    """(1, length) rows of the tokens between [CLS] and [SEP], each of about PAGE_TOKENS."""
    first, last, content = ids[:, :1], ids[:, -1:], ids[:, 1:-1]
    return [torch.cat([first, part, last], 1) for part in content.split(PAGE_TOKENS, 1)]


def encode(
    encoders: dict[str, LongEncoder | Autocast], parts: list[Tensor], clock: Clock
) -> tuple[dict, dict]:
    """For each way its states (num_tokens, dim) and seconds of each page; the ways read a page in turns."""
    states = {name: [] for name in encoders}
    seconds = {name: [] for name in encoders}
    with torch.inference_mode():
        for encoder in encoders.values():
            encoder(input_ids=parts[0][:, :2048])
        for i, part in enumerate(parts):
            for name in sorted(encoders, key=lambda name: (list(encoders).index(name) + i) % len(encoders)):
                begin = clock()
                output = encoders[name](input_ids=part)
                seconds[name].append(clock() - begin)
                states[name].append(output.last_hidden_state[0, 1:-1])
    return {name: torch.cat(found) for name, found in states.items()}, seconds


@torch.inference_mode()
def search(
    encoder: LongEncoder | Autocast, tokenizer: object, states: Tensor, passages: Passages
) -> list[list[int]]:
    """The numbers of the passages that fit each query best, the best first."""
    vectors = passage_vectors(states, passages)
    queries = [encoder.embed(tokenizer(query, return_tensors="pt").input_ids)[0] for query in QUERIES]
    scores = F.normalize(torch.stack(queries).float(), dim=-1) @ vectors.T
    return scores.topk(min(FOUND, len(passages))).indices.tolist()


def compare(
    encoders: dict[str, LongEncoder | Autocast], tokenizer: object, text: str, tokens: Tokens, clock: Clock
) -> dict[str, dict[str, float]]:
    """Speed, closeness and search of each way."""
    parts = pages(tokens.input_ids)
    states, seconds = encode(encoders, parts, clock)
    passages = split_passages(text, tokens.offsets, "en", PASSAGE_TOKENS)
    expected = search(encoders[FP32], tokenizer, states[FP32], passages)
    results = {}
    for name, encoder in encoders.items():
        cosine = F.cosine_similarity(states[name].float(), states[FP32].float(), dim=-1)
        found = search(encoder, tokenizer, states[name], passages)
        pairs = list(zip(found, expected, strict=True))
        results[name] = {
            "tokens_per_second": len(tokens.offsets) / sum(seconds[name]),
            "times_fp32": median(a / b for a, b in zip(seconds[FP32], seconds[name], strict=True)),
            "cosine_mean": cosine.mean().item(),
            "cosine_min": cosine.min().item(),
            "same_order": sum(a == b for a, b in pairs),
            "same_set": sum(set(a) == set(b) for a, b in pairs),
            "same_first": sum(a[0] == b[0] for a, b in pairs),
            "shared": sum(len(set(a) & set(b)) for a, b in pairs) / sum(len(b) for _, b in pairs),
        }
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as a table of Markdown."""
    head = ("", "tokens/s", "times fp32", "mean cosine", "least cosine", "same five, in order", "same five")
    lines = [f"| {' | '.join((*head, 'same first'))} |", "|---" * (len(head) + 1) + "|"]
    for name, x in results.items():
        same = " | ".join(f"{x[key]} of {len(QUERIES)}" for key in ("same_order", "same_set", "same_first"))
        speed = f"{x['tokens_per_second']:,.0f} | {x['times_fp32']:.2f}"
        lines.append(f"| {name} | {speed} | {x['cosine_mean']:.5f} | {x['cosine_min']:.4f} | {same} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=0, help="first tokens of the book; 0: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds instead of seconds")
    parser.add_argument("--layers", action="store_true", help="the linear layers alone")
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="output folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    clock = time.process_time if options.cpu_time else time.perf_counter
    about = {
        "unit": "CPU seconds" if options.cpu_time else "seconds",
        "threads": options.threads,
        "machine": rows.machine(),
        "versions": rows.versions(),
        **rows.commit(),
    }
    if options.layers:
        print(int8_layers.table(int8_layers.measure(clock)))
        print(json.dumps(about))
        return
    encoders = ways()
    tokenizer = minilm.load()[1]
    text = read_text(book.PATH).content
    if options.tokens:
        text = text[: 4 * options.tokens]
    tokens = tokenize(tokenizer, text, "MiniLM")
    results = compare(encoders, tokenizer, text, tokens, clock)
    print(table(results))
    found = {"tokens": len(tokens.offsets), "results": results, **about}
    options.rows.mkdir(parents=True, exist_ok=True)
    (options.rows / "quantized_search.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(about))


if __name__ == "__main__":
    main()
