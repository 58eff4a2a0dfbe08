"""`answer` over the bundled book against encoding it alone: MiniLM with a random head for questions.

`python -m bench.suites.answer` prints a line of JSON per round, then medians and ratios. Both read the same
chunks, in turns; "encode" is the lengthened encoder on the row of question and book, without head and search;
"encoder" is its part of the time of `answer`. `--cpu-time` counts CPU seconds, for a machine with other load;
use it with one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median

import torch
import transformers
from torch import nn

import lckernels
from bench.cases import book
from bench.cases.minilm import model_folder
from bench.harness import rows
from bench.harness.memory import peak_bytes, reset_peak, resident_bytes
from lckernels.long.tokens import tokenize
from lckernels.tasks import answer
from lckernels.tasks.answering.answer import decode
from lckernels.tasks.documents import Document, read_document
from lckernels.text_files import read_text

QUESTION = "Which computer bug was a real moth?"
CHUNK_LEN, OVERLAP = 384, 128
TOP_K, MAX_ANSWER_TOKENS = 5, 30
MIB = 2**20
Clock = Callable[[], float]


def load() -> tuple[nn.Module, transformers.PreTrainedTokenizerBase]:
    """MiniLM with a random head for question answering, and its tokenizer."""
    torch.manual_seed(0)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(model_folder())
    return model.eval(), transformers.AutoTokenizer.from_pretrained(model_folder())


def search(document: Document, clock: Clock) -> dict[str, float]:
    """Seconds and MiB of the search in random scores of the document's size."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, len(document.offsets), generator=generator).double()
    before = resident_bytes()
    reset_peak()
    begin = clock()
    decode(document, scores, 0.0, MAX_ANSWER_TOKENS, TOP_K)
    seconds, peak = clock() - begin, peak_bytes()
    return {"search": seconds, "search_mib": 0.0 if peak is None else (peak - (before or 0)) / MIB}


@contextmanager
def encoder_times(model: nn.Module, clock: Clock) -> Iterator[list[float]]:
    """Seconds of each call of the model's encoder within."""
    seconds: list[float] = []
    hooks = [
        model.base_model.register_forward_pre_hook(lambda *_: seconds.append(-clock())),
        model.base_model.register_forward_hook(lambda *_: seconds.append(clock())),
    ]
    yield seconds
    for hook in hooks:
        hook.remove()


def measure(
    model: nn.Module, tokenizer: transformers.PreTrainedTokenizerBase, text: str, clock: Clock
) -> dict[str, float]:
    """Seconds of each part and of the whole, one after the other."""
    options = {"chunk_len": CHUNK_LEN, "overlap": OVERLAP}
    times = [clock()]
    tokens = tokenize(tokenizer, text, "MiniLM", QUESTION)
    times.append(clock())
    with lckernels.lengthened(model, tokenizer, **options), torch.no_grad():
        model.base_model(input_ids=tokens.input_ids, token_type_ids=tokens.token_type_ids)
    times.append(clock())
    with encoder_times(model, clock) as within:
        result = answer(
            model, tokenizer, QUESTION, text, TOP_K, max_answer_tokens=MAX_ANSWER_TOKENS, **options
        )
    times.append(clock())
    parts = [end - begin for begin, end in pairwise(times)]
    found = dict(zip(("tokenize", "encode", "answer"), parts, strict=True))
    found |= search(read_document(tokenizer, text, "MiniLM", first=QUESTION), clock)
    return found | {"encoder": sum(within), "tokens": result.num_tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--characters", type=int, default=0, help="first characters of the book; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds instead of seconds")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, tokenizer = load()
    text = read_text(book.PATH).content[: options.characters or None]
    clock = time.process_time if options.cpu_time else time.perf_counter
    measure(model, tokenizer, text[:5000], clock)
    samples = []
    for _ in range(options.rounds):
        samples.append(measure(model, tokenizer, text, clock))
        print(json.dumps({name: round(x, 4) for name, x in samples[-1].items()}), flush=True)
    middle = {name: median(sample[name] for sample in samples) for name in samples[0]}
    ratios = {
        "answer / encode": median(x["answer"] / x["encode"] for x in samples),
        "answer / (tokenize + encode)": median(x["answer"] / (x["tokenize"] + x["encode"]) for x in samples),
        "answer / its encoder": median(x["answer"] / x["encoder"] for x in samples),
        "search / encode": median(x["search"] / x["encode"] for x in samples),
    }
    print(json.dumps({name: round(x, 4) for name, x in {**middle, **ratios}.items()}))
    kind = "CPU seconds" if options.cpu_time else "seconds"
    about = {
        "unit": kind,
        "threads": torch.get_num_threads(),
        "machine": rows.machine(),
        "versions": rows.versions(),
    }
    print(json.dumps(about | rows.commit()))


if __name__ == "__main__":
    main()
