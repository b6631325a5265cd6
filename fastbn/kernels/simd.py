"""Vectors of 16 lanes as values inside compiled code.

Numba has no vector type, so a reduction's order, its tail and its width are whatever LLVM's loop vectoriser makes of
them on the machine at hand.  Here they are written down: a `Vec` holds 16 numbers of the type computed in (float32, or
float64 for float64 arrays and for sums), `+ - *` act lane by lane, and `total` adds the lanes in one fixed order.  LLVM
maps a Vec to whatever registers there are, one or eight, and the bits of every result are the same on all of them.
No multiply-add is ever fused for the same reason; where memory is the limit, it would not be faster.

Where an argument is described as "a Vec, memory or None", `at` reads it: a Vec stands for itself (one value for the
whole run), memory is loaded from the given place, and None stays None, for which `times` and `plus` do nothing.

Every function has a twin in NumPy, for NUMBA_DISABLE_JIT=1, in `simd_numpy`.
"""

import operator
from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.imputils import impl_ret_borrowed
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
LINE = 64  # bytes of a cache line; no vector register is wider

_FLOAT = {32: ir.FloatType(), 64: ir.DoubleType()}
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_LANES_F32 = ir.VectorType(_FLOAT[32], LANES)
_LANES_I16, _LANES_I32 = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(_INT32, LANES)


class VecType(types.Type):
    """16 lanes of float32 or float64."""

    def __init__(self, bits):
        self.bits = bits
        super().__init__(name=f"Vec{LANES}xfloat{bits}")


VEC32, VEC64 = VecType(32), VecType(64)


@register_model(VecType)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, vec):
        super().__init__(manager, vec, _ir_type(vec))


def _ir_type(vec):
    return ir.VectorType(_FLOAT[vec.bits], LANES)


def _define_operator(function, instruction):
    class Template(ConcreteTemplate):
        cases = [  # noqa: RUF012
            signature(vec, *operands)
            for vec in (VEC32, VEC64)
            for operands in ((vec, vec), (vec, types.float64), (types.float64, vec))
        ]

    infer_global(function)(Template)
    for case in Template.cases:

        @lower_builtin(function, *case.args)
        def lower(context, builder, sig, args):
            return getattr(builder, instruction)(*_as_vecs(builder, sig.return_type, sig.args, args))


def _as_vecs(builder, vec, kinds, values):
    """Numbers among some Vecs in every lane, rounded to their type."""
    return [
        value if kind == vec else _splat(builder, builder.fptrunc(value, _FLOAT[32]) if vec == VEC32 else value)
        for kind, value in zip(kinds, values, strict=True)
    ]


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_function, _instruction)


# Building blocks of the intrinsics below ------------------------------------------------------------------------------


def _computed_in(memory):
    """The Vec that elements of `memory` become in registers."""
    if isinstance(memory, types.BaseTuple):
        memory = memory[0]
    return VEC64 if memory.dtype == types.float64 else VEC32


def _pointer(context, builder, memory_type, memory, index):
    lanes = ir.VectorType(context.get_data_type(memory_type.dtype), LANES)
    return builder.bitcast(builder.gep(memory, [index]), lanes.as_pointer())


def _splat(builder, scalar):
    vector = ir.VectorType(scalar.type, LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, _INT32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))


def _first(builder, count):
    """A mask of the first `count` lanes."""
    lanes = ir.Constant(_LANES_I32, list(range(LANES)))
    return builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, _INT32)))


