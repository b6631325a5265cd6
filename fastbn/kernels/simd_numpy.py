"""The functions of `simd` in plain NumPy, for NUMBA_DISABLE_JIT=1: the same arithmetic, lane by lane, the same bits."""

import numpy as np

LANES = 16


class Vec(np.ndarray):
    """16 lanes; a class of its own, so that `at` can tell it from an array."""


def _vec(values):
    return np.asarray(values).view(Vec)


def _computed_in(array):
    if isinstance(array, tuple):
        array = array[0]
    return np.float64 if array.dtype == np.float64 else np.float32


def _from_memory(raw):
    """uint16 arrays hold the bits of float16, int16 those of bfloat16."""
    if raw.dtype == np.uint16:
        return raw.view(np.float16).astype(np.float32)
    if raw.dtype == np.int16:
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw


def _to_memory(vec, dtype):
    if dtype == np.uint16:
        with np.errstate(over="ignore"):
            return np.asarray(vec).astype(np.float16).view(np.uint16)
    if dtype == np.int16:
        bits = np.asarray(vec).view(np.uint32)
        rounded_up = bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))
        result = np.where(np.isnan(vec), bits >> 16 | 0x40, rounded_up >> 16)
        return result.astype(np.uint16).view(np.int16)
    return vec


def address(array):
    if isinstance(array, tuple):
        return tuple(a.reshape(-1) for a in array)
    return None if array is None else array.reshape(-1)


def advance(memory, count):
    return None if memory is None else memory[count:]


def room(count):
    return np.empty(count)


def load(memory, index):
    return load_part(memory, index, LANES)


def load_part(memory, index, count):
    if isinstance(memory, tuple):
        total = load_part(memory[0], index, count) + load_part(memory[1], index, count)
        return _vec(_from_memory(_to_memory(total, memory[0].dtype)))
    count = LANES if count is None else count
    lanes = np.zeros(LANES, _computed_in(memory))
    lanes[:count] = _from_memory(memory[index : index + count])
    return _vec(lanes)


def element(memory, index):
    return np.float64(load_part(memory, index, 1)[0])


def at(source, index):
    return source if source is None or isinstance(source, Vec) else load(source, index)


def at_part(source, index, count):
    return source if source is None or isinstance(source, Vec) else load_part(source, index, count)


def store(memory, index, vec):
    memory[index : index + LANES] = _to_memory(vec, memory.dtype)


def stream(memory, index, first, second):
    store(memory, index, first)
    store(memory, index + LANES, second)


def store_part(memory, index, vec, count):
    count = LANES if count is None else count
    memory[index : index + count] = _to_memory(vec[:count], memory.dtype)


def gap(memory, index):
    if isinstance(memory, tuple):
        memory = memory[0]
    return -(memory.ctypes.data + index * memory.itemsize) % 64 // memory.itemsize


def fetch(memory, index):
    pass


fetch_early = fetch


def splat(memory, value):
    return _vec(np.full(LANES, value, _computed_in(memory)))


def rounded(memory, value):
    return np.float64(_computed_in(memory)(value))


def splat64(value):
    return _vec(np.full(LANES, value))


def wide(vec):
    return None if vec is None else vec.astype(np.float64)


def like(vec, model):
    return vec.astype(model.dtype)


def narrow(memory):
    return _computed_in(memory) == np.float32


def keep(vec, count):
    return vec if count is None else _vec(np.where(np.arange(LANES) < count, vec, vec.dtype.type(0)))


def chosen(vec, where, index, count):
    if where is None:
        return vec
    count = LANES if count is None else count
    lanes = np.zeros(LANES, bool)
    lanes[:count] = where[index : index + count] != 0
    return _vec(np.where(lanes, vec, vec.dtype.type(0)))


def less(a, b, first, second):
    dtype = (a if isinstance(a, Vec) else b).dtype.type
    return _vec(np.where(np.less(a, b), first, second).astype(dtype, copy=False))


def per_type(vec, narrow_value, wide_value):
    return _vec(np.full(LANES, narrow_value if vec.dtype == np.float32 else wide_value, vec.dtype))


def polynomial(narrow_series, wide_series):
    def value(vec):
        *rest, last = narrow_series if vec.dtype == np.float32 else wide_series
        result = per_type(vec, last, last)
        for c in reversed(rest):
            result = result * vec + vec.dtype.type(c)
        return result

    return value


def scale_by_power(vec, power, rounder):
    integer, fraction, bias = (np.int32, 23, 127) if vec.dtype == np.float32 else (np.int64, 52, 1023)
    k = np.asarray(power).view(integer) - np.asarray(rounder).view(integer)
    half = k >> 1
    with np.errstate(over="ignore", under="ignore"):
        for part in (half, k - half):
            vec = vec * _vec(((part + integer(bias)) << integer(fraction)).view(vec.dtype))
    return vec


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
