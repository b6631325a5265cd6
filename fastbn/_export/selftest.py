"""The self test of a library, in C or, for WebAssembly, in JavaScript: calls, and the digests of Python's results."""

import json
from collections.abc import Iterable

from fastbn._export.cases import Argument, Case
from fastbn._export.interface import DTYPE_OF, Function

_C = """\
/* Calls every function of the library and compares the bits of its results with those of Python's fastbn:
   cc selftest.c libfastbn.a -o selftest && ./selftest
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastbn.h"

static uint32_t mixed(uint32_t number, uint32_t seed)
{
    uint32_t h = number * 0x9E3779B1u + seed * 0x85EBCA6Bu;
    h = (h ^ h >> 16) * 0x7FEB352Du;
    h = (h ^ h >> 15) * 0x846CA68Bu;
    return h ^ h >> 16;
}

/* Memory that begins at an element but at no cache line. */
static void *taken[32];
static int taken_count;

static void *room(size_t count, size_t item)
{
    char *memory = malloc(count * item + item + 64);
    if (memory == NULL)
        exit(2);
    memset(memory, 0x7f, count * item + item + 64);
    taken[taken_count++] = memory;
    return memory + item;
}

static void free_all(void)
{
    while (taken_count)
        free(taken[--taken_count]);
}

@DRAWN@static uint64_t digest(const void *values, size_t bytes)
{
    uint32_t word, first = 0, second = 0;
    for (size_t k = 0; k < bytes / 4; k++) {
        memcpy(&word, (const char *)values + 4 * k, 4);
        first += word * (mixed((uint32_t)k, 101) | 1);
        second += word * (mixed((uint32_t)k, 102) | 1);
    }
    return (uint64_t)first << 32 | second;
}

static int failures;

static void check(const char *name, int status, int expected)
{
    if (status != expected) {
        failures++;
        printf("%s: status %d, expected %d\\n", name, status, expected);
    }
}

static void compare(const char *name, const char *result, const void *values, size_t bytes, uint64_t expected)
{
    uint64_t found = digest(values, bytes);
    if (found != expected) {
        failures++;
        printf("%s: other bits in %s: %016llx, expected %016llx\\n", name, result, (unsigned long long)found,
               (unsigned long long)expected);
    }
}
"""


_DRAWN = """\
static {c} *drawn_{suffix}(size_t count, uint32_t seed, double offset, double scale)
{{
    {c} *values = room(count, sizeof *values);
    for (size_t k = 0; k < count; k++)
        values[k] = ({c})(offset + ((double)(mixed((uint32_t)k, seed) >> 16) - 32768) * (scale / 32768));
    return values;
}}

"""


def in_c(cases: Iterable[Case]) -> str:
    cases = list(cases)
    kinds = {case.function.dtype.suffix for case in cases} | {"f64" for case in cases if case.function.backward}
    drawn = "".join(_DRAWN.format(c=d.c, suffix=d.suffix) for d in DTYPE_OF.values() if d.suffix in kinds)
    parts = [_C.replace("@DRAWN@", drawn)]
    for k, case in enumerate(cases):
        parts.append(_c_case(k, case))
    calls = "\n".join(f"    case_{k}();" for k in range(len(cases)))
    end = f"""
int main(void)
{{
{calls}
    printf("%d of {len(cases)} calls failed\\n", failures);
    return failures != 0;
}}
"""
    return "".join(parts) + end


def _c_case(k: int, case: Case) -> str:
    function = case.function
    lines, names = [], []
    for p, a in zip(function.parameters, case.arguments, strict=True):
        c, suffix = (
            (function.dtype.c, function.dtype.suffix) if p.kind not in ("double", "given") else ("double", "f64")
        )
        names.append(p.name)
        if a.kind == "null":
            names[-1] = "NULL"
        elif a.kind in ("size", "number"):
            names[-1] = f"INT64_C({a.value})" if a.kind == "size" else repr(a.value)
        elif a.kind == "draw":
            count, seed, offset, scale = a.value
            lines.append(f"{c} *{p.name} = drawn_{suffix}({count}, {seed}, {offset!r}, {scale!r});")
        elif a.kind == "room":
            lines.append(f"{c} *{p.name} = room({a.value[0]}, sizeof({c}));")
        elif a.kind == "work":
            sizes = ", ".join(f"INT64_C({s})" for s in case.sizes)
            lines.append(f"void *{p.name} = room({function.name}_workspace({sizes}), 1);")
        else:
            other = function.parameters[a.of].name
            names[-1] = other if a.kind == "same" else f"{other} + 1"
    lines.append(f'const char *name = "{case.name}";')
    lines.append(f"check(name, {function.name}({', '.join(names)}), {case.status});")
    for i, count, value in case.expected:
        p = function.parameters[i]
        item = "sizeof(double)" if p.kind == "double" else f"sizeof({function.dtype.c})"
        lines.append(f'compare(name, "{p.name}", {names[i]}, {count} * {item}, UINT64_C(0x{value:016x}));')
    lines.append("free_all();")
    body = "\n".join(f"    {line}" for line in lines)
    return f"\nstatic void case_{k}(void)\n{{\n{body}\n}}\n"


