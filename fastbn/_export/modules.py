"""From an entry that Numba has compiled to an object without Numba: all that is done to LLVM's text of it.

Numba's text is made for this machine's memory layout and calls Numba's runtime.  What is called instead gives blocks of
the caller's working memory: it is a stack whose numbers (bytes in use, bytes there are, the last block) lie at the
beginning of that memory, so nothing is shared between calls.  Every function that asks for memory is inlined into the
entry, where the working memory is known.
"""

import gc
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

from fastbn._export import entries, entries_back, halves
from fastbn._export.errors import ExportError
from fastbn._export.interface import Function
from fastbn._export.targets import Target, parsed

_INT64 = types.int64
_ALLOCATE = "NRT_MemInfo_alloc_aligned"

# Arguments of kernels' functions that are never negative, which LLVM divides in fewer steps once it knows.
_NATURAL = re.compile(r"i64 (%arg\.(?:view|panel|parts|plan\.0)\.\d+)")

# At most 16 columns of some rows, and 16 of so many, of which LLVM makes the arithmetic of ROWS_AT_ONCE without a loop.
_ROWS = "5loops1[23]_add_(?:moments|products)B.*8UniTupleIxLi3EE"
_PART, _WHOLE = f"{_ROWS}xxx", f"{_ROWS}vxx"
_LAST = "5loops7_normalB.*E[^E]*_2axx5TupleI10float32_2a"  # the elements at the end of a row, scaled column by column

# Functions that are called where LLVM would have several copies of them: calls are few beside what is done in one.
_SHARED = re.compile(
    "4runs7_reduceB"  # the same with weights and without
    "|4runs5_sumsB.*13Vec16xfloat64|5loops11add_momentsB|5loops12add_productsB"
    "|6serialB"  # kernels: an entry is made small, and they are not
    "|7columns(5_fold|7_gather|7_repeat|6_clear|4_add|9_doubtful|6_apply|13_coefficients|7_finish|7_shifts)B"
    "|6memory(4fill|5widen)B"
    "|5loops17_four_differencesB.*(10float32|5int16|6uint16)_2a.*13Vec16xfloat64"  # where float32 was not enough
    f"|{_PART}|{_LAST}"
)
# And one that asks for memory, and is given all working memory for that.
_GIVEN = re.compile("7columns7_reduceB")
_WORK = "@fastbn.work"  # in its place, while what calls them is not yet where it is known
# And where they are called for less than ROWS_AT_ONCE rows, as their number, the third in the record, tells.
_FEW_ROWS = re.compile(rf"(call i32 @\S*{_WHOLE}[^(]*\((?:\w+ [^,]*, ){{2}}(?:i64 [^,]+, ){{2}}i64 %.*\))$", re.M)
# Those that are there wherever they are used: only so LLVM knows that it writes what it reads, and makes vectors of it,
# and that an array is one that nobody counts references of.
_INLINED = re.compile("7columns5_wantB|6memory(6filled|7widened)B")
# Functions in which time goes by once a call, where float32 was not enough, or of loops that are vectors as they are
# written: LLVM does not make several rounds of a loop into one.
_SMALL = re.compile(
    "4runs5_sumsB.*10float32_2a.*13Vec16xfloat64|4runs7_reduceB|4runs(7forward|5scale)6serialB"
    f"|7columns(6_piece|7_counts|5_sums|7_gather|6_apply)B|{_PART}|{_WHOLE}|{_LAST}"
)
# And those in which hardly any time goes by at all.
_SMALLEST = re.compile("7_export|7columns7_reduceB")
# And functions of loops of which LLVM is to make vectors, but no more.
_ROLLED = re.compile(
    "7columns(7_finish|13_coefficients|5_want|5_fold|7_shifts|8_medians|7_repeat|6_clear|4_add|9_doubtful)B"
    "|6memory(4fill|5widen)B"
)
_AS_WRITTEN = """
!90001 = distinct !{!90001, !90002}
!90002 = !{!"llvm.loop.unroll.disable"}
"""
_COUNTING = ("NRT_incref", "NRT_decref")

