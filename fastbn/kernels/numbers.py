"""Integers beside floats: Vecs of `simd` read from integers of any kind and written back, and exact sums of them.

Memory of 16-bit integers has the type of half precision's bits, so a mark tells them apart: `whole` is None where the
elements are floats, and a number where they are integers; it is looked at when compiling.

Every function has a twin in NumPy, at the end, for NUMBA_DISABLE_JIT=1.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from fastbn.kernels import simd
from fastbn.kernels.simd import LANES, VEC32

COLUMNS = 64  # that `add_columns` sums at once
MOST_ROWS = 255  # of 8 bits, whose sums fit into 16

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


# From memory ----------------------------------------------------------------------------------------------------------


def _raw(builder, memory_type, memory, index, lanes):
    """So many adjacent elements, in the type that memory has."""
    element = ir.IntType(memory_type.dtype.bitwidth) if isinstance(memory_type.dtype, types.Integer) else None
    if element is None:
        element = {32: ir.FloatType(), 64: ir.DoubleType()}[memory_type.dtype.bitwidth]
    vector = ir.VectorType(element, lanes)
    pointer = builder.bitcast(builder.gep(memory, [index]), vector.as_pointer())
    return builder.load(pointer, align=memory_type.dtype.bitwidth // 8)


def _as_vec(builder, raw, memory_type, whole, vec):
    """Elements in the type that memory has, in that of a Vec."""
    target = ir.VectorType(ir.FloatType() if vec == VEC32 else ir.DoubleType(), LANES)
    dtype = memory_type.dtype
    if whole == types.none:
        value = simd._from_memory(builder, raw, memory_type)
        return value if value.type == target else builder.fpext(value, target)
    if dtype.bitwidth < 32:
        wide = ir.VectorType(_INT32, LANES)
        return builder.sitofp(builder.sext(raw, wide) if dtype.signed else builder.zext(raw, wide), target)
    return builder.sitofp(raw, target) if dtype.signed else builder.uitofp(raw, target)


def _model(model):
    return simd._computed_in(model)


@intrinsic
def take(typing, memory, whole, index, count, model):
    """memory[index : index + count] as a Vec of what `model` is computed in, zeros in other lanes; count None: 16."""
    vec = _model(model)

    def codegen(context, builder, sig, args):
        memory_type = sig.args[0]
        if count == types.none:
            raw = _raw(builder, memory_type, args[0], args[2], LANES)
        else:
            pointer = simd._pointer(context, builder, memory_type, args[0], args[2])
            vector = pointer.type.pointee
            masked = [pointer, _INT32(memory_type.dtype.bitwidth // 8), simd._first(builder, args[3])]
            raw = simd._masked(builder, "load", vector, vector, [*masked, ir.Constant(vector, None)])
        return _as_vec(builder, raw, memory_type, whole, vec)

    return vec(memory, whole, types.intp, simd._counted(count), model), codegen


@intrinsic
def take_apart(typing, memory, whole, index, stride, count, model):
    """As `take`, of `count` elements that are `stride` apart."""
    vec = _model(model)

    def codegen(context, builder, sig, args):
        begin, _, index, stride, count, _ = args
        memory_type = sig.args[0]
        element = context.get_data_type(memory_type.dtype)
        lanes = cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(element, LANES), None))
        with cgutils.for_range(builder, count) as loop:
            place = builder.gep(begin, [builder.add(index, builder.mul(loop.index, stride))])
            lane = builder.trunc(loop.index, _INT32)
            builder.store(builder.insert_element(builder.load(lanes), builder.load(place), lane), lanes)
        return _as_vec(builder, builder.load(lanes), memory_type, whole, vec)

    return vec(memory, whole, types.intp, types.intp, types.intp, model), codegen


def _planes(channels):
    @intrinsic
    def planes(typing, memory, whole, index, model):
        """16 positions from `index` on of channels that lie side by side, as a Vec a channel."""
        vec = _model(model)
        result = types.UniTuple(vec, channels)

        def codegen(context, builder, sig, args):
            memory_type = sig.args[0]
            raw = _raw(builder, memory_type, args[0], args[2], LANES * channels)
            vecs = []
            for c in range(channels):
                lanes = [c + channels * k for k in range(LANES)]
                one = builder.shuffle_vector(raw, raw, ir.Constant(ir.VectorType(_INT32, LANES), lanes))
                vecs.append(_as_vec(builder, one, memory_type, whole, vec))
            return context.make_tuple(builder, result, vecs)

        return result(memory, whole, types.intp, model), codegen

    return planes


planes3, planes4 = _planes(3), _planes(4)


def _woven(channels):
    @intrinsic
    def woven(typing, vecs):
        """The lanes of a Vec a channel side by side: the inverse of `planes`, as so many Vecs."""

        def codegen(context, builder, sig, args):
            parts = cgutils.unpack_tuple(builder, args[0], channels)
            while len(parts) & (len(parts) - 1):
                parts.append(parts[0])
            lanes = LANES
            while len(parts) > 1:
                both = ir.Constant(ir.VectorType(_INT32, 2 * lanes), list(range(2 * lanes)))
                pairs = zip(parts[::2], parts[1::2], strict=True)
                parts = [builder.shuffle_vector(a, b, both) for a, b in pairs]
                lanes *= 2
            results = []
            for k in range(channels):
                places = [LANES * ((LANES * k + j) % channels) + (LANES * k + j) // channels for j in range(LANES)]
                mask = ir.Constant(ir.VectorType(_INT32, LANES), places)
                results.append(builder.shuffle_vector(parts[0], parts[0], mask))
            return context.make_tuple(builder, sig.return_type, results)

        return vecs(vecs), codegen

    return woven


woven3, woven4 = _woven(3), _woven(4)


# To memory ------------------------------------------------------------------------------------------------------------


@intrinsic
def fitted(typing, vec, memory, whole):
    """A Vec in the type that elements of `memory` are computed in, where they are floats."""
    target = vec if whole != types.none else _model(memory)

    def codegen(context, builder, sig, args):
        if target == vec:
            return args[0]
        lanes = simd._ir_type(target)
        return builder.fptrunc(args[0], lanes) if target == VEC32 else builder.fpext(args[0], lanes)

    return target(vec, memory, whole), codegen


@intrinsic
def put(typing, memory, whole, index, vec, count):
    """memory[index : index + count] = vec; integers: of a Vec of float64, rounded to even and kept within the type."""

    def codegen(context, builder, sig, args):
        memory_type = sig.args[0]
        begin, _, index, value, count_value = args
        value = _to_integers(builder, value, memory_type.dtype) if whole != types.none else value
        if whole == types.none:
            value = simd._to_memory(builder, value, memory_type)
        pointer = builder.bitcast(builder.gep(begin, [index]), value.type.as_pointer())
        size = memory_type.dtype.bitwidth // 8
        if count == types.none:
            builder.store(value, pointer, align=size)
        else:
            masked = [value, pointer, _INT32(size), simd._first(builder, count_value)]
            simd._masked(builder, "store", value.type, ir.VoidType(), masked)
        return context.get_dummy_value()

    return types.void(memory, whole, types.intp, vec, simd._counted(count)), codegen


@intrinsic
def flow(typing, memory, whole, index, first, second):
    """memory[index : index + 32] = two Vecs: floats past the cache, from the beginning of a cache line on."""

    def codegen(context, builder, sig, args):
        memory_type = sig.args[0]
        begin, _, index, *vecs = args
        if whole != types.none:
            both = [_to_integers(builder, v, memory_type.dtype) for v in vecs]
        else:
            both = [simd._to_memory(builder, v, memory_type) for v in vecs]
        size = memory_type.dtype.bitwidth // 8
        if size < 4:  # together they may fill a line
            lanes = ir.Constant(ir.VectorType(_INT32, 2 * LANES), list(range(2 * LANES)))
            both = [builder.shuffle_vector(*both, lanes)]
        pointer = builder.bitcast(builder.gep(begin, [index]), both[0].type.as_pointer())
        past_cache = whole == types.none
        for k, value in enumerate(both):
            place = builder.gep(pointer, [_INT64(k)])
            instruction = builder.store(value, place, align=simd.LINE if past_cache else size)
            if past_cache:
                instruction.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))
        return context.get_dummy_value()

    return types.void(memory, whole, types.intp, first, second), codegen


def _to_integers(builder, value, dtype):
    def all_lanes(number):
        return ir.Constant(value.type, [number] * LANES)

    low, high = float(dtype.minval), float(dtype.maxval)
    value = builder.select(builder.fcmp_ordered(">", value, all_lanes(low)), value, all_lanes(low))
    value = builder.select(builder.fcmp_ordered("<", value, all_lanes(high)), value, all_lanes(high))
    # A double of this size has no digits behind the point: adding it rounds to the nearest, halves to even.
    magic = all_lanes(1.5 * 2.0**52)
    value = builder.fsub(builder.fadd(value, magic), magic)
    between = _INT32 if dtype.bitwidth < 32 else _INT64
    integers = builder.fptosi(value, ir.VectorType(between, LANES))
    return builder.trunc(integers, ir.VectorType(ir.IntType(dtype.bitwidth), LANES))


# Sums -----------------------------------------------------------------------------------------------------------------


@intrinsic
def add_columns(typing, memory, index, stride, rows, sums, squares):
    """Add the sums of 64 adjacent columns of integers of 8 or 16 bits, and of their squares, to int64 memory.

    rows: at most MOST_ROWS, the first of which begins at `index`; they are `stride` apart.
    """
    dtype = memory.dtype
    bits = dtype.bitwidth

    def codegen(context, builder, sig, args):
        begin, index, stride, rows, sums, squares = args
        narrow, wide = (ir.VectorType(ir.IntType(k * bits), COLUMNS) for k in (2, 4))
        s, q = (cgutils.alloca_once_value(builder, ir.Constant(kind, None)) for kind in (narrow, wide))
        with cgutils.for_range(builder, rows) as loop:
            place = builder.add(index, builder.mul(loop.index, stride))
            raw = _raw(builder, sig.args[0], begin, place, COLUMNS)
            value = builder.sext(raw, narrow) if dtype.signed else builder.zext(raw, narrow)
            square = builder.zext(builder.mul(value, value), wide)  # of 2 * bits, whose sign it does not need
            builder.store(builder.add(builder.load(s), value), s)
            builder.store(builder.add(builder.load(q), square), q)
        longs = ir.VectorType(_INT64, COLUMNS)
        total = builder.load(s)
        total = builder.sext(total, longs) if dtype.signed else builder.zext(total, longs)
        squared = builder.load(q)
        squared = squared if squared.type == longs else builder.zext(squared, longs)
        for target, added in ((sums, total), (squares, squared)):
            pointer = builder.bitcast(target, longs.as_pointer())
            builder.store(builder.add(builder.load(pointer, align=8), added), pointer, align=8)
        return context.get_dummy_value()

    result = types.CPointer(types.int64)
    return types.void(memory, types.intp, types.intp, types.intp, result, result), codegen


def split_numbers(itemsize):
    """How many numbers `add_split` has for a column of integers of so many bytes."""
    return 9 if itemsize == 8 else 4


def _halves(builder, value, shift):
    """The lower and the upper 32 bits, which many may be added of."""
    lower = ir.Constant(value.type, [(1 << 32) - 1] * LANES)
    upper = ir.Constant(value.type, [32] * LANES)
    return [builder.and_(value, lower), shift(value, upper)]


def _split_terms(builder, t, bits):
    """What is added up of t, 64-bit integers of so many bits: all that its sum and that of t^2 can be put together of.

    Up to 32 bits: t and both halves of t^2.  With h and l, the halves of t: l, h, and both halves of l^2, h l and h^2.
    """
    if bits <= 32:
        return [t, *_halves(builder, builder.mul(t, t), builder.lshr)]
    low, high = _halves(builder, t, builder.ashr)
    squares = _halves(builder, builder.mul(low, low), builder.lshr)
    products = _halves(builder, builder.mul(high, low), builder.ashr)
    return [low, high, *squares, *products, *_halves(builder, builder.mul(high, high), builder.lshr)]


@intrinsic
def add_split(typing, memory, where, spread, place, strides, rows, count, sums):
    """Add up columns of integers and their squares, in parts of 32 bits: to int64 memory, 16 numbers of each sum.

    The sums: how many elements count, and what `_split_terms` tells; of uint64, of what lies 2^63 below each element.
    where: memory or None; elements beside which it is 0 do not count.  spread: None if there is one number of it for a
    row.  place: where the first row begins in memory and in `where`; strides: how far rows lie apart.  rows: so few
    that sums of 32 bits fit into 64.  count: how many of the columns there are; None: 16.
    """
    dtype = memory.dtype
    bits = dtype.bitwidth
    lanes, bytes_of_lanes = ir.VectorType(_INT64, LANES), ir.VectorType(ir.IntType(8), LANES)

    def some(builder, kind, begin, index, inside):
        pointer = builder.bitcast(builder.gep(begin, [index]), kind.as_pointer())
        size = kind.element.width // 8
        if inside is None:
            return builder.load(pointer, align=size)
        return simd._masked(builder, "load", kind, kind, [pointer, _INT32(size), inside, ir.Constant(kind, None)])

    def codegen(context, builder, sig, args):
        begin, where_begin, _, place_value, strides_value, rows_value, count_value, target = args
        (i, k), (i_step, k_step) = (cgutils.unpack_tuple(builder, v, 2) for v in (place_value, strides_value))
        inside = None if count == types.none else simd._first(builder, count_value)
        zero = ir.Constant(lanes, None)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(split_numbers(bits // 8))]
        with cgutils.for_range(builder, rows_value) as loop:
            row = builder.add(i, builder.mul(loop.index, i_step))
            t = some(builder, ir.VectorType(ir.IntType(bits), LANES), begin, row, inside)
            if bits < 64:
                t = builder.sext(t, lanes) if dtype.signed else builder.zext(t, lanes)
            elif not dtype.signed:
                t = builder.xor(t, ir.Constant(lanes, [-(1 << 63)] * LANES))
            counts = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * LANES) if inside is None else inside
            if where != types.none:
                told = builder.add(k, builder.mul(loop.index, k_step))
                if spread == types.none:
                    one = simd._splat(builder, builder.load(builder.gep(where_begin, [told])))
                else:
                    one = some(builder, bytes_of_lanes, where_begin, told, inside)
                counts = builder.and_(counts, builder.icmp_unsigned("!=", one, ir.Constant(one.type, None)))
            t = builder.select(counts, t, zero)
            terms = [builder.zext(counts, lanes), *_split_terms(builder, t, bits)]
            for sum_so_far, term in zip(totals, terms, strict=True):
                builder.store(builder.add(builder.load(sum_so_far), term), sum_so_far)
        for number, sum_so_far in enumerate(totals):
            pointer = builder.bitcast(builder.gep(target, [_INT64(number * LANES)]), lanes.as_pointer())
            added = builder.add(builder.load(pointer, align=8), builder.load(sum_so_far))
            builder.store(added, pointer, align=8)
        return context.get_dummy_value()

    pair = types.UniTuple(types.intp, 2)
    counted = simd._counted(count)
    result = types.CPointer(types.int64)
    return types.void(memory, where, spread, pair, pair, types.intp, counted, result), codegen


if config.DISABLE_JIT:
    from fastbn.kernels.numbers_numpy import *  # noqa: F403
