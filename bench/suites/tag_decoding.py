"""From the logits of 1,000,000 tokens to labels and entities, on one thread, against loops over tokens.

`python -m bench.suites.tag_decoding` prints the seconds of each way, and writes them to tag_decoding.json. A
loop runs over the first tokens; its seconds are scaled to all of them.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.harness import rows
from bench.harness.timing import measure
from lckernels.tasks.documents import Document
from lckernels.tasks.tagging.schemes import Scheme, read_scheme
from lckernels.tasks.tagging.tag import tags_of
from lckernels.tasks.tagging.viterbi import viterbi

TOKENS, TYPES = 1_000_000, 12
LOOP_TOKENS, STEP_TOKENS = 2_000, 20_000
OWN, ENTITIES, LOOP, STEPS = "viterbi", "entities", "Python loop", "torch, a step per token"


def labels_of(types: int) -> list[str]:
    """The labels of BIO with so many types: 25 for 12."""
    return ["O", *(f"{letter}-T{i}" for i in range(types) for letter in "BI")]


def in_python(logits: list[list[float]], scheme: Scheme) -> list[int]:
    """Viterbi in loops over tokens, labels and labels before; of equal sums the lowest label."""
    steps, end = scheme.transitions.tolist(), scheme.end.tolist()
    sums = [a + b for a, b in zip(scheme.begin.tolist(), logits[0], strict=True)]
    pointers = []
    for row in logits[1:]:
        new, froms = [], []
        for to, logit in enumerate(row):
            best, best_from = float("-inf"), 0
            for label, value in enumerate(sums):
                value += steps[label][to]
                if value > best:
                    best, best_from = value, label
            new.append(best + logit)
            froms.append(best_from)
        sums = new
        pointers.append(froms)
    final = [a + b for a, b in zip(sums, end, strict=True)]
    path = [final.index(max(final))]
    for froms in reversed(pointers):
        path.append(froms[path[-1]])
    return path[::-1]


def in_steps(logits: Tensor, scheme: Scheme) -> list[int]:
    """Viterbi with torch's operations on the labels of one token at a time."""
    sums, pointers = scheme.begin.double() + logits[0], []
    steps = scheme.transitions.double()
    for row in logits[1:].double():
        best = (sums[:, None] + steps).max(0)
        sums = best.values + row
        pointers.append(best.indices)
    path = [int((sums + scheme.end).argmax())]
    for froms in reversed(pointers):
        path.append(int(froms[path[-1]]))
    return path[::-1]


def document(num_tokens: int) -> Document:
    """A text of words of one token, six characters each and a space."""
    offsets = torch.arange(num_tokens)[:, None] * 7 + torch.tensor([0, 6])
    empty = torch.zeros(0, dtype=torch.int64)
    return Document(0, "abcdef " * num_tokens, empty, None, offsets, 1, 1.0)


def ways(logits: Tensor, scheme: Scheme) -> dict[str, tuple[Callable[[], object], float]]:
    """The call of each way, and the number by which its seconds are those of all tokens."""
    known = partial(viterbi, transitions=scheme.transitions, begin=scheme.begin, end=scheme.end)
    few, some = logits[:LOOP_TOKENS], logits[:STEP_TOKENS]
    assert known(few).tolist() == in_python(few.tolist(), scheme), "labels differ from the loop's"
    assert known(some).tolist() == in_steps(some, scheme), "labels differ from those of torch"
    return {
        OWN: (lambda: known(logits), 1.0),
        ENTITIES: (partial(tags_of, document(len(logits)), logits, scheme, "first"), 1.0),
        LOOP: (lambda: in_python(few.tolist(), scheme), len(logits) / len(few)),
        STEPS: (lambda: in_steps(some, scheme), len(logits) / len(some)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--types", type=int, default=TYPES, help="types of entities; 12 have 25 labels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="output folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    labels = labels_of(options.types)
    scheme = read_scheme(dict(enumerate(labels)))
    logits = torch.randn(options.tokens, len(labels), generator=torch.Generator().manual_seed(0)) * 3
    logits[:, 0] += 12  # most tokens are outside
    calls = ways(logits, scheme)
    timings = measure({name: call for name, (call, _) in calls.items()}, rounds=options.rounds, budget=120.0)
    seconds = {name: timings[name].median * scale for name, (_, scale) in calls.items()}
    for name, value in seconds.items():
        print(f"{name:26}{value:10.3f} s{value / seconds[OWN]:9.1f} x")
    entities = len(tags_of(document(len(logits)), logits, scheme, "first").entities)
    shape = {"tokens": options.tokens, "labels": len(labels), "entities": entities, "loop": LOOP_TOKENS}
    found = {"shape": shape, "seconds": seconds, "machine": rows.machine(), "versions": rows.versions()}
    options.rows.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found | rows.commit(), indent=1)
    (options.rows / "tag_decoding.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
