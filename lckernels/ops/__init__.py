"""The public torch ops `lckernels::*`, one module per family; the only package that registers torch ops.

Each op has one Python kernel for all devices, which calls the backend that `registry.choose` returns.
Backends have no autograd of their own: the backward of an op is a second op. A second-order gradient raises
(`registration.first_order`).
"""

from lckernels.imports import when_imported
from lckernels.ops import attention, chunked, overlap, states

__all__ = ["attention", "chunked", "overlap", "states"]


def _register_flop_formulas() -> None:
    from lckernels.ops import flop_formulas

    flop_formulas.register()


# torch's counter imports Triton where it is installed, which takes longer than lckernels does.
when_imported("torch.utils.flop_counter", _register_flop_formulas)
