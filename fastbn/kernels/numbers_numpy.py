"""The functions of `numbers` in plain NumPy, for NUMBA_DISABLE_JIT=1: the same arithmetic, the same bits."""

import numpy as np

from fastbn.kernels.simd_numpy import LANES, _computed_in, _from_memory, _to_memory, _vec

COLUMNS = 64


def take(memory, whole, index, count, model):
    return take_apart(memory, whole, index, 1, LANES if count is None else count, model)


def take_apart(memory, whole, index, stride, count, model):
    lanes = np.zeros(LANES, _computed_in(model))
    values = memory[index : index + stride * (count - 1) + 1 : stride]
    lanes[:count] = values if whole is not None else _from_memory(values)
    return _vec(lanes)


def planes3(memory, whole, index, model):
    return tuple(take_apart(memory, whole, index + c, 3, LANES, model) for c in range(3))


def planes4(memory, whole, index, model):
    return tuple(take_apart(memory, whole, index + c, 4, LANES, model) for c in range(4))


def woven3(vecs):
    return tuple(_vec(part) for part in np.stack(vecs, axis=1).reshape(-1, LANES))


woven4 = woven3


def fitted(vec, memory, whole):
    if whole is not None:
        return vec
    with np.errstate(all="ignore"):
        return vec.astype(_computed_in(memory))


def put(memory, whole, index, vec, count):
    count = LANES if count is None else count
    if whole is None:
        memory[index : index + count] = _to_memory(vec[:count], memory.dtype)
        return
    info = np.iinfo(memory.dtype)
    kept = np.minimum(np.maximum(np.asarray(vec[:count]), float(info.min)), float(info.max))
    memory[index : index + count] = np.rint(kept).astype(memory.dtype)


def flow(memory, whole, index, first, second):
    put(memory, whole, index, first, None)
    put(memory, whole, index + LANES, second, None)


def add_columns(memory, index, stride, rows, sums, squares):
    for r in range(rows):
        v = memory[index + r * stride : index + r * stride + COLUMNS].astype(np.int64)
        sums[:COLUMNS] += v
        squares[:COLUMNS] += v * v


def add_split(memory, where, spread, place, strides, rows, count, sums):
    (i, k), lanes, dtype = place, LANES if count is None else count, memory.dtype
    for r in range(rows):
        t = memory[i + r * strides[0] : i + r * strides[0] + lanes]
        t = (t ^ np.uint64(1 << 63)).view(np.int64) if dtype == np.uint64 else t.astype(np.int64)
        counts = np.ones(lanes, bool)
        if where is not None:
            first = k + r * strides[1]
            counts = np.broadcast_to(where[first : first + (1 if spread is None else lanes)] != 0, lanes)
        for number, term in enumerate([counts, *_split_terms(np.where(counts, t, 0), dtype.itemsize)]):
            sums[number * LANES : number * LANES + lanes] += term


def _split_terms(t, itemsize):
    lower, upper = np.int64((1 << 32) - 1), np.int64(32)
    if itemsize < 8:
        square = t * t
        return [t, square & lower, square >> upper & lower]
    low, high = t & lower, t >> upper
    squares, products, high_squares = low * low, high * low, high * high
    return [
        *(low, high, squares & lower, squares >> upper & lower, products & lower, products >> upper),
        *(high_squares & lower, high_squares >> upper),
    ]
