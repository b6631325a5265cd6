"""The only place where Numba's options appear."""

from types import FunctionType
from typing import NamedTuple

from numba import njit
from numba.core import config

from fastbn.kernels import cache

# No fast-math flag anywhere: the order of every sum stands in the source (see simd), so no compiler may change it.
_OPTIONS = {"error_model": "numpy", "nogil": True}


class Driver(NamedTuple):
    """One Python body compiled twice; both builds give the same bits."""

    serial: FunctionType
    parallel: FunctionType


def tile(function):
    """A small function called from drivers, inlined by LLVM."""
    return njit(**_OPTIONS)(function)


def driver(function):
    """A loop over work items, as a serial and as a parallel build of the same source."""
    if config.DISABLE_JIT:
        return Driver(function, function)
    serial = njit(**_OPTIONS)(_renamed(function, "serial"))
    parallel = njit(**_OPTIONS, parallel=True, boundscheck=False)(_renamed(function, "parallel"))
    for build in (serial, parallel):
        cache.attach(build)
    return Driver(serial, parallel)


def _renamed(function, build):
    """A twin under its own qualified name: Numba's disk cache tells functions apart by name, not by options."""
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__qualname__ = f"{function.__qualname__}.{build}"
    twin.__doc__ = function.__doc__
    twin.__module__ = function.__module__
    return twin
