"""patch, unpatch, patched: one transformers model with lckernels' attention, reversible.

api.py has the public functions, arguments.py the checks of their arguments. dry_run.py records the attention
calls of a model on the meta device, in the copy that skeleton.py makes. plan.py makes a report and settings
of layers from them. modules.py changes modules, temporarily or until the change is undone.
"""

from lckernels.hf.patch.api import patch, patched, unpatch

__all__ = ["patch", "patched", "unpatch"]
