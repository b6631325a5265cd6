"""What is written beside a library for those who use it: README.md and an example in C."""

from collections.abc import Sequence

import fastbn
from fastbn._export.header import prototype
from fastbn._export.interface import Function
from fastbn._export.targets import Target

_README = """\
# fastbn {version} as a C library

Made by `{command}` for {triple}, processor {cpu}.

{files}

{declarations}

The library calls no function of any other, allocates nothing and keeps nothing between calls. Results have the bits of
the Python package's calls, on any of its targets. {how_to_test}

Sizes: {sizes}. The archive has one object for each function, so a program gets those that it calls.

Instance norm with running statistics is `fastbn_batch_norm_...`: it computes the same. `batch_norm_train` and the image
functions in nhwc contain the kernels of two orders of memory, because which one is taken depends on the shape, as in
Python.

License: BSD-3-Clause, as that of fastbn.
"""

_EXAMPLE = """\
/* {call} of a small array:
   cc example.c libfastbn.a -o example && ./example
*/
#include <stdio.h>
#include <stdlib.h>

#include "fastbn.h"

int main(void)
{{
    enum {{ {enums} }};
    {c} x[{count}], y[{count}];
    for (int k = 0; k < {count}; k++)
        x[k] = ({c})({value});
{before}    size_t size = {name}_workspace({sizes});
    void *work = malloc(size ? size : 1);
    int status = {name}({arguments});
    free(work);
    if (status != FASTBN_OK) {{
        fprintf(stderr, "status %d\\n", status);
        return 1;
    }}
    for (int k = 0; k < {count}; k++)
        printf("{printed}%c", ({shown})y[k], (k + 1) % {last} ? ' ' : '\\n');
    return 0;
}}
"""
_EXAMPLE_SIZES = {"rows": 2, "cols": 6, "batch": 2, "channels": 3, "plane": 4, "groups": 1}


def readme(functions: Sequence[Function], target: Target, command: str, sizes: str, files: Sequence[str]) -> str:
    about = {
        "libfastbn.o": "all functions in one object",
        "libfastbn.a": "the same, an object for each function",
        "libfastbn.so": "the same as a shared library",
        "libfastbn.wasm": "the same for WebAssembly; it exports its memory, free from `__heap_base` on",
        "fastbn.h": "what C programs include",
        "example.c": "a call",
        "selftest.c": "calls of every function, and the digests of what Python computes",
        "selftest.mjs": "calls of every function, and with selftest.json the digests of what Python computes",
    }
    listed = "\n".join(f"- `{name}`: {about[name]}" for name in files if name in about)
    native = "cc selftest.c libfastbn.a -o selftest && ./selftest"
    test = f"`{'node selftest.mjs' if target.is_wasm else native}` tries that."
    declared = "```c\n" + "\n".join(f"{prototype(f)};" for f in functions) + "\n```"
    return _README.format(
        version=fastbn.__version__,
        command=command,
        triple=target.triple,
        cpu=target.cpu,
        files=listed,
        declarations=declared,
        how_to_test=test,
        sizes=sizes,
    )


def example(function: Function) -> str:
    names = [p.name for p in function.sizes]
    count = " * ".join(n for n in names if n != "groups")
    value, printed, shown = "k * k % 11", "%9.5f", "double"
    if function.dtype.half:  # the bits of numbers from 1 on in float16, or so in bfloat16
        value, printed, shown = "0x3C00 + 16 * (k * k % 11)", "%04x", "unsigned"
    before, arguments = "", []
    for p in function.parameters:
        needed = p.name in ("x", "y", "work") or p.kind in ("size", "number")
        if p.name.startswith("running") and p.kind == "affine":
            needed = True
            given = "0" if p.name.endswith("mean") else "1"
            before += f"    {function.dtype_of(p).c} {p.name}[channels];\n    for (int c = 0; c < channels; c++)\n"
            before += f"        {p.name}[c] = {given};\n"
        numbers = {"eps": "1e-5", "momentum": "0.1"}
        arguments.append(numbers.get(p.name, p.name) if needed else "NULL")
    return _EXAMPLE.format(
        call=function.name,
        name=function.name,
        enums=", ".join(f"{n} = {_EXAMPLE_SIZES[n]}" for n in names),
        c=function.dtype.c,
        value=value,
        printed=printed,
        shown=shown,
        count=count,
        before=before,
        sizes=", ".join(names),
        arguments=", ".join(arguments),
        last="cols" if "cols" in names else "channels" if function.layout == "nhwc" else "plane",
    )
