"""A callback of Trainer that lets longer documents into the batches as training goes on."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback

from lckernels.checks import bad, integer, integers, number

_SEEDS_OF_EPOCH = 2**20  # more than the passes of an epoch


class LengthCurriculum(TrainerCallback):
    """Short documents first: `Trainer(..., callbacks=[LengthCurriculum(lengths, stages)])`.

    Trainer's own sampler, in batches grouped by length too, is read past the documents that are still too
    long, and from its start again until an epoch is full. So steps and epochs are as many as without the
    callback, documents that fit are read more than once in an early epoch, and a run continues from a
    checkpoint with the batches that it would have had. A sampler without a generator of its own, such as
    that of group_by_length, draws by Trainer's seed. The dataset does not change.

    Args:
        lengths: tokens of each document of `train_dataset`, in its order.
        stages: fraction of the training at which a stage begins -> the most tokens of a document in it, None
            for any. The first begins at 0.0; limits increase. A stage ends within an epoch too.

    Attributes:
        lengths: as given.
        stages: the same, in increasing order; inf for None.

    Raises:
        TypeError: a limit that is no integer; stages that are no mapping.
        ValueError: no length, or one that is no integer >= 1; stages without 0.0, outside [0, 1) or with
            limits that do not increase; no document that fits in the first stage. At the start of training:
            lengths of another number of documents; a dataset without a sampler, such as an iterable one.
    """

    def __init__(self, lengths: Sequence[int], stages: Mapping[float, int | None]) -> None:
        self.lengths = integers("lengths", lengths).tolist()
        wrong = [i for i, length in enumerate(self.lengths) if length < 1]
        if wrong:
            got = f"{self.lengths[wrong[0]]} for document {wrong[0]}"
            raise bad("lengths", got, "expected integers >= 1, the tokens of each document")
        self.stages = _stages(stages)
        if not any(length <= self.stages[0][1] for length in self.lengths):
            got = f"documents of {min(self.lengths, default=0)} or more tokens"
            raise bad(
                "lengths", got, f"expected one that fits in the first stage, {self.stages[0][1]} tokens"
            )

    def limit(self, progress: float) -> float:
        """The most tokens of a document after this fraction of the training, >= 0; inf without a limit."""
        return next(limit for start, limit in reversed(self.stages) if max(progress, 0.0) >= start)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: DataLoader | None = None, **kwargs: Any
    ) -> None:
        """Puts the documents of each stage between Trainer's sampler and its batches."""
        sampler = train_dataloader.get_sampler() if hasattr(train_dataloader, "get_sampler") else None
        if sampler is None or not hasattr(sampler, "__len__"):
            got = type(getattr(train_dataloader, "dataset", None)).__name__
            raise bad("train_dataset", f"{got} without a sampler", "LengthCurriculum requires its length")
        count = len(train_dataloader.dataset)
        if len(self.lengths) != count:
            raise bad("lengths", f"{len(self.lengths)} lengths", f"train_dataset has {count} documents")
        steps = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)  # of an epoch
        epochs = state.max_steps / max(1, steps)
        seed = args.seed if args.data_seed is None else args.data_seed
        train_dataloader.set_sampler(_Admitted(sampler, self.lengths, self.limit, epochs, seed))


class _Admitted(Sampler[int]):
    """The indices of a sampler whose documents are short enough at that point of the training.

    Args:
        sampler: Trainer's.
        lengths: tokens of each document.
        limit: fraction of the training -> the most tokens.
        epochs: of the training.
        seed: of what the sampler draws from torch's global generator.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        lengths: Sequence[int],
        limit: Callable[[float], float],
        epochs: float,
        seed: int,
    ) -> None:
        self.sampler, self.lengths, self.limit, self.epochs = sampler, lengths, limit, epochs
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch."""
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        start, size, count, passes = self.epoch, len(self), 0, 0
        while count < size:
            before = count
            for index in self._order(start, passes):
                if self.lengths[index] <= self.limit((start + count / size) / self.epochs):
                    yield index
                    count += 1
                    if count == size:
                        return
            if count == before:
                allowed = "expected a sampler that has one that fits in the stage"
                raise bad("train_dataset", "a sampler without a short document", allowed)
            passes += 1

    def _order(self, epoch: int, number: int) -> list[int]:
        """The sampler's indices in a pass of an epoch, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed + _SEEDS_OF_EPOCH * epoch + number)
            return list(self.sampler)


def _stages(stages: Mapping[float, int | None]) -> list[tuple[float, float]]:
    """The stages in increasing order; raises as LengthCurriculum."""
    if not isinstance(stages, Mapping):
        raise TypeError(f"stages: got {type(stages).__name__}; expected {{0.0: 512, 0.5: None}} or the like")
    for start in stages:
        number("stages", start, 0)
    found = sorted(
        (float(start), math.inf if limit is None else integer("stages", limit, 1, alternative=" or None"))
        for start, limit in stages.items()
    )
    starts, limits = [start for start, _ in found], [limit for _, limit in found]
    if not found or starts[0] != 0 or starts[-1] >= 1:
        raise bad("stages", f"stages that begin at {starts}", "expected the first at 0.0, and all before 1.0")
    if any(after <= before for before, after in pairwise(limits)):
        raise bad("stages", f"limits {limits}", "expected limits that increase")
    return found
