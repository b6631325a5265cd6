"""The self test of a library, in C or, for WebAssembly, in JavaScript: calls, and the digests of Python's results."""

import json
from collections.abc import Iterable

from fastbn._export.cases import Argument, Case
from fastbn._export.interface import DTYPE_OF, Function, Parameter

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
    for (size_t k = 0; 4 * k < bytes; k++) {
        word = 0;
        memcpy(&word, (const char *)values + 4 * k, bytes - 4 * k < 4 ? bytes - 4 * k : 4);
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


_DRAWN_BITS = """\
static uint16_t *drawn_bits(size_t count, uint32_t seed, uint32_t first, uint32_t patterns, uint32_t has_sign)
{
    uint16_t *values = room(count, sizeof *values);
    for (size_t k = 0; k < count; k++) {
        uint32_t h = mixed((uint32_t)k, seed);
        values[k] = (uint16_t)((first + (h >> 16) % patterns) | (h & has_sign) << 15);
    }
    return values;
}

"""


def in_c(cases: Iterable[Case]) -> str:
    cases = list(cases)
    kinds = {
        case.function.dtype_of(p)
        for case in cases
        for p, a in zip(case.function.parameters, case.arguments, strict=True)
        if a.kind == "draw"
    }
    drawn = "".join(_DRAWN.format(c=d.c, suffix=d.suffix) for d in DTYPE_OF.values() if d in kinds and not d.half)
    drawn += _DRAWN_BITS if any(d.half for d in kinds) else ""
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
        dtype = function.dtype_of(p)
        names.append(p.name)
        if a.kind == "null":
            names[-1] = "NULL"
        elif a.kind in ("size", "number"):
            names[-1] = f"INT64_C({a.value})" if a.kind == "size" else repr(a.value)
        elif a.kind == "draw":
            values, kind = ", ".join(map(repr, a.value)), "bits" if dtype.half else dtype.suffix
            lines.append(f"{dtype.c} *{p.name} = drawn_{kind}({values});")
        elif a.kind in ("room", "askew"):
            lines.append(f"{dtype.c} *{p.name} = room({a.value[0]}, sizeof({dtype.c}));")
            names[-1] = f"(void *)((char *){p.name} + 1)" if a.kind == "askew" else p.name
        elif a.kind == "work":
            sizes = ", ".join(f"INT64_C({s})" for s in case.sizes)
            lines.append(f"void *{p.name} = room({function.name}_workspace({sizes}), 1);")
        else:
            other = function.parameters[a.of].name
            alike = function.dtype_of(function.parameters[a.of]) == dtype
            names[-1] = f"{other} + 1" if a.kind == "part" else other if alike else f"(void *){other}"
    lines.append(f'const char *name = "{case.name}";')
    lines.append(f"check(name, {function.name}({', '.join(names)}), {case.status});")
    for i, count, value in case.expected:
        p = function.parameters[i]
        size = f"{count} * sizeof({function.dtype_of(p).c})"
        lines.append(f'compare(name, "{p.name}", {names[i]}, {size}, UINT64_C(0x{value:016x}));')
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

const ARRAYS = { f16: Uint16Array, bf16: Uint16Array, f32: Float32Array, f64: Float64Array };

function drawn(type, [count, seed, ...numbers]) {
  const begin = room(count, ARRAYS[type].BYTES_PER_ELEMENT);
  const values = new ARRAYS[type](memory.buffer, begin, count);
  for (let k = 0; k < count; k++) {
    const h = mixed(k, seed);
    if (type.endsWith("f16")) {
      const [first, patterns, signed] = numbers;
      values[k] = (first + (h >>> 16) % patterns) | ((h & signed) << 15);
    } else {
      const [offset, scale] = numbers;
      values[k] = offset + ((h >>> 16) - 32768) * (scale / 32768);
    }
  }
  return begin;
}

function digest(begin, length) {
  const bytes = new Uint8Array(Math.ceil(length / 4) * 4);
  bytes.set(new Uint8Array(memory.buffer, begin, length));
  const words = new Uint32Array(bytes.buffer);
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
    const item = ARRAYS[type].BYTES_PER_ELEMENT;
    if (kind === "null") given.push(0);
    else if (kind === "size") given.push(BigInt(value));
    else if (kind === "number") given.push(value);
    else if (kind === "draw") given.push(drawn(type, value));
    else if (kind === "room") given.push(room(value[0], item));
    else if (kind === "askew") given.push(room(value[0], item) + 1);
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

    def argument(p: Parameter, a: Argument) -> dict[str, object]:
        value = str(a.value) if a.kind == "size" else a.value
        return {"kind": a.kind, "type": function.dtype_of(p).suffix, "value": value, "of": a.of}

    return {
        "name": case.name,
        "call": function.name,
        "args": [argument(p, a) for p, a in zip(parameters, case.arguments, strict=True)],
        "sizes": [str(s) for s in case.sizes],
        "status": case.status,
        "expected": [
            [parameters[i].name, i, n * function.dtype_of(parameters[i]).item, f"{value:016x}"]
            for i, n, value in case.expected
        ],
    }


def names(functions: Iterable[Function]) -> tuple[str, ...]:
    """All that a library is to be seen by."""
    return tuple(name for function in functions for name in (function.name, f"{function.name}_workspace"))
