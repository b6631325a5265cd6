"""A folder with a library, made for one processor."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numba
from numba.core import config

from fastbn._export import linkers, targets
from fastbn._export.errors import ExportError

TRIED = ("0.68",)  # releases of Numba, whose inside is used


class Order(NamedTuple):
    """What is asked for."""

    operations: Sequence[str]
    dtypes: Sequence[str]
    layouts: Sequence[str]
    target: str
    folder: Path
    cpu: str | None = None
    linker: str | None = None
    force: bool = False
    backward: bool = False

    def command(self) -> str:
        words = ["fastbn", "export", "--ops", *self.operations, "--dtypes", *self.dtypes, "--target", self.target]
        words += ["--layouts", *self.layouts] if len(self.layouts) == 1 else []
        words += ["--backward"] if self.backward else []
        words += ["--cpu", self.cpu] if self.cpu else []
        return shlex.join([*words, "-o", self.folder.name or "."])


class Made(NamedTuple):
    files: tuple[str, ...]
    functions: int
    nbytes: int  # of the object
    seconds: float
    linker: str | None


def export(order: Order, progress: Callable[[int, int, str], None] = lambda done, total, name: None) -> Made:
    """Write what is ordered; raises ExportError before anything is written, unless a linker fails."""
    start = perf_counter()
    _check_numba()
    target = targets.find(order.target, order.cpu)
    linker = linkers.find(target, order.linker)
    _check_folder(order.folder, order.force)

    # Imported here: they compile, which the checks before must not wait for.
    from fastbn._export import archive, cases, header, interface, modules, selftest, texts

    for dtype in order.dtypes:
        cases.check(dtype)
    layouts = [name for name, asked in interface.LAYOUTS.items() if asked in order.layouts]
    functions = list(interface.functions(order.operations, order.dtypes, layouts, order.backward))
    machine, built, members = target.machine(), [], []
    with modules.compiled_apart():
        for k, function in enumerate(functions):
            progress(k, len(functions) + 1, function.name)
            module, content = modules.emitted(modules.build(function, target, machine), target, machine)
            built.append(module)
            members.append((f"{function.name}.o", content, selftest.names([function])))
    progress(len(functions), len(functions) + 1, "the self test")
    _, whole = modules.emitted(modules.linked(built, machine), target, machine)
    tried = list(cases.cases(functions))
    contents: dict[str, str | bytes] = {"libfastbn.o": whole, "libfastbn.a": archive.archive(members)}
    contents |= {"fastbn.h": header.header(functions), "example.c": texts.example(functions[0])}
    if target.is_wasm:
        program, data = selftest.in_javascript(tried)
        contents |= {"selftest.mjs": program, "selftest.json": data}
    else:
        contents["selftest.c"] = selftest.in_c(tried)
    try:
        order.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make {order.folder}: {error.strerror}") from None
    for name, text in contents.items():
        _write(order.folder / name, text)
    if linker is not None:
        shared = "libfastbn.wasm" if target.is_wasm else "libfastbn.so"
        linkers.link(linker, target, order.folder / "libfastbn.o", order.folder / shared, selftest.names(functions))
        contents[shared] = b""
    sizes = ", ".join(f"`{name[:-2]}` {len(content) / 1000:.1f} kB" for name, content, _ in members)
    readme = texts.readme(functions, target, order.command(), sizes, list(contents))
    _write(order.folder / "README.md", readme)
    files = tuple(sorted((*contents, "README.md")))
    progress(len(functions) + 1, len(functions) + 1, "")
    return Made(files, len(functions), len(whole), perf_counter() - start, linker)


def _check_numba() -> None:
    if not numba.__version__.startswith(tuple(f"{release}." for release in TRIED)):
        raise ExportError(f"Numba is {numba.__version__}, with which it was not tried; install numba=={TRIED[-1]}.*")
    if config.DISABLE_JIT:
        raise ExportError("NUMBA_DISABLE_JIT is set, so nothing can be compiled; unset it")
    if config.BOUNDSCHECK:
        raise ExportError("NUMBA_BOUNDSCHECK is set, which a library without exceptions cannot heed; unset it")
    settings = {"NUMBA_ENABLE_PROFILING": config.ENABLE_PROFILING, "NUMBA_DEBUGINFO": config.DEBUGINFO_DEFAULT}
    for name, is_set in settings.items():  # the first one sets the second, too
        if is_set:
            raise ExportError(f"{name} is set, and what it has Numba add fits no other target; unset it")


def _check_folder(folder: Path, force: bool) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise ExportError(f"{folder} is a file; name a folder")
        if folder.is_dir() and not force and any(folder.iterdir()):
            raise ExportError(f"{folder} is not empty; name a new folder, or say --force to write into this one")
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise ExportError(f"cannot look into {folder}: {error.strerror}") from None
    if not above.is_dir():
        raise ExportError(f"cannot make {folder}: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ExportError(f"cannot write to {folder}: {above} is not yours to write to")


def _write(path: Path, content: str | bytes) -> None:
    try:
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="\n")
        else:
            path.write_bytes(content)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}") from None
