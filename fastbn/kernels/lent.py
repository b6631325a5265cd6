"""Arrays where NumPy keeps them, read by compiled code itself.

Numba's own way to take an array makes an object that counts its users, and asks for Python's lock to let go of it:
60 ns an array.  But the caller holds its arguments while it waits for a call to return, so here they are only lent, by
a few loads.  One that is taken with one axis may have any number of them, and is then flat.

Where an object's fields lie is part of the binary interfaces that extension modules are compiled for.  `KNOWN` tells
whether they lie there indeed, and whether Numba, in a part that is private to it, still asks for arrays in the way that
is changed here; else arrays are taken in Numba's own way.
"""

import ctypes

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config

from fastbn.kernels import lock

try:
    from numba.core.base import BaseContext
    from numba.core.callwrapper import PyCallWrapper, _ArgManager
    from numba.core.pythonapi import NativeValue, PythonAPI
    from numba.np.arrayobj import populate_array
except ImportError:
    PythonAPI = object

# Bytes from where an object begins:
HEAD = object.__basicsize__
TYPE = HEAD - 8
DATA, NDIM, SHAPE, STRIDES, DTYPE, FLAGS = (HEAD + 8 * word for word in (0, 1, 2, 3, 5, 6))  # of an array,
LENGTH, ITEMS = HEAD, tuple.__basicsize__  # of a tuple

_REGION = "parallel.gufunc.wrapper"  # what Numba calls a module with the entry of a parallel region

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def _lie_there():
    """Whether an array and a tuple have their fields where it is said above."""
    if ctypes.sizeof(ctypes.c_void_p) != 8 or np.ndarray.__basicsize__ < FLAGS + 8:
        return False

    def word(address, kind=ctypes.c_int64):
        return kind.from_address(address).value

    array = np.zeros((3, 4), np.float32)[::2, 1:]
    pair, begin = (array, None), id(array)
    words = [word(begin + place) for place in (TYPE, DATA, DTYPE)]
    halves = [word(begin + place, ctypes.c_int32) for place in (NDIM, FLAGS)]
    lengths = [word(word(begin + place) + 8 * axis) for place in (SHAPE, STRIDES) for axis in (0, 1)]
    items = [word(id(pair) + place) for place in (LENGTH, ITEMS, ITEMS + 8)]
    return (
        words == [id(np.ndarray), array.__array_interface__["data"][0], id(array.dtype)]
        and halves == [2, array.flags.num]
        and lengths == [*array.shape, *array.strides]
        and items == [2, begin, id(None)]
    )


def _is_asked():
    """Whether a function that Numba makes to be called from Python takes its arguments through what `lend` replaces."""
    try:
        builds, adds = (f.__code__.co_names for f in (PyCallWrapper.build, _ArgManager.add_arg))
        makes = BaseContext.get_python_api.__code__.co_names
    except (NameError, AttributeError):
        return False
    return "get_python_api" in builds and "to_native_value" in adds and "PythonAPI" in makes


KNOWN = not config.DISABLE_JIT and _is_asked() and _lie_there()


class _Lending(PythonAPI):
    """What makes native values of Python's, with arrays in C order lent."""

    def __init__(self, context, builder, threads):
        super().__init__(context, builder)
        self._region = builder.module.name == _REGION
        self._size = None if self._region else cgutils.alloca_once_value(builder, _INT64(lock.SHORT if threads else 0))

    def gil_ensure(self):
        return None if self._region else super().gil_ensure()

    def gil_release(self, gil):
        if not self._region:
            super().gil_release(gil)

    def save_thread(self):
        return None if self._region else lock.let_go(self.builder, self.builder.load(self._size))

    def restore_thread(self, thread_state):
        if not self._region:
            lock.take_back(self.builder, thread_state, self.builder.load(self._size))

    def to_native_value(self, typ, obj):
        if isinstance(typ, types.Array) and typ.layout == "C" and isinstance(typ.dtype, (types.Number, types.Boolean)):
            array = _lent(self.context, self.builder, typ, obj)
            self._note(self.builder.mul(array.nitems, array.itemsize))
            return NativeValue(array._getvalue())
        return super().to_native_value(typ, obj)

    def _note(self, size):
        most = self.builder.load(self._size)
        larger = self.builder.icmp_signed(">", size, most)
        self.builder.store(self.builder.select(larger, size, most), self._size)


def lend(context, threads):
    """Have functions that are compiled in this context borrow arrays, and the lock, from their callers in Python.

    threads: whether they are for several, which may need the lock to tell of an error.
    """
    if KNOWN:
        context.get_python_api = lambda builder: _Lending(context, builder, threads)


def _lent(context, builder, kind, obj):
    def load(begin, place, what):
        begin = builder.bitcast(begin, ir.IntType(8).as_pointer())
        field = builder.gep(begin, [ir.Constant(_INT64, place)])
        return builder.load(builder.bitcast(field, what.as_pointer()))

    array = context.make_array(kind)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    lengths = load(obj, SHAPE, _INT64.as_pointer())
    if kind.ndim == 1:
        size = cgutils.alloca_once_value(builder, ir.Constant(_INT64, 1))
        ndim = builder.sext(load(obj, NDIM, _INT32), _INT64)
        with cgutils.for_range(builder, ndim) as loop:
            length = builder.load(builder.gep(lengths, [loop.index]))
            builder.store(builder.mul(builder.load(size), length), size)
        shape = [builder.load(size)]
    else:
        shape = [load(lengths, 8 * axis, _INT64) for axis in range(kind.ndim)]
    strides, step = [], ir.Constant(_INT64, itemsize)
    for length in reversed(shape):
        strides.insert(0, step)
        step = builder.mul(step, length)
    data = load(obj, DATA, array.data.type)
    populate_array(array, data, tuple(shape), tuple(strides), itemsize, meminfo=None)
    return array
