"""lckernels.backends.triton.tune in Triton's interpreter, with a clock that returns given times for tiles.

A program for TRITON_INTERPRET=1: it prints the tiles of each key before and after.
"""

import torch

from lckernels.backends.triton import tune, tuned
from lckernels.backends.triton.tiles import TABLE, Key, Tiles

PROBLEM = tune.Problem(seqlen=24, num_heads=2, num_kv_heads=1, window=12, chunk_len=16, overlap=4)
WANTED = {
    Key("forward", 64, "fp32"): Tiles(32, 16, 4, 2),
    Key("backward_bias", 64, "fp32"): Tiles(16, 32, 4, 1),
    Key("chunked_backward_q", 64, "fp32"): Tiles(32, 32, 4, 1),
}


def main() -> None:
    for key, wanted in WANTED.items():
        # 1 s, and 1 s more for each size that differs from the wanted one.
        def clock(call: tune.Call, key: Key = key, wanted: Tiles = wanted) -> float:
            tried = tuned.tiles(tune.chip_of(torch.device("cpu"))).get(key, TABLE[key])
            return 1.0 + sum(x != y for x, y in zip(tried, wanted, strict=True))

        (row,) = tune.tune([key], torch.device("cpu"), clock, PROBLEM)
        assert row.key == key and row.after == wanted, row
        assert row.seconds_after == 1.0, row
        print(*key, row.before, row.after)


if __name__ == "__main__":
    main()