def _masked(builder, kind, vector, result, args):
    """Call llvm.masked.load or llvm.masked.store for vectors of the given IR type."""
    element = {"float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    function = ir.FunctionType(result, [a.type for a in args])
    name = f"llvm.masked.{kind}.v{LANES}{element}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def _from_memory(builder, raw, memory_type):
    """A loaded vector in the type computed in: uint16 arrays hold the bits of float16, int16 those of bfloat16."""
    if memory_type.dtype == types.int16:
        return builder.bitcast(builder.shl(builder.zext(raw, _LANES_I32), _constant(16)), _LANES_F32)
    if memory_type.dtype != types.uint16:
        return raw
    if _converts_float16():
        return builder.fpext(builder.bitcast(raw, ir.VectorType(ir.HalfType(), LANES)), _LANES_F32)
    return _called(builder, WIDENING, widened, _LANES_F32, raw)


def _to_memory(builder, value, memory_type):
    """The inverse of `_from_memory`, rounded to nearest even."""
    if memory_type.dtype not in (types.int16, types.uint16):
        return value
    if memory_type.dtype == types.uint16:
        if not _converts_float16():
            return _called(builder, NARROWING, narrowed, _LANES_I16, value)
        half = builder.fptrunc(value, ir.VectorType(ir.HalfType(), LANES))
        return builder.bitcast(half, _LANES_I16)
    bits = builder.bitcast(value, _LANES_I32)
    is_nan = builder.fcmp_unordered("uno", value, value)
    high = builder.lshr(bits, _constant(16))
    odd = builder.and_(high, _constant(1))
    rounded_up = builder.add(bits, builder.add(odd, _constant(0x7FFF)))
    nan = builder.or_(bits, _constant(0x400000))
    result = builder.select(is_nan, nan, rounded_up)
    return builder.trunc(builder.lshr(result, _constant(16)), _LANES_I16)


# float16 without instructions for it ----------------------------------------------------------------------------------

# Functions of their own, so that whoever compiles for another processor can put its instructions in their place.
WIDENING, NARROWING = "fastbn.float16.widened", "fastbn.float16.narrowed"


def _called(builder, name, body, result, value):
    """A call, to be inlined, of a function that is in the module once."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [value.type]), name)
        function.linkage = "linkonce_odr"
        function.attributes.add("alwaysinline")
        own = ir.IRBuilder(function.append_basic_block())
        own.ret(body(own, function.args[0]))
    return builder.call(function, [value])


def widened(builder, raw):
    """float32 of 16 bit patterns of float16, by integers."""
    bits = builder.zext(raw, _LANES_I32)
    sign = builder.shl(builder.and_(bits, _constant(0x8000)), _constant(16))
    magnitude = builder.and_(bits, _constant(0x7FFF))
    # As float32 bits the value is too small by the difference of the biases, subnormal or not: 2^112 makes up for it.
    value = builder.bitcast(builder.shl(magnitude, _constant(13)), _LANES_F32)
    finite = builder.bitcast(builder.fmul(value, ir.Constant(_LANES_F32, [2.0**112] * LANES)), _LANES_I32)
    special = builder.or_(builder.shl(magnitude, _constant(13)), _constant(0x7F800000))
    quiet = builder.or_(special, _constant(0x00400000))
    special = builder.select(builder.icmp_unsigned(">", magnitude, _constant(0x7C00)), quiet, special)
    result = builder.select(builder.icmp_unsigned("<", magnitude, _constant(0x7C00)), finite, special)
    return builder.bitcast(builder.or_(result, sign), _LANES_F32)


def narrowed(builder, value):
    """Bit patterns of float16 of 16 numbers of float32, rounded to nearest even, by integers."""
    bits = builder.bitcast(value, _LANES_I32)
    is_nan = builder.fcmp_unordered("uno", value, value)
    magnitude = builder.and_(bits, _constant(0x7FFFFFFF))
    sign = builder.and_(builder.lshr(bits, _constant(16)), _constant(0x8000))
    # Subnormal results: adding 0.5 leaves the float16 fraction, rounded, in the lowest bits.
    shifted = builder.fadd(builder.bitcast(magnitude, _LANES_F32), ir.Constant(_LANES_F32, [0.5] * LANES))
    small = builder.sub(builder.bitcast(shifted, _LANES_I32), _constant(0x3F000000))
    odd = builder.and_(builder.lshr(magnitude, _constant(13)), _constant(1))
    rebiased = builder.sub(magnitude, _constant(112 << 23))
    normal = builder.lshr(builder.add(rebiased, builder.add(odd, _constant(0xFFF))), _constant(13))
    result = builder.select(builder.icmp_unsigned("<", magnitude, _constant(0x38800000)), small, normal)
    result = builder.select(builder.icmp_unsigned(">=", magnitude, _constant(0x47800000)), _constant(0x7C00), result)
    payload = builder.and_(builder.lshr(magnitude, _constant(13)), _constant(0x3FF))
    result = builder.select(is_nan, builder.or_(payload, _constant(0x7E00)), result)
    return builder.trunc(builder.or_(result, sign), _LANES_I16)


def _constant(value):
    return ir.Constant(_LANES_I32, [value] * LANES)


@cache
def _converts_float16():
    """Whether the processor compiled for has instructions for float16; else LLVM would call into a library."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith("aarch64") or "+f16c" in features.split(",")


def _size(memory_type):
    return memory_type.dtype.bitwidth // 8


# Memory ---------------------------------------------------------------------------------------------------------------


@intrinsic
def address(typing, array):
    """Where an array's elements begin; None stays None.

    Everything below takes memory in this form: arrays passed about in compiled code are counted, at 50 ns a short run.
    Two arrays become a pair of memories, which reads as their sum, rounded to their type.
    """
    if array == types.none:
        return array(array), lambda context, builder, sig, args: args[0]
    if isinstance(array, types.BaseTuple):
        pair = types.UniTuple(types.CPointer(array[0].dtype), 2)

        def codegen(context, builder, sig, args):
            arrays = cgutils.unpack_tuple(builder, args[0], 2)
            begins = [context.make_array(array[0])(context, builder, a).data for a in arrays]
            return context.make_tuple(builder, pair, begins)

        return pair(array), codegen

    def codegen(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def advance(typing, memory, count):
    """The memory `count` elements further on; None stays None."""
    if memory == types.none:
        return memory(memory, types.intp), lambda context, builder, sig, args: args[0]
    return memory(memory, types.intp), lambda context, builder, sig, args: builder.gep(args[0], [args[1]])


@intrinsic(prefer_literal=True)
def room(typing, count):
    """Memory for so many numbers of float64, a constant, on the stack of the function that this is inlined into.

    That may be a user's, once for every call in there.
    """

    def codegen(context, builder, sig, args):
        return cgutils.alloca_once(builder, _FLOAT[64], size=_INT64(count.literal_value))

    return types.CPointer(types.float64)(count), codegen


@intrinsic
def load(typing, memory, index):
    """memory[index : index + 16] in the type computed in."""
    vec = _computed_in(memory)

    def codegen(context, builder, sig, args):
        return _load(context, builder, sig.args[0], *args)

    return vec(memory, types.intp), codegen


def _load(context, builder, memory_type, memory, index):
    if isinstance(memory_type, types.BaseTuple):
        return _load_pair(_load, context, builder, memory_type, memory, index)
    pointer = _pointer(context, builder, memory_type, memory, index)
    return _from_memory(builder, builder.load(pointer, align=_size(memory_type)), memory_type)


@intrinsic
def element(typing, memory, index):
    """memory[index] as a float64."""

    def codegen(context, builder, sig, args):
        one = _load_part(context, builder, sig.args[0], *args, _INT64(1))
        value = builder.extract_element(one, _INT32(0))
        return value if value.type == _FLOAT[64] else builder.fpext(value, _FLOAT[64])

    return types.float64(memory, types.intp), codegen


@intrinsic
def load_part(typing, memory, index, count):
    """memory[index : index + count] in the first lanes, zeros in the others; nothing past it is read.

    A count of None, here and below, is all 16.
    """
    vec = _computed_in(memory)

    def codegen(context, builder, sig, args):
        return _load_part(context, builder, sig.args[0], *args)

    return vec(memory, types.intp, _counted(count)), codegen


def _counted(count):
    return count if count == types.none else types.intp


def _load_pair(load_one, context, builder, memory_type, memory, *place):
    one = memory_type[0]
    first, second = (load_one(context, builder, one, m, *place) for m in cgutils.unpack_tuple(builder, memory, 2))
    return _from_memory(builder, _to_memory(builder, builder.fadd(first, second), one), one)


def _load_part(context, builder, memory_type, memory, index, count):
    if count.type != _INT64:  # None
        return _load(context, builder, memory_type, memory, index)
    if isinstance(memory_type, types.BaseTuple):
        return _load_pair(_load_part, context, builder, memory_type, memory, index, count)
    pointer = _pointer(context, builder, memory_type, memory, index)
    vector = pointer.type.pointee
    args = [pointer, _INT32(_size(memory_type)), _first(builder, count), ir.Constant(vector, None)]
    return _from_memory(builder, _masked(builder, "load", vector, vector, args), memory_type)


@intrinsic
def at(typing, source, index):
    """A Vec or None as it is; of memory, 16 elements from `index` on."""
    if not isinstance(source, types.CPointer):
        return source(source, types.intp), lambda context, builder, sig, args: args[0]
    vec = _computed_in(source)

    def codegen(context, builder, sig, args):
        return _load(context, builder, sig.args[0], *args)

    return vec(source, types.intp), codegen


@intrinsic
def at_part(typing, source, index, count):
    """As `at`; of memory, only the first `count` elements are read."""
    if not isinstance(source, types.CPointer):
        return source(source, types.intp, _counted(count)), lambda context, builder, sig, args: args[0]
    vec = _computed_in(source)

    def codegen(context, builder, sig, args):
        return _load_part(context, builder, sig.args[0], *args)

    return vec(source, types.intp, _counted(count)), codegen


@intrinsic
def store(typing, memory, index, vec):
    """memory[index : index + 16] = vec, rounded to nearest even where the memory is narrower."""

    def codegen(context, builder, sig, args):
        _store(context, builder, sig.args[0], *args)
        return context.get_dummy_value()

    return types.void(memory, types.intp, vec), codegen


def _store(context, builder, memory_type, memory, index, vec):
    pointer = _pointer(context, builder, memory_type, memory, index)
    builder.store(_to_memory(builder, vec, memory_type), pointer, align=_size(memory_type))


@intrinsic
def stream(typing, memory, index, first, second):
    """memory[index : index + 32] = two Vecs, past the cache; the place must be that of a cache line (see `gap`)."""

    def codegen(context, builder, sig, args):
        memory_type = sig.args[0]
        pointer = _pointer(context, builder, memory_type, args[0], args[1])
        both = [_to_memory(builder, value, memory_type) for value in args[2:]]
        if _size(memory_type) == 2:  # together they fill a line
            lanes = ir.Constant(ir.VectorType(_INT32, 2 * LANES), list(range(2 * LANES)))
            both = [builder.shuffle_vector(*both, lanes)]
            pointer = builder.bitcast(pointer, both[0].type.as_pointer())
        for k, value in enumerate(both):
            instruction = builder.store(value, builder.gep(pointer, [_INT64(k)]), align=LINE)
            instruction.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))
        return context.get_dummy_value()

    return types.void(memory, types.intp, first, second), codegen