# A block: its count of references, the block before it (as an offset), and at the bytes where Numba looks on a machine
# of 64 bits, the address of its data; behind that, the address of the working memory.
_RUNTIME = """
define internal ptr @fastbn.take(ptr %work, i64 %wanted) noinline minsize optsize {
  %w = ptrtoint ptr %work to i64
  %w1 = add i64 %w, 63
  %w2 = and i64 %w1, -64
  %base = inttoptr i64 %w2 to ptr
  %pend = getelementptr i8, ptr %base, i64 8
  %plast = getelementptr i8, ptr %base, i64 16
  %used = load i64, ptr %base, align 8
  %end = load i64, ptr %pend, align 8
  %last = load i64, ptr %plast, align 8
  %more = add i64 %wanted, 127
  %size = and i64 %more, -64
  %next = add i64 %used, %size
  %full = icmp sgt i64 %next, %end
  br i1 %full, label %none, label %some
none:
  ret ptr null
some:
  %block = getelementptr i8, ptr %base, i64 %used
  %pbefore = getelementptr i8, ptr %block, i64 8
  %pdata = getelementptr i8, ptr %block, i64 24
  %pbase = getelementptr i8, ptr %block, i64 32
  %data = getelementptr i8, ptr %block, i64 64
  store i64 1, ptr %block, align 8
  store i64 %last, ptr %pbefore, align 8
  store ptr %data, ptr %pdata, align 8
  store ptr %base, ptr %pbase, align 8
  store i64 %used, ptr %plast, align 8
  store i64 %next, ptr %base, align 8
  ret ptr %block
}

define internal void @NRT_incref(ptr %block) {
  %absent = icmp eq ptr %block, null
  br i1 %absent, label %done, label %some
some:
  %count = load i64, ptr %block, align 8
  %more = add i64 %count, 1
  store i64 %more, ptr %block, align 8
  ret void
done:
  ret void
}

define internal void @NRT_decref(ptr %block) alwaysinline {
  %absent = icmp eq ptr %block, null
  br i1 %absent, label %done, label %some
some:
  call void @fastbn.give(ptr %block)
  ret void
done:
  ret void
}

define internal void @fastbn.give(ptr %block) noinline minsize optsize {
  %count = load i64, ptr %block, align 8
  %less = sub i64 %count, 1
  store i64 %less, ptr %block, align 8
  %free = icmp eq i64 %less, 0
  br i1 %free, label %begin, label %done
begin:
  %pbase = getelementptr i8, ptr %block, i64 32
  %base = load ptr, ptr %pbase, align 8
  %plast = getelementptr i8, ptr %base, i64 16
  br label %pop
pop:
  %last = load i64, ptr %plast, align 8
  %empty = icmp eq i64 %last, 0
  br i1 %empty, label %done, label %look
look:
  %top = getelementptr i8, ptr %base, i64 %last
  %held = load i64, ptr %top, align 8
  %stop = icmp ne i64 %held, 0
  br i1 %stop, label %done, label %drop
drop:
  %pbefore = getelementptr i8, ptr %top, i64 8
  %before = load i64, ptr %pbefore, align 8
  store i64 %before, ptr %plast, align 8
  store i64 %last, ptr %base, align 8
  br label %pop
done:
  ret void
}
"""

