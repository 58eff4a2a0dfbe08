"""Marks for some of the cases of a parametrised test."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def marks_of_case(conditions: Mapping[str, Callable[..., bool]], parameters: Mapping[str, Any]) -> list[str]:
    """The marks whose condition is true for a case.

    Args:
        conditions: the condition of each mark, a function of some of the test's parameters, by their names.
        parameters: the case's values of all parameters.
    """

    def holds(condition: Callable[..., bool]) -> bool:
        names = inspect.signature(condition).parameters
        return condition(**{name: value for name, value in parameters.items() if name in names})

    return [mark for mark, condition in conditions.items() if holds(condition)]