@intrinsic
def store_part(typing, memory, index, vec, count):
    """memory[index : index + count] = the first lanes of vec."""

    def codegen(context, builder, sig, args):
        memory_type = sig.args[0]
        if count == types.none:
            _store(context, builder, memory_type, *args[:3])
            return context.get_dummy_value()
        pointer = _pointer(context, builder, memory_type, args[0], args[1])
        value = _to_memory(builder, args[2], memory_type)
        masked = [value, pointer, _INT32(_size(memory_type)), _first(builder, args[3])]
        _masked(builder, "store", value.type, ir.VoidType(), masked)
        return context.get_dummy_value()

    return types.void(memory, types.intp, vec, _counted(count)), codegen


@intrinsic
def gap(typing, memory, index):
    """How many elements from `index` to the next cache line, where `stream` may write; of two memories, the first's."""

    def codegen(context, builder, sig, args):
        one, begin = sig.args[0], args[0]
        if isinstance(one, types.BaseTuple):
            one, begin = one[0], cgutils.unpack_tuple(builder, begin, 2)[0]
        place = builder.ptrtoint(builder.gep(begin, [args[1]]), _INT64)
        behind = builder.and_(builder.neg(place), _INT64(LINE - 1))
        return builder.udiv(behind, _INT64(_size(one)))

    return types.intp(memory, types.intp), codegen


