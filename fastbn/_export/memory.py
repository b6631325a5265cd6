# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""Pointers as C passes them: NULL, overlaps, and a call's working memory, of which kernels are given theirs."""

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from fastbn.kernels.jit import tile

LINE = 64  # bytes: everything in working memory begins at a cache line
OVERHEAD = 2 * LINE  # bytes of a block that a kernel is given, beside what it asks for, at most


@intrinsic
def null(typing, pointer):
    """Whether a pointer is NULL."""

    def codegen(context, builder, sig, args):
        return builder.icmp_unsigned("==", args[0], ir.Constant(args[0].type, None))

    return types.boolean(pointer), codegen


@intrinsic
def place(typing, pointer):
    """A pointer as an integer."""
    return types.int64(pointer), lambda context, builder, sig, args: builder.ptrtoint(args[0], ir.IntType(64))


@intrinsic
def at_byte(typing, number, like):
    """The inverse of `place`, as a pointer of the type of another one."""
    return like(types.int64, like), lambda context, builder, sig, args: builder.inttoptr(args[0], args[1].type)


@tile
def array(pointer, count):
    return carray(pointer, (count,))


@tile
def array3(number, like, a, b, c):
    """An array of three axes at a place."""
    return carray(at_byte(number, like), (a, b, c))


@tile
def wanted(pointer, count):
    """An array of so many elements, or of none where the pointer is NULL."""
    return carray(pointer, (0 if null(pointer) else count,))


@tile
def item_of(pointer):
    """The bytes of an element."""
    return carray(pointer, (0,)).itemsize


@tile
def computed(item):
    """The bytes of an element's type in arithmetic."""
    return max(item, 4)


@tile
def either(pointer, number):
    """A pointer, or where it is NULL another place."""
    return at_byte(number, pointer) if null(pointer) else pointer


@tile
def filled(pointer, number, count, value):
    """An array, or where the pointer is NULL one at another place, every element of which has the value."""
    values = array(either(pointer, number), count)
    if null(pointer):
        fill(values, value)
    return values


@tile
def widened(pointer, number, like, count):
    """So many elements in float64, at another place; like: any pointer to 64 bits."""
    own = carray(at_byte(number, like), (count,)).view(np.float64)
    widen(array(pointer, count), own)
    return own


@tile
def widen(values, into):
    for k in range(values.size):
        into[k] = values[k]


@tile
def fill(values, value):
    for k in range(values.size):
        values[k] = value


# Sizes and overlaps ---------------------------------------------------------------------------------------------------


@tile
def fits(a, b, c, item, most):
    """Whether an array of a * b * c elements, with those of no length counted as one, has at most so many bytes."""
    if a < 0 or b < 0 or c < 0:
        return False
    left = min(most // item, 1 << 53)
    for n in (a, b, c):
        n = max(n, 1)
        if n > left:
            return False
        left //= n
    return True


@tile
def extent(pointer, count, item):
    """Where memory begins and ends, nowhere where the pointer is NULL; how far it begins behind an element's place."""
    begin = place(pointer)
    return begin, begin if begin == 0 else begin + count * item, begin & (item - 1)


@tile
def _meet(a, b):
    return a[0] < b[1] and b[0] < a[1]


@tile
def misaligned(sources, target, written, read):
    """Whether there is memory that does not begin where an element can be; all as of `overlapping`."""
    behind = target[2]
    for source in sources:
        behind |= source[2]
    for w in written:
        behind |= w[2]
    for r in read:
        behind |= r[2]
    return behind != 0


@tile
def overlapping(sources, target, written, read):
    """Whether memory that is written, the target among it, overlaps anything else; the target may be a source itself.

    All are as of `extent`: the target, and tuples of others.
    """
    for source in sources:
        if _meet(source, target) and source[0] != target[0]:
            return True
    for k in range(len(written)):
        if _meet(written[k], target):
            return True
        for source in sources:
            if _meet(written[k], source):
                return True
        for j in range(k):
            if _meet(written[k], written[j]):
                return True
        for r in read:
            if _meet(written[k], r):
                return True
    for r in read:  # noqa: SIM110 - Numba compiles no generator expression
        if _meet(target, r):
            return True
    return False


# Working memory -------------------------------------------------------------------------------------------------------


@tile
def lines(nbytes):
    """So many bytes, and those that are left of the last cache line."""
    return (nbytes + LINE - 1) // LINE * LINE


@tile
def room(affine, item, statistics, blocks):
    """Places in working memory, in bytes from its first cache line on, and its size.

    affine: elements of weights that stand for missing ones, for x of elements of `item` bytes; statistics: float64
    numbers; blocks: bytes of what kernels are given.  Before all of these are the numbers by which blocks are given
    (see `modules`).
    """
    begin = LINE + lines(affine * computed(item))
    first = begin + lines(statistics * 8)
    return LINE, begin, first, LINE + first + blocks


@tile
def opened(work, places):
    """Where the first cache line of working memory is, made ready for kernels."""
    base = (place(work) + LINE - 1) // LINE * LINE
    numbers = carray(at_byte(base, work), (3,))
    numbers[0], numbers[1], numbers[2] = places[2], places[3] - LINE, 0
    return base
