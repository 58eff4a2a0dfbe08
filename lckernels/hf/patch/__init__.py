"""patch, unpatch, patched: one transformers model with lckernels' attention, reversible.

api.py        the public functions
arguments.py  checks of their arguments
dry_run.py    which attention calls a model makes, found on the meta device
skeleton.py   the copy of the model that the dry run uses, and its inputs
plan.py       from a dry run to a report and settings of layers
modules.py    the changes of modules, temporary or until they are undone
"""

from lckernels.hf.patch.api import patch, patched, unpatch

__all__ = ["patch", "patched", "unpatch"]
