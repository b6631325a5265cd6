"""NumPy's error settings (`numpy.seterr`, `numpy.errstate`) are for the user's arithmetic; they never reach fastbn's.

An infinite element, a dead channel or a number that leaves its type's range shows in the result, and says enough there.
Compiled kernels know no such settings.  What NumPy computes of statistics, weights and gradients goes through here.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
P = ParamSpec("P")
R = TypeVar("R")


def quiet() -> np.errstate:
    """A context in which arithmetic neither warns nor raises."""
    return np.errstate(all="ignore")


def quietly(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose arithmetic neither warns nor raises."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return call


def cast(a: Array, dtype: DTypeLike) -> Array:
    """The array in this type, itself if it has it."""
    if a.dtype == dtype:
        return a
    with np.errstate(all="ignore"):
        return a.astype(dtype)