def _fetching(locality):
    """fetch(memory, index): ask for memory[index : index + 32], which may lie outside of the array; not of None."""

    @intrinsic
    def fetch(typing, memory, index):
        def codegen(context, builder, sig, args):
            one, begins = sig.args[0], [args[0]]
            if one == types.none:
                return context.get_dummy_value()
            if isinstance(one, types.BaseTuple):
                one, begins = one[0], cgutils.unpack_tuple(builder, args[0], 2)
            for begin in begins:
                place = builder.bitcast(builder.gep(begin, [args[1]]), ir.IntType(8).as_pointer())
                for k in range(0, 2 * LANES * _size(one), LINE):
                    hint = [builder.gep(place, [_INT64(k)]), _INT32(0), _INT32(locality), _INT32(1)]  # to read, data
                    function = ir.FunctionType(ir.VoidType(), [a.type for a in hint])
                    builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0"), hint)
            return context.get_dummy_value()

        return types.void(memory, types.intp), codegen

    return fetch


fetch = _fetching(3)  # to the nearest cache: it will be needed soon
fetch_early = _fetching(2)  # to a core's own cache, but not the nearest: what is in there is needed before


# Arithmetic -----------------------------------------------------------------------------------------------------------


@intrinsic
def splat(typing, memory, value):
    """`value`, a float64, rounded to the type that elements of `memory` are computed in, in every lane."""
    vec = _computed_in(memory)

    def codegen(context, builder, sig, args):
        scalar = args[1] if vec.bits == 64 else builder.fptrunc(args[1], _FLOAT[32])
        return _splat(builder, scalar)

    return vec(memory, types.float64), codegen


