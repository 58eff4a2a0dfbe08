"""Where a warning points: to code outside of lckernels."""

import inspect

_INSIDE = {"lckernels", "torch"}  # torch calls a module's forward


def outer_stacklevel(*packages: str) -> int:
    """The `stacklevel` with which warnings.warn points to the first caller outside of lckernels and torch.

    Args:
        packages: further packages that are skipped.
    """
    inside = _INSIDE.union(packages)
    frame, level = inspect.currentframe().f_back, 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    return level
