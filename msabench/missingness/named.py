"""Names of grids and averages in docstrings, which are also what ``--help`` prints. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from msabench.missingness.conditions import AVERAGES, GRIDS

Function = TypeVar("Function", bound=Callable[..., object])


def naming(**others: Iterable[str]) -> Callable[[Function], Function]:
    """Fill in ``{grids}`` and ``{averages}`` where a function's docstring has them.

    Args:
        others: Further names that may stand in braces, and what is listed there.

    Returns:
        A decorator that leaves the function as it is otherwise.

    >>> @naming(colours=["red", "blue"])
    ... def paint() -> None:
    ...     "Colours: {colours}."
    >>> paint.__doc__
    'Colours: red, blue.'
    """
    lists: Mapping[str, Iterable[str]] = {"grids": GRIDS, "averages": AVERAGES, **others}

    def filled(function: Function) -> Function:
        for name, listed in lists.items():
            # Without docstrings (python -OO) there is nothing to fill in.
            function.__doc__ = function.__doc__ and function.__doc__.replace(f"{{{name}}}", ", ".join(listed))
        return function

    return filled