_JAVASCRIPT = """\
// Calls every function of the library and compares the bits of its results with those of Python's fastbn:
// node selftest.mjs
import { readFileSync } from "node:fs";

const cases = JSON.parse(readFileSync(new URL("selftest.json", import.meta.url)));
const bytes = readFileSync(new URL(process.argv[2] ?? "libfastbn.wasm", import.meta.url));
const { exports } = await WebAssembly.instantiate(await WebAssembly.compile(bytes), {});
const memory = exports.memory;
let top, failures = 0;

function mixed(number, seed) {
  let h = (Math.imul(number, 0x9e3779b1) + Math.imul(seed, 0x85ebca6b)) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b) >>> 0;
  return (h ^ (h >>> 16)) >>> 0;
}

// Memory that begins at an element but at no cache line.
function room(count, item) {
  const begin = Math.ceil(top / 64) * 64 + item;
  top = begin + count * item;
  if (top > memory.buffer.byteLength) memory.grow(Math.ceil((top - memory.buffer.byteLength) / 65536));
  new Uint8Array(memory.buffer, begin, count * item).fill(0x7f);
  return begin;
}

function drawn(type, [count, seed, offset, scale]) {
  const begin = room(count, type === "f32" ? 4 : 8);
  const values = new (type === "f32" ? Float32Array : Float64Array)(memory.buffer, begin, count);
  for (let k = 0; k < count; k++) values[k] = offset + ((mixed(k, seed) >>> 16) - 32768) * (scale / 32768);
  return begin;
}

function digest(begin, length) {
  const words = new Uint32Array(memory.buffer, begin, length / 4);
  let first = 0, second = 0;
  for (let k = 0; k < words.length; k++) {
    first = (first + Math.imul(words[k], mixed(k, 101) | 1)) >>> 0;
    second = (second + Math.imul(words[k], mixed(k, 102) | 1)) >>> 0;
  }
  return first.toString(16).padStart(8, "0") + second.toString(16).padStart(8, "0");
}

function fail(text) {
  failures++;
  console.log(text);
}

for (const { name, call, args, sizes, status, expected } of cases) {
  top = exports.__heap_base.value;
  const given = [];
  for (const { kind, type, value, of } of args) {
    const item = type === "f32" ? 4 : 8;
    if (kind === "null") given.push(0);
    else if (kind === "size") given.push(BigInt(value));
    else if (kind === "number") given.push(value);
    else if (kind === "draw") given.push(drawn(type, value));
    else if (kind === "room") given.push(room(value[0], item));
    else if (kind === "work") given.push(room(exports[call + "_workspace"](...sizes.map(BigInt)) >>> 0, 1));
    else given.push(given[of] + (kind === "part" ? item : 0));
  }
  const found = exports[call](...given);
  if (found !== status) fail(`${name}: status ${found}, expected ${status}`);
  for (const [result, i, length, value] of expected) {
    const bits = digest(given[i], length);
    if (bits !== value) fail(`${name}: other bits in ${result}: ${bits}, expected ${value}`);
  }
}
console.log(`${failures} of ${cases.length} calls failed`);
process.exitCode = failures ? 1 : 0;
"""


def in_javascript(cases: Iterable[Case]) -> tuple[str, str]:
    """The program, and the cases as its data."""
    return _JAVASCRIPT, "[\n" + ",\n".join(json.dumps(_as_data(case)) for case in cases) + "\n]\n"


def _as_data(case: Case) -> dict[str, object]:
    function, parameters = case.function, case.function.parameters

    def argument(kind: str, a: Argument) -> dict[str, object]:
        suffix = "f64" if kind in ("double", "given") else function.dtype.suffix
        value = str(a.value) if a.kind == "size" else a.value
        return {"kind": a.kind, "type": suffix, "value": value, "of": a.of}

    def item(i: int) -> int:
        return DTYPE_OF["float64"].item if parameters[i].kind == "double" else function.dtype.item

    return {
        "name": case.name,
        "call": function.name,
        "args": [argument(p.kind, a) for p, a in zip(parameters, case.arguments, strict=True)],
        "sizes": [str(s) for s in case.sizes],
        "status": case.status,
        "expected": [[parameters[i].name, i, n * item(i), f"{value:016x}"] for i, n, value in case.expected],
    }


def names(functions: Iterable[Function]) -> tuple[str, ...]:
    """All that a library is to be seen by."""
    return tuple(name for function in functions for name in (function.name, f"{function.name}_workspace"))
