"""The most bytes of tensors that exist at once, of results of torch's ops: the same on any machine."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages of the results of all ops, the backward's too, until they are freed.

    Attributes:
        now: bytes of those that exist.
        peak: the most so far.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._counted = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self._count(x.untyped_storage())
        return result

    def _count(self, storage):
        if storage in self._counted:
            return
        self._counted.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size):
        self.now -= size
