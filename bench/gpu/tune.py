"""Finds the fastest tiles of the Triton kernels on a GPU, and stores them: part of bench/gpu.sh."""

import argparse
import re
import sys
from pathlib import Path

import torch

from bench.harness import rows
from lckernels.backends.triton import tune, tuned
from lckernels.backends.triton.tiles import TABLE, chip_of

# The passes that most models run; all passes take an hour.
FIRST = r"^(forward|backward_kv|backward_q) (64|128) half$"


def main(arguments: list[str] | None = None) -> int:
    """Tunes pass after pass and writes the table after each; 1 if none matches or none can be timed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="folder for the table")
    parser.add_argument("--only", default=FIRST, help="passes whose names match this regular expression")
    options = parser.parse_args(arguments)
    keys = [key for key in TABLE if re.search(options.only, str(key))]
    if not keys:
        print(f"no pass matches {options.only}")
        return 1
    device, found = torch.device("cuda"), {}
    target = options.rows / tuned.path(chip_of(device)).name
    for row in tune.tune(keys, device, tune.gpu_seconds):
        print(row.line, flush=True)
        if not row.failure:
            found[row.key] = row.after
            target.write_text(tuned.text(found), encoding="utf-8")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