_SET = """
define internal void @fastbn.set(ptr %memory, i8 %value, i64 %count) {
  %nothing = icmp eq i64 %count, 0
  br i1 %nothing, label %done, label %loop
loop:
  %k = phi i64 [ 0, %0 ], [ %next, %loop ]
  %place = getelementptr i8, ptr %memory, i64 %k
  store i8 %value, ptr %place, align 1
  %next = add i64 %k, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
_MEMSET = r"call void @llvm\.memset\.p0\.i64\(ptr [^,]*?([%@][^ ,]+), i8 ([^,]+), i64 ({length}), i1 (?:false|true)\)"
_OF_ANY_LENGTH, _OF_EVERY_LENGTH = (re.compile(_MEMSET.format(length=k)) for k in ("%[^,]+", "[^,]+"))

_DEFINITION = re.compile(r'^define [^@\n]*@("[^"]+"|[\w.$-]+)\(.*?^}\n', re.M | re.S)
_CALLED = re.compile(r'call [^@\n]*@("[^"]+"|[\w.$-]+)\(')
_LLVM_TYPES = {"size": "i64", "number": "double"}  # all else is a pointer


def build(function: Function, target: Target, machine: Any) -> Any:
    """The optimized module of one function and that of its working memory."""
    text, names = _compiled(function)
    text += _wrappers(function, names, target)
    text = _without_runtime(text)
    if function.dtype.name == "float16":
        text = halves.converting(text, target, machine)
    text = _inlining(text)
    if target.bits == 32:
        text = _laid_out(text)  # before any pass that looks where things lie
    module = parsed(text, target, machine)
    _hide(module, function)
    builder = _pass_builder(machine, 0)
    passes = builder.getModulePassManager()
    passes.add_always_inliner_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_jump_threading_pass()
    passes.add_refprune_pass()
    passes.run(module, builder)
    text = _with_runtime(str(module), function)
    module = parsed(_without_library(text), target, machine)
    _hide(module, function)
    builder = _pass_builder(machine, 2)  # at 3, loops are there several times, for what is decided before them
    builder.getModulePassManager().run(module, builder)
    module.verify()
    _check_alone(module)
    _rename(module, function)
    return module


def _compiled(function: Function) -> tuple[str, tuple[str, str]]:
    """The text of the entry and of what it calls, and the names that Numba gave to it and its working memory's."""
    sizes = tuple(_INT64 for _ in function.sizes)
    texts, names = [], []
    for name, signature in ((function.entry, function.signature()), (function.workspace, (*sizes, _INT64, _INT64))):
        dispatcher = getattr(entries_back if function.backward else entries, name)
        with _function_passes(2):
            dispatcher.compile(signature)
        result = dispatcher.overloads[signature]
        names.append(result.fndesc.llvm_func_name)
        module = result.library._get_module_for_linking()
        module.get_function(names[-1]).linkage = "external"  # nothing calls it yet
        texts.append(str(module))
    module = llvm.parse_assembly(texts[0])
    module.link_in(llvm.parse_assembly(texts[1]))
    return str(module), (names[0], names[1])


@contextmanager
def _function_passes(level: int) -> Iterator[None]:
    """Numba's optimization of functions one by one; see `build`."""
    before, config.OPT = config.OPT, level
    try:
        yield
    finally:
        config.OPT = before


@contextmanager
def compiled_apart() -> Iterator[None]:
    """Have all that entries call compiled for them.

    What Python's calls, or a user's, had compiled in this process before has been optimized more (see `build`), and
    objects made of it are up to a third larger.  What other threads compile has to wait: it would be compiled so, too.
    """
    with global_compiler_lock:
        all_there = (o for o in gc.get_objects() if issubclass(type(o), Dispatcher))
        functions = [f for f in all_there if _is_of_fastbn(f)]
        kept = [f.overloads for f in functions]
        for f in functions:
            f.overloads = type(f.overloads)()
        try:
            yield
        finally:
            for f, overloads in zip(functions, kept, strict=True):
                f.overloads = overloads


def _is_of_fastbn(dispatcher: Any) -> bool:
    """Others are whatever users and other threads make of them: of no module, as by exec, or not yet of a function."""
    module = getattr(getattr(dispatcher, "py_func", None), "__module__", None)
    return isinstance(module, str) and module.startswith("fastbn.")


def _wrappers(function: Function, names: tuple[str, str], target: Target) -> str:
    """What C calls: Numba's functions return a status, and the result by a pointer."""
    given = [(_LLVM_TYPES.get(p.kind, "ptr"), p.name) for p in function.parameters]
    declared = ", ".join(f"{kind} %{name}" for kind, name in given)
    sizes = ", ".join(f"i64 %{p.name}" for p in function.sizes)
    narrowed = "" if target.bits == 64 else "  %size = trunc i64 %value to i32\n"
    returned = f"i{target.bits} {'%value' if target.bits == 64 else '%size'}"
    # Kernels of columns are part of an entry; that of batch norm's forward does nothing there for each column.
    smallest = "minsize " if function.operation == "batch_norm" and not function.backward else ""
    return f"""
define signext i32 @{function.name}({declared}) nounwind {smallest}optsize {{
  %result = alloca i64, align 8
  %raised = alloca ptr, align 8
  %failed = call i32 @"{names[0]}"(ptr %result, ptr %raised, {declared}, i64 {target.most})
  %fault = icmp ne i32 %failed, 0
  %value = load i64, ptr %result, align 8
  %status = trunc i64 %value to i32
  %returned = select i1 %fault, i32 -1, i32 %status
  ret i32 %returned
}}

define i{target.bits} @{function.name}_workspace({sizes}) nounwind minsize optsize {{
  %result = alloca i64, align 8
  %raised = alloca ptr, align 8
  %failed = call i32 @"{names[1]}"(ptr %result, ptr %raised, {sizes}, i64 {function.dtype.item}, i64 {target.most})
  %value = load i64, ptr %result, align 8
{narrowed}  ret {returned}
}}
"""


