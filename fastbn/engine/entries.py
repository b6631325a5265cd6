"""Compiled code, called without Numba's look at the types of the arguments, which takes as long as a small array."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
from numba import from_dtype, typeof, types
from numpy.typing import NDArray

from fastbn.kernels import likeness
from fastbn.kernels.jit import Driver
from fastbn.kernels.lent import KNOWN

Array = NDArray[Any]

_BITS = {"float16": np.dtype(np.uint16), "bfloat16": np.dtype(np.int16), "bool": np.dtype(np.uint8)}

_SHAPED = {"sums", "group_slopes", "row_slopes", "grads", "row_grads"}  # what kernels call arrays whose axes they know


class Entries(list[Any]):
    """The serial and the parallel build of a driver, for arguments of the same types every time.

    An item is None until its build has been compiled, or loaded; then it takes the arguments, arrays in C order as they
    lie, whatever their axes: but for a few, kernels take them for flat.
    """

    __slots__ = ("_driver",)

    def __init__(self, driver: Driver) -> None:
        super().__init__((None, None))
        self._driver = driver

    def find(self, parallel: bool, args: tuple[Any, ...]) -> Callable[..., None]:
        """The item for arguments like these."""
        build: Any = self._driver[parallel]
        names = signature(build).parameters
        flat = tuple(_flattened(v, name not in _SHAPED) for name, v in zip(names, args, strict=True))
        self[parallel] = found = entry_point(build, flat)
        return found

    def __call__(self, parallel: bool, args: tuple[Any, ...]) -> None:
        (self[parallel] or self.find(parallel, args))(*args)


def entry_point(build: Any, args: tuple[Any, ...]) -> Callable[..., None]:
    """What runs a build on arguments like these; where Numba does not tell, the build itself, given what it knows.

    Arrays of one axis stand for any others in C order, which are taken as flat.  Numba's own entry reads memory as its
    signature says.  So one for writable arrays of the integers that hold the bits of half precision also takes
    read-only arrays, which kernels never write to, and arrays of half precision.
    """
    flat = [type(v) is np.ndarray and v.ndim == 1 for v in args]
    if hasattr(build, "compile"):
        found = build.compile(tuple(_type(v) for v in args))
        if found is not None:
            return found if KNOWN else lambda *args: found(*map(_flattened, args, flat))
    return lambda *args: build(*map(_as_bits, map(_flattened, args, flat)))


def comparing(noted: Array) -> Callable[..., int]:
    """`likeness.alike`, for objects of all kinds."""
    found = likeness.alike.compile((typeof(noted), *[likeness.OBJECT] * 5)) if KNOWN else None
    return found or likeness.alike_in_python


def _flattened(value: Any, flat: bool) -> Any:
    return value.reshape(-1) if flat and type(value) is np.ndarray else value


def _type(value: Any) -> Any:
    """The type that kernels are compiled for."""
    if isinstance(value, tuple):
        return types.BaseTuple.from_types([_type(v) for v in value])
    if type(value) is np.ndarray and value.dtype.names is None:
        assert value.flags.c_contiguous, "the entry would read what lies between the elements"
        return types.Array(from_dtype(_BITS.get(value.dtype.name, value.dtype)), value.ndim, "C")
    return typeof(value)


def _as_bits(value: Any) -> Any:
    """An array as what kernels take its elements for."""
    if isinstance(value, tuple):
        return tuple(_as_bits(v) for v in value)
    if type(value) is np.ndarray and value.dtype.name in _BITS:
        return value.view(_BITS[value.dtype.name])
    return value