@intrinsic
def rounded(typing, memory, value):
    """`value`, a float64, after rounding to the type that elements of `memory` are computed in."""
    vec = _computed_in(memory)

    def codegen(context, builder, sig, args):
        if vec.bits == 64:
            return args[1]
        return builder.fpext(builder.fptrunc(args[1], _FLOAT[32]), _FLOAT[64])

    return types.float64(memory, types.float64), codegen


@intrinsic
def splat64(typing, value):
    """A float64 in every lane."""
    return VEC64(types.float64), lambda context, builder, sig, args: _splat(builder, args[0])


@intrinsic
def wide(typing, vec):
    """A Vec in float64; None stays None."""
    if vec != VEC32:
        return vec(vec), lambda context, builder, sig, args: args[0]
    return VEC64(vec), lambda context, builder, sig, args: builder.fpext(args[0], _ir_type(VEC64))


@intrinsic
def like(typing, vec, model):
    """A Vec in the type of another, which is the same or wider."""
    if vec == model:
        return vec(vec, model), lambda context, builder, sig, args: args[0]
    return model(vec, model), lambda context, builder, sig, args: builder.fpext(args[0], _ir_type(model))


@intrinsic
def narrow(typing, memory):
    """Whether elements of `memory` are computed in float32; decided when compiling."""
    answer = _computed_in(memory) == VEC32
    return types.boolean(memory), lambda context, builder, sig, args: ir.Constant(ir.IntType(1), answer)


@intrinsic
def keep(typing, vec, count):
    """The first `count` lanes, zeros in the others."""
    if count == types.none:
        return vec(vec, count), lambda context, builder, sig, args: args[0]

    def codegen(context, builder, sig, args):
        return builder.select(_first(builder, args[1]), args[0], ir.Constant(args[0].type, None))

    return vec(vec, types.intp), codegen


@intrinsic
def chosen(typing, vec, where, index, count):
    """The lanes for which where[index : index + count] is not 0, zeros in the others; without memory all of them."""
    if where == types.none:
        return vec(vec, where, types.intp, _counted(count)), lambda context, builder, sig, args: args[0]

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[1], *args[1:3])
        lanes = pointer.type.pointee
        none = ir.Constant(lanes, None)
        if count == types.none:
            raw = builder.load(pointer, align=1)
        else:
            raw = _masked(builder, "load", lanes, lanes, [pointer, _INT32(1), _first(builder, args[3]), none])
        return builder.select(builder.icmp_unsigned("!=", raw, none), args[0], ir.Constant(args[0].type, None))

    return vec(vec, where, types.intp, _counted(count)), codegen


@intrinsic
def less(typing, a, b, first, second):
    """The first where a < b, else the second, lane by lane; each may be one number for all lanes."""
    vec = next(kind for kind in (a, b) if isinstance(kind, VecType))
    kinds = [kind if kind == vec else types.float64 for kind in (a, b, first, second)]

    def codegen(context, builder, sig, args):
        values = _as_vecs(builder, vec, kinds, args)
        return builder.select(builder.fcmp_ordered("<", *values[:2]), *values[2:])

    return vec(*kinds), codegen


