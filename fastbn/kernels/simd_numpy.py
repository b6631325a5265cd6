"""The functions of `simd` in plain NumPy, for NUMBA_DISABLE_JIT=1: the same arithmetic, lane by lane, the same bits."""

import numpy as np

LANES = 16


class Vec(np.ndarray):
    """16 lanes; a class of its own, so that `at` can tell it from an array."""


def _vec(values):
    return np.asarray(values).view(Vec)


def _computed_in(array):
    return np.float64 if array.dtype == np.float64 else np.float32


def load(array, index):
    return _vec(array[index : index + LANES].astype(_computed_in(array)))


def load_part(array, index, count):
    lanes = np.zeros(LANES, _computed_in(array))
    lanes[:count] = array[index : index + count]
    return _vec(lanes)


def at(source, index):
    return source if source is None or isinstance(source, Vec) else load(source, index)


def at_part(source, index, count):
    return source if source is None or isinstance(source, Vec) else load_part(source, index, count)


def store(array, index, vec):
    array[index : index + LANES] = vec


stream = store


def store_part(array, index, vec, count):
    array[index : index + count] = vec[:count]


def gap(array, index):
    alignment = min(64, LANES * array.itemsize)
    return -(array.ctypes.data + index * array.itemsize) % alignment // array.itemsize


def splat(array, value):
    return _vec(np.full(LANES, value, _computed_in(array)))


def rounded(array, value):
    return np.float64(_computed_in(array)(value))


def splat64(value):
    return _vec(np.full(LANES, value))


def wide(vec):
    return None if vec is None else vec.astype(np.float64)


def keep(vec, count):
    return _vec(np.where(np.arange(LANES) < count, vec, vec.dtype.type(0)))


def times(vec, factor):
    return vec if factor is None else vec * factor


def plus(vec, term):
    return vec if term is None else vec + term


def minus(vec, term):
    return vec if term is None else vec - term


def of_row(values, row):
    return None if values is None else _vec(np.full(LANES, values[row], _computed_in(values)))


def either(first, second):
    return second if first is None else first


def total(vec):
    lanes = np.asarray(vec)
    while lanes.size > 1:
        half = lanes.size // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]
