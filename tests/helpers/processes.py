"""A function in two gloo processes on the CPU, each with the environment that torchrun sets."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

WORLD = 2


def in_two_processes(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What function(rank, *arguments) returns in each process.

    Args:
        function: of a module's top level; it leaves no DDP module behind but in cycles of references.
        folder: for what the processes share and return.
        arguments: that can be pickled.
    """
    multiprocessing.set_forkserver_preload(["torch", "transformers", "lckernels.hf"])
    multiprocessing.start_processes(_of_rank, (function, folder, arguments), WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _of_rank(rank: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "OMP_NUM_THREADS": "1"}
    os.environ |= {"WORLD_SIZE": f"{WORLD}", "LOCAL_WORLD_SIZE": f"{WORLD}"}
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    gc.collect()  # DDP is freed before its group: after it torch 2.13 may deadlock
    torch.distributed.destroy_process_group()