@intrinsic
def per_type(typing, vec, narrow_value, wide_value):
    """In every lane the first number for a Vec of float32, the second for one of float64."""
    k = 1 if vec == VEC32 else 2

    def codegen(context, builder, sig, args):
        return _as_vecs(builder, vec, [types.float64], [args[k]])[0]

    return vec(vec, types.float64, types.float64), codegen


def polynomial(narrow_series, wide_series):
    """A polynomial of a Vec with these coefficients, ascending: the first for float32, the second for float64."""

    @intrinsic
    def value(typing, vec):
        def codegen(context, builder, sig, args):
            *rest, result = (ir.Constant(args[0].type, [c] * LANES) for c in series)
            for c in reversed(rest):
                result = builder.fadd(builder.fmul(result, args[0]), c)
            return result

        series = [float(np.float32(c)) for c in narrow_series] if vec == VEC32 else wide_series
        return vec(vec), codegen

    return value


@intrinsic
def scale_by_power(typing, vec, power, rounder):
    """vec * 2^k, where power = rounder + k, k whole; by two factors, for 2^k alone may overflow or vanish."""

    def codegen(context, builder, sig, args):
        size, fraction = (32, 23) if vec == VEC32 else (64, 52)
        lanes = ir.VectorType(ir.IntType(size), LANES)

        def constant(value):
            return ir.Constant(lanes, [value] * LANES)

        k = builder.sub(builder.bitcast(args[1], lanes), builder.bitcast(args[2], lanes))
        half = builder.ashr(k, constant(1))
        result = args[0]
        for part in (half, builder.sub(k, half)):
            bits = builder.shl(builder.add(part, constant((1 << (size - fraction - 2)) - 1)), constant(fraction))
            result = builder.fmul(result, builder.bitcast(bits, args[0].type))
        return result

    return vec(vec, vec, vec), codegen


@intrinsic
def times(typing, vec, factor):
    """vec * factor, or vec where the factor is None."""
    if factor == types.none:
        return vec(vec, factor), lambda context, builder, sig, args: args[0]
    return vec(vec, vec), lambda context, builder, sig, args: builder.fmul(*args)


@intrinsic
def minus(typing, vec, term):
    """vec - term, or vec where the term is None."""
    if term == types.none:
        return vec(vec, term), lambda context, builder, sig, args: args[0]
    return vec(vec, vec), lambda context, builder, sig, args: builder.fsub(*args)


@intrinsic
def of_row(typing, values, row):
    """values[row] in every lane, in the type that `values` are computed in; None stays None."""
    if values == types.none:
        return values(values, types.intp), lambda context, builder, sig, args: args[0]

    def codegen(context, builder, sig, args):
        return _splat(builder, builder.load(builder.gep(args[0], [args[1]])))

    return _computed_in(values)(values, types.intp), codegen


@intrinsic
def plus(typing, vec, term):
    """vec + term, or vec where the term is None."""
    if term == types.none:
        return vec(vec, term), lambda context, builder, sig, args: args[0]
    return vec(vec, vec), lambda context, builder, sig, args: builder.fadd(*args)


@intrinsic
def either(typing, first, second):
    """The first, or the second where the first is None; decided when compiling."""
    k = 1 if first == types.none else 0
    result = second if k else first

    def codegen(context, builder, sig, args):
        return impl_ret_borrowed(context, builder, sig.return_type, args[k])

    return result(first, second), codegen


@intrinsic
def total(typing, vec):
    """The sum of the lanes: halves are added to each other until one lane is left."""

    def codegen(context, builder, sig, args):
        vector, width = args[0], LANES
        while width > 1:
            width //= 2
            low, high = (
                ir.Constant(ir.VectorType(_INT32, width), list(range(start, start + width))) for start in (0, width)
            )
            vector = builder.fadd(
                builder.shuffle_vector(vector, vector, low), builder.shuffle_vector(vector, vector, high)
            )
        return builder.extract_element(vector, _INT32(0))

    return types.float64(VEC64), codegen


if config.DISABLE_JIT:
    from fastbn.kernels.simd_numpy import *  # noqa: F403
