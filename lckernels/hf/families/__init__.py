'''What is particular to one architecture of transformers: one file for each, found by listing this folder.

A file defines `FAMILY = Family(...)`. All hooks are optional; `lckernels.hf.family.Family` describes them. A
family of another package is registered by `lckernels.hf.family.register_family`. For example, an architecture
with a mask function of its own, whose attention layers are unsupported if they have a memory:

    """Toy: windows of two sizes, a memory of keys."""

    from lckernels.hf.family import Family
    from lckernels.hf.masks.patterns import two_sided


    def _memory(layer):
        return "it adds keys of a memory" if layer.memory is not None else ""


    FAMILY = Family(
        name="toy",
        mask_readers={
            ("modeling_toy", "window_overlay.<locals>.inner_mask"): lambda closure: two_sided(
                closure["before"], closure["after"]
            )
        },
        unsupported=_memory,
    )
'''

import pkgutil
from importlib import import_module

from lckernels.hf.family import register_family

for _module in pkgutil.iter_modules(__path__):
    register_family(import_module(f"{__name__}.{_module.name}").FAMILY)
