"""A function of transformers' masks that old versions lack, and a record of the largest tensor."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

# None in transformers 5.17, which counts windows of packed sequences in cache slots.
REMAP = getattr(masking_utils, "remap_positions_for_packed_sequence", None)


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements in the storage of a tensor that an op returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, list | tuple) else [out]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out
