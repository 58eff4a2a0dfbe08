"""patch, unpatch, patched: one transformers model with lckernels' attention, reversible.

A dry run on the meta device shows the calls of attention; the plan of a patch is made of them.

    api.py                the public functions
    arguments.py          checks of their arguments
    dry_run.py            the attention calls of a model, recorded on the meta device
    skeleton.py           the copy of the model that a dry run runs
    attention_modules.py  layers that are attention by the names of their classes
    cross.py              cross attention, by the arguments of a call
    plan.py               a dry run -> the report and the settings of layers
    modules.py            changes of modules, temporarily or until they are undone
    methods.py, views.py  methods that run on a view of their module, whose config names lckernels
    fingerprint.py        whether a model is still what a decision was made for
    config_notes.py       fields of a config with another effect than their names
    config_layers.py      the attention layers of each config
    config_windows.py     the windows that its fields name
    config_use.py         whether a forward reads a config
    stored_config.py      where a config and its config.json differ
    linear/               linear layers on packed weights
"""

from lckernels.hf.patch.api import patch, patched, unpatch

__all__ = ["patch", "patched", "unpatch"]
