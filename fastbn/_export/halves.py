"""float16 in the text of an entry: by the target's instructions where it has any, else by integers.

Numba's text has the instructions of LLVM, or calls of the functions that `kernels.simd` makes, as this machine asks
for.
"""

import re
from itertools import count
from typing import Any

from llvmlite import ir

from fastbn._export.errors import ExportError
from fastbn._export.targets import Target, parsed
from fastbn.kernels import simd

_FLOATS, _BITS, _HALVES = "<16 x float>", "<16 x i16>", "<16 x half>"
_WIDENS = re.compile(rf"(\S+) = fpext {_HALVES} (\S+) to <16 x (float|double)>")
_NARROWS = re.compile(rf"(\S+) = fptrunc {_FLOATS} (\S+) to {_HALVES}")
_COMPARES = re.compile(rf"(\S+) = fcmp (\w+) {_HALVES} (\S+), (\S+)")
_WIDENS_ONE = re.compile(r"(\S+) = fpext half (\S+) to (float|double)")
_NAMES = "|".join(map(re.escape, (simd.WIDENING, simd.NARROWING)))
_BODIES = re.compile(rf'^define [^@\n]*@"?(?:{_NAMES})"?\(.*?^}}\n', re.M | re.S)

# Whichever of these LLVM calls where a target has no instruction.
_OF_LIBRARIES = b"__extendhfsf2", b"__truncsfhf2", b"__gnu_h2f_ieee", b"__gnu_f2h_ieee", b"__aeabi_h2f", b"__aeabi_f2h"

_BY_INSTRUCTIONS = f"""
define internal {_FLOATS} @"{simd.WIDENING}"({_BITS} %bits) alwaysinline {{
  %half = bitcast {_BITS} %bits to {_HALVES}
  %result = fpext {_HALVES} %half to {_FLOATS}
  ret {_FLOATS} %result
}}

define internal {_BITS} @"{simd.NARROWING}"({_FLOATS} %value) alwaysinline {{
  %half = fptrunc {_FLOATS} %value to {_HALVES}
  %result = bitcast {_HALVES} %half to {_BITS}
  ret {_BITS} %result
}}
"""


def converting(text: str, target: Target, machine: Any) -> str:
    """The text with all conversions as the target has them."""
    numbers = count()

    def widened(match: re.Match[str]) -> str:
        result, value, kind = match.groups()
        k = next(numbers)
        bits, found = f"%fastbn.bits.{k}", f"%fastbn.number.{k}" if kind == "double" else result
        lines = [f"{bits} = bitcast {_HALVES} {value} to {_BITS}"]
        lines.append(f'{found} = call {_FLOATS} @"{simd.WIDENING}"({_BITS} {bits})')
        if kind == "double":
            lines.append(f"{result} = fpext {_FLOATS} {found} to <16 x double>")
        return "\n  ".join(lines)

    def narrowed(match: re.Match[str]) -> str:
        result, value = match.groups()
        bits = f"%fastbn.bits.{next(numbers)}"
        call = f'{bits} = call {_BITS} @"{simd.NARROWING}"({_FLOATS} {value})'
        return f"{call}\n  {result} = bitcast {_BITS} {bits} to {_HALVES}"

    def compared(match: re.Match[str]) -> str:
        result, how, a, b = match.groups()
        k = next(numbers)
        wide = [(f"%fastbn.{name}.{k}", value) for name, value in (("first", a), ("second", b))]
        lines = [f"{name} = fpext {_HALVES} {value} to {_FLOATS}" for name, value in wide]
        return "\n  ".join([*lines, f"{result} = fcmp {how} {_FLOATS} {wide[0][0]}, {wide[1][0]}"])

    def one_widened(match: re.Match[str]) -> str:
        result, value, kind = match.groups()
        k = next(numbers)
        bits, lanes, vector, number = (f"%fastbn.{name}.{k}" for name in ("bits", "lanes", "vector", "number"))
        last = f"fpext float {number} to double" if kind == "double" else f"fadd float {number}, -0.0"
        return "\n  ".join(
            (
                f"{bits} = bitcast half {value} to i16",
                f"{lanes} = insertelement {_BITS} zeroinitializer, i16 {bits}, i32 0",
                f'{vector} = call {_FLOATS} @"{simd.WIDENING}"({_BITS} {lanes})',
                f"{number} = extractelement {_FLOATS} {vector}, i32 0",
                f"{result} = {last}",
            )
        )

    text = _WIDENS_ONE.sub(one_widened, _COMPARES.sub(compared, text))
    text = _NARROWS.sub(narrowed, _WIDENS.sub(widened, _BODIES.sub("", text)))
    if left := re.search(r"(fpext|fptrunc|fcmp|fadd|fsub|fmul|fneg) [^\n]*\bhalf\b[^\n]*", text):
        raise ExportError(f"this version of Numba converts half precision as it was not tried: {left[0]}")
    if has_instructions(target, machine):
        return text + _BY_INSTRUCTIONS
    # No type of halves is left, with which LLVM makes no end on WebAssembly.
    return re.sub(r"\bhalf\b", "i16", text) + _by_integers()


def has_instructions(target: Target, machine: Any) -> bool:
    content: bytes = machine.emit_object(parsed(_BY_INSTRUCTIONS.replace("internal", ""), target, machine))
    return not any(name in content for name in _OF_LIBRARIES)


def _by_integers() -> str:
    module = ir.Module()
    bits, floats = ir.VectorType(ir.IntType(16), simd.LANES), ir.VectorType(ir.FloatType(), simd.LANES)
    wanted = (simd.WIDENING, simd.widened, floats, bits), (simd.NARROWING, simd.narrowed, bits, floats)
    for name, body, result, given in wanted:
        function = ir.Function(module, ir.FunctionType(result, [given]), name)
        function.linkage = "internal"
        function.attributes.add("alwaysinline")
        builder = ir.IRBuilder(function.append_basic_block())
        builder.ret(body(builder, function.args[0]))
    return "".join(f"\n{function}\n" for function in module.functions)
