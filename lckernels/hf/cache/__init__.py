"""KV caches of a patched model: with a window their layers keep the sink tokens and the window's last keys.

layer.py is such a layer; convert.py gives them to a cache of transformers; methods.py has the methods of a
model that do so. rotation.py and learned.py have the positions of `patch(positions="cache")`.
static_windows.py checks static caches of layers with a window of their own.
"""

from lckernels.hf.cache.layer import RollingLayer

__all__ = ["RollingLayer"]