def _without_runtime(text: str) -> str:
    """Without what is said for this machine alone, and with Numba's counting of references as names only."""
    text = re.sub(r"^target (triple|datalayout) = .*$", "", text, flags=re.M)
    text = text.replace("@sqrt(", "@llvm.sqrt.f64(")
    text = re.sub(r"^ +store ptr @\.const\.picklebuf[^\n]*\n", "", text, flags=re.M)  # which exception: nobody reads it
    for name in _COUNTING:
        text = re.sub(rf"^define [^\n]*@{name}\(.*?^}}\n", f"declare void @{name}(ptr)\n", text, flags=re.M | re.S)
    return text


def _inlining(text: str) -> str:
    """With every function that asks for memory inlined where it is called, or given the working memory; others not."""
    bodies = {match[1].strip('"'): match[0] for match in _DEFINITION.finditer(text)}
    calls = {name: {c.strip('"') for c in _CALLED.findall(body)} for name, body in bodies.items()}
    asking, before = {_ALLOCATE}, 0
    while len(asking) != before:
        before = len(asking)
        asking |= {name for name, called in calls.items() if called & asking}

    given = {name for name in asking if _GIVEN.search(name)}

    def marked(match: re.Match[str]) -> str:
        name, (first, rest) = match[1].strip('"'), match[0].split("\n", 1)
        if first.startswith("define signext"):
            return match[0]
        first = _NATURAL.sub(r"i64 range(i64 0, -9223372036854775808) \1", first)
        if name in given:
            first = first.replace(f"@{match[1]}(", f"@{match[1]}(ptr %work, ")
        rest = _CALLED.sub(lambda m: f"{m[0]}ptr {_WORK}, " if m[1].strip('"') in given else m[0], rest)
        called = name in given or (_SHARED.search(name) is not None and name not in asking)
        inlined = name in asking or _INLINED.search(name) is not None
        how = " noinline" if called else " alwaysinline" if inlined else ""
        how += " minsize optsize" if _SMALLEST.search(name) else " optsize" if _SMALL.search(name) else ""
        pattern = r"( #\d+)? \{$" if called else r" \{$"  # a group of attributes may have one that says otherwise
        rest = _rolled(rest) if _ROLLED.search(name) else rest
        return re.sub(pattern, f"{how} {{", first) + "\n" + rest

    text = _DEFINITION.sub(marked, _FEW_ROWS.sub(r"\1 noinline", text))
    return f"{text}{_WORK} = external global i8\n{_AS_WRITTEN}"


def _rolled(body: str) -> str:
    """A function's body with every branch back to a block before it marked as that of a loop that is there once."""
    before, lines = set(), []
    for line in body.split("\n"):
        if label := re.match(r"([\w.-]+):", line):
            before.add(label[1])
        back = line.lstrip().startswith("br ") and not before.isdisjoint(re.findall(r"label %([\w.-]+)", line))
        lines.append(f"{line}, !llvm.loop !90001" if back and "!llvm.loop" not in line else line)
    return "\n".join(lines)


def _with_runtime(text: str, function: Function) -> str:
    """With our own runtime in the place of Numba's."""
    call = re.compile(rf"call [^@\n]*@{_ALLOCATE}\(i64 ([^,]+), i32 [^)]+\)")

    def taking(match: re.Match[str]) -> str:
        if "ptr %work" not in match[0].split("\n", 1)[0]:
            return match[0]
        return call.sub(r"call ptr @fastbn.take(ptr %work, i64 \1)", match[0]).replace(_WORK, "%work")

    text = _DEFINITION.sub(taking, text).replace(f"{_WORK} = external global i8\n", "")
    for name in (_ALLOCATE, *_COUNTING):
        text = re.sub(rf"^declare [^\n]*@{name}\([^\n]*\n", "", text, flags=re.M)
    if _ALLOCATE in text or _WORK in text:
        raise ExportError("this version of Numba asks for memory where it was not tried")
    return text + _RUNTIME


