"""float16 in the text of an entry: by the target's instructions where it has any, else by integers.

Numba's text has the instructions of LLVM, or calls of the functions that `kernels.simd` makes, as this machine asks
for.
"""

import re
from itertools import count
from typing import Any

from llvmlite import ir

from fastbn._export.targets import Target, parsed
from fastbn.kernels import simd

_FLOATS, _BITS, _HALVES = "<16 x float>", "<16 x i16>", "<16 x half>"
_WIDENS = re.compile(rf"(\S+) = fpext {_HALVES} (\S+) to {_FLOATS}")
_NARROWS = re.compile(rf"(\S+) = fptrunc {_FLOATS} (\S+) to {_HALVES}")
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
        result, value = match.groups()
        bits = f"%fastbn.bits.{next(numbers)}"
        cast = f"{bits} = bitcast {_HALVES} {value} to {_BITS}"
        return f'{cast}\n  {result} = call {_FLOATS} @"{simd.WIDENING}"({_BITS} {bits})'

    def narrowed(match: re.Match[str]) -> str:
        result, value = match.groups()
        bits = f"%fastbn.bits.{next(numbers)}"
        call = f'{bits} = call {_BITS} @"{simd.NARROWING}"({_FLOATS} {value})'
        return f"{call}\n  {result} = bitcast {_BITS} {bits} to {_HALVES}"

    text = _NARROWS.sub(narrowed, _WIDENS.sub(widened, _BODIES.sub("", text)))
    return text + (_BY_INSTRUCTIONS if has_instructions(target, machine) else _by_integers())


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
