"""fastbn.h, from the table of functions."""

import textwrap
from collections.abc import Iterable

import fastbn
from fastbn._export.interface import INTERNAL, STATUSES, Function, Parameter

_TOP = """\
/* Normalization of arrays on CPUs, with the bits of the Python package fastbn {version}.

   Every function normalizes x into y, which may be x itself, and returns a status.  A call uses the memory that it is
   given and no other, keeps nothing, and may run beside others on other threads.

   f16, bf16       x, y, dy and dx are the bits of float16 (IEEE 754) or bfloat16; everything is computed in float
   weight, bias    one for each of `cols` or `channels`, of the type that is computed in; NULL: 1 and 0
   mean, rstd      statistics of x as Python returns them, double: the mean, and 1 / sqrt(variance + eps); one for each
                   row, channel, sample and group, or sample and channel; NULL: not wanted
                   backward takes them as forward wrote them, and not NULL
   dweight, dbias  gradients of weight and bias, of the type of these; NULL: not wanted.  dx may be x or dy
   plane           positions of an image, height times width; 1 where there are none
   nchw, nhwc      whether x lies as (batch, channels, plane) or as (batch, plane, channels)
   work            memory of any alignment, of so many bytes as the function ..._workspace says, for the same sizes; may
                   be NULL where that says 0.  Its content does not matter, before or after
*/
#ifndef FASTBN_H
#define FASTBN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define FASTBN_VERSION "{version}"

enum {{
{statuses}
}};
"""

_BOTTOM = """
#ifdef __cplusplus
}
#endif

#endif
"""


def header(functions: Iterable[Function]) -> str:
    told = [(name, k, text) for k, (name, text) in enumerate(STATUSES)] + [(INTERNAL[0], -1, INTERNAL[1])]
    values = [f"    FASTBN_{name} = {k}," for name, k, _ in told]
    values[-1] = values[-1].rstrip(",")  # as C89 and C++98 want it
    statuses = "\n".join(f"{value:<26}/* {text} */" for value, (_, _, text) in zip(values, told, strict=True))
    return _TOP.format(version=fastbn.__version__, statuses=statuses) + "".join(map(_declared, functions)) + _BOTTOM


def _declared(function: Function) -> str:
    return f"\n/* {function.about} */\n{prototype(function)};\n{workspace_prototype(function)};\n"


def prototype(function: Function) -> str:
    declared = ", ".join(_parameter(p, function).replace(" ", "\0") for p in function.parameters)
    lines = textwrap.wrap(f"int\0{function.name}({declared})", 116, subsequent_indent=" " * 4, break_long_words=False)
    return "\n".join(lines).replace("\0", " ")


def workspace_prototype(function: Function) -> str:
    sizes = ", ".join(f"int64_t {p.name}" for p in function.sizes)
    return f"size_t {function.name}_workspace({sizes})"


def _parameter(parameter: Parameter, function: Function) -> str:
    kinds = {"size": "int64_t ", "number": "double ", "work": "void *"}
    if parameter.kind in kinds:
        return kinds[parameter.kind] + parameter.name
    read = "const " if parameter.kind in ("in", "affine", "given") else ""
    return f"{read}{function.dtype_of(parameter).c} *{parameter.name}"