def _laid_out(text: str) -> str:
    """With records as they lie in memory on a machine of 64 bits.

    Numba's text has their offsets in bytes by now; only where a record is called by its type, the room for a pointer
    must be as large as it was.
    """
    record = re.compile(r"(alloca|getelementptr(?: \w+)*) ([{\[][^%@\n]*[}\]])(, )")
    text = record.sub(lambda m: m[1] + " " + re.sub(r"\bptr\b", "i64", m[2]) + m[3], text)
    if found := re.search(r"= load (volatile )?[{\[][^%@\n]*\bptr\b|store [{\[][^%@\n]*\bptr\b", text):
        raise ExportError(f"this version of Numba keeps records in memory as it was not tried: {found[0]}")
    return text


def _without_library(text: str, calls: re.Pattern[str] = _OF_ANY_LENGTH) -> str:
    """With no loop made into a call of memset or memcpy, for there is no library to have them.

    And with no tables of where to go on, of which every entry takes four times its size for a linker to read.
    """
    own = r"call void @fastbn.set(ptr \1, i8 \2, i64 \3)"
    text, count = calls.subn(own, text)
    said = r'\1 "no-builtins" "no-jump-tables"="true" {'
    return re.sub(r"^(define .*) \{$", said, text + (_SET if count else ""), flags=re.M)


def _hide(module: Any, function: Function) -> None:
    """Leave nothing to be seen but the two functions."""
    seen = (function.name, f"{function.name}_workspace")
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name not in seen:
            value.linkage = "internal"
    for value in module.functions:
        if not value.is_declaration:
            value.add_function_attribute("nounwind")


def _rename(module: Any, function: Function) -> None:
    """Give what is hidden short names, or none in the object where it needs none (linkers of others move functions)."""
    linkage = "internal" if module.triple.startswith(("wasm", "riscv")) else "private"
    hidden = [v for v in (*module.functions, *module.global_variables) if v.linkage == llvm.Linkage.internal]
    for k, value in enumerate(hidden):
        value.name, value.linkage = f"{function.name}.{k}", linkage


def _pass_builder(machine: Any, level: int) -> Any:
    options = llvm.create_pipeline_tuning_options(level)
    options.loop_vectorization, options.slp_vectorization, options.loop_interleaving = level > 0, False, False
    return llvm.create_pass_builder(machine, options)


def _check_alone(module: Any) -> None:
    missing = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    if missing:
        raise ExportError(f"this version of Numba calls {', '.join(missing)}, which the library would not have")


def emitted(module: Any, target: Target, machine: Any) -> tuple[Any, bytes]:
    """An object that needs nothing else (of WebAssembly, the linker sees to that), and the module that it is of.

    Where a target sets even a few bytes by a call, that is one of a function of our own.
    """
    content = machine.emit_object(module)
    if undefined(content) == ["memset"]:
        module = parsed(_without_library(str(module), _OF_EVERY_LENGTH), target, machine)
        content = machine.emit_object(module)
    if missing := undefined(content):
        raise ExportError(f"LLVM calls {', '.join(missing)}, which the library would not have")
    return module, content


def undefined(content: bytes) -> list[str]:
    """Names that an object of 64-bit ELF needs from others."""
    if content[:5] != b"\x7fELF\x02":
        return []
    begin, size, count = struct.unpack_from("<Q10xHH", content, 40)
    sections = [struct.unpack_from("<IIQQQQII8xQ", content, begin + k * size) for k in range(count)]
    found = []
    for _, kind, _, _, place, length, link, _, entry in sections:
        if kind != 2:  # a table of symbols
            continue
        names = sections[link][4]
        for k in range(place + entry, place + length, entry):
            name, _, section = struct.unpack_from("<IHH", content, k)
            if section == 0:
                found.append(content[names + name : content.index(b"\0", names + name)].decode())
    return found


def linked(modules: Iterable[Any], machine: Any) -> Any:
    """One module of several; what they hide keeps apart, but what is the same in some of them is there once."""
    first, *others = (llvm.parse_assembly(str(module)) for module in modules)
    for module in others:
        first.link_in(module)
    builder = _pass_builder(machine, 0)
    passes = builder.getModulePassManager()
    passes.add_merge_functions_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(first, builder)
    return first
