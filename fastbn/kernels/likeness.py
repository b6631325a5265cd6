"""Whether a call is like an earlier one: the kinds of what it is given, read where Python and NumPy keep them.

To ask three arrays for shape, dtype and flags takes Python as long as a small array takes to be normalized.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from fastbn.kernels.jit import tile, whole
from fastbn.kernels.lent import DTYPE, FLAGS, ITEMS, LENGTH, NDIM, SHAPE, STRIDES, TYPE

C_ORDER = 1  # the flag of an array whose strides follow from its shape

DIFFERENT, ALIKE, PERHAPS_OVERLAPPING = 0, 1, 2


def noted(settings, a, b, c, others, written, own):
    """What `alike` compares to, from a call whose operands are arrays or None.

    None and the types of arrays and tuples; the types of the settings; how many others there are, or -1; of every
    operand -1 if it is None, else its number of axes, dtype, flags, shape, and strides unless in C order; how many of
    the others are written to, and which these are, or -1 where `own`, that all own their memory, is not so.  Objects
    are told by where they lie.
    """
    tail = [len(written), *written] if own or not written else [-1]
    known = id(None), id(np.ndarray), id(tuple)
    return np.array([*known, *_types(settings), *_kinds(a, b, c, others), *tail], np.int64)


def _types(settings):
    """How many types follow, which are those of the settings, each tuple's followed by those of what is in it."""
    numbers = []
    for v in settings:
        numbers += id(type(v)), *([id(type(u)) for u in v] if type(v) is tuple else [])
    return [len(numbers), *numbers]


def _kinds(a, b, c, others):
    operands = (a, b, c) if others is None else (a, b, c, *others)
    numbers = [len(operands) - 3 if others is not None else -1]
    for v in operands:
        if v is None:
            numbers.append(-1)
        else:
            flags = v.flags.num
            numbers += v.ndim, id(v.dtype), flags, *v.shape
            if not flags & C_ORDER:
                numbers += v.strides
    return numbers


class ObjectType(types.Type):
    """An object of Python's, of which compiled code knows where it lies."""

    def __init__(self):
        super().__init__(name="Object")


OBJECT = ObjectType()

register_model(ObjectType)(models.OpaqueModel)


@unbox(ObjectType)
def _unbox(kind, obj, context):
    return NativeValue(obj)


@intrinsic
def _place(typing, obj):
    """Where an object lies."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(obj), codegen


def _loaded(bits):
    def load(typing, place):
        def codegen(context, builder, sig, args):
            value = builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()))
            return builder.sext(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(types.int64), codegen

    return intrinsic(load)


_word, _half = _loaded(64), _loaded(32)


@tile
def _like(noted, k, a):
    """Where the next operand is noted, if a is like the one noted at k; else -1."""
    ndim = noted[k]
    if ndim < 0:
        return k + 1 if a == noted[0] else -1
    if _word(a + TYPE) != noted[1] or _half(a + NDIM) != ndim or _word(a + DTYPE) != noted[k + 1]:
        return -1
    flags, shape, strides = noted[k + 2], _word(a + SHAPE), _word(a + STRIDES)
    if _half(a + FLAGS) != flags:
        return -1
    k += 3
    for axis in range(ndim):
        if _word(shape + 8 * axis) != noted[k + axis]:
            return -1
    k += ndim
    if flags & C_ORDER:
        return k
    for axis in range(ndim):
        if _word(strides + 8 * axis) != noted[k + axis]:
            return -1
    return k + ndim


@tile
def _of_types(noted, settings):
    """Where more is noted, if the settings, equal to those noted, are of the types noted; else -1.

    NumPy calls a float32 equal to a float that it was rounded from.
    """
    k, end = 4, 4 + noted[3]
    item = settings + ITEMS
    while k < end:
        v = _word(item)
        kind = _word(v + TYPE)
        if kind != noted[k]:
            return -1
        item += 8
        k += 1
        if kind == noted[2]:
            for i in range(_word(v + LENGTH)):
                if _word(_word(v + ITEMS + 8 * i) + TYPE) != noted[k + i]:
                    return -1
            k += _word(v + LENGTH)
    return k


@whole
def alike(noted, settings, a, b, c, others):
    """ALIKE if settings and operands are of the kinds noted, and those written to are no other operands as well.

    PERHAPS_OVERLAPPING: of the kinds noted, but that is yet to be looked at.  The settings are equal to those noted.
    """
    first, second, third, tail = _place(a), _place(b), _place(c), _place(others)
    k = _of_types(noted, _place(settings))
    if k < 0:
        return DIFFERENT
    count = noted[k]
    k = _like(noted, k + 1, first)
    if k > 0:
        k = _like(noted, k, second)
    if k > 0:
        k = _like(noted, k, third)
    if k < 0 or (count < 0) != (tail == noted[0]):
        return DIFFERENT
    if count < 0:
        return ALIKE
    if _word(tail + LENGTH) != count:
        return DIFFERENT
    for i in range(count):
        k = _like(noted, k, _word(tail + ITEMS + 8 * i))
        if k < 0:
            return DIFFERENT
    if noted[k] < 0:
        return PERHAPS_OVERLAPPING
    for w in range(noted[k]):
        written = _word(tail + ITEMS + 8 * noted[k + 1 + w])
        times = int(written == first) + int(written == second) + int(written == third)
        for i in range(count):
            times += int(written == _word(tail + ITEMS + 8 * i))
        if times > 1:
            return PERHAPS_OVERLAPPING
    return ALIKE


def alike_in_python(noted, settings, a, b, c, others):
    """As `alike`, where nothing is compiled, or objects lie in another way than it expects."""
    operands = (a, b, c) if others is None else (a, b, c, *others)
    if any(type(v) is not np.ndarray for v in operands if v is not None):
        return DIFFERENT
    kinds = [*_types(settings), *_kinds(a, b, c, others)]
    end = 3 + len(kinds)
    if noted[3:end].tolist() != kinds:
        return DIFFERENT
    written = [operands[3 + w] for w in noted[end + 1 :]]
    once = noted[end] >= 0 and all(sum(v is w for v in operands) == 1 for w in written)
    return ALIKE if once else PERHAPS_OVERLAPPING
