"""Loops compiled by numba where it is installed (the extra `fast`); plain Python elsewhere, which only tests run."""

from collections.abc import Callable
from typing import Any

try:
    import numba

    COMPILED = True
except ImportError:
    COMPILED = False


def compiled(*, reordered: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that compiles a function; what is compiled is kept on disk where there is a place for it.

    Args:
        reordered: whether sums may be taken in any order; NaN and infinity stay as they are.

    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not COMPILED:
            return function
        fastmath = {"reassoc", "contract", "nsz"} if reordered else False
        options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the home directory can be written
            return numba.njit(**options)(function)

    return decorate
