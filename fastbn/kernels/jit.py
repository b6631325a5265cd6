"""The only place where Numba's options appear."""

import inspect
from functools import partial
from types import FunctionType
from typing import NamedTuple

import llvmlite.binding
from numba import njit
from numba.core import config
from numba.core.compiler import Compiler

from fastbn._quiet import quietly
from fastbn.kernels import cache, lent

# No fast-math flag anywhere: the order of every sum stands in the source (see simd), so no compiler may change it.
_OPTIONS = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}

# Said of what is kept on disk, for otherwise these are those of the first caller, which may be a user's function.
_OWN = _OPTIONS | {"fastmath": False, "forceinline": False}


class Driver(NamedTuple):
    """One Python body compiled twice; both builds give the same bits."""

    serial: FunctionType
    parallel: FunctionType


def _globals_alone(library):
    """Have of a tile's module nothing but its globals made into native code.

    All that calls it has the function itself; and of two of the same name, one is as nobody optimized it.
    """
    whole = library._final_module
    names = [v.name for v in whole.global_variables if "NumbaEnv" in v.name]
    shell = llvmlite.binding.parse_assembly("\n".join(f'@"{name}" = common global i64 0' for name in names))
    shell.triple, shell.data_layout = whole.triple, whole.data_layout
    library._final_module = shell
    try:
        type(library)._finalize_final_module(library)
    finally:
        library._final_module = whole


class _TileCompiler(Compiler):
    """Leaves the optimization of a tile to that of the drivers around it: at every level, it would be most of the time.

    This is private to Numba; where it has moved, tiles are optimized as ever.
    """

    def compile_extra(self, func):
        try:
            library = self.state.targetctx.codegen().create_library(func.__qualname__)
            for name in ("_optimize_final_module", "_finalize_final_module", "_final_module"):
                getattr(library, name)
            library._optimize_final_module = lambda: None
            library._finalize_final_module = partial(_globals_alone, library)
            self.state.library = library
        except Exception:  # of whatever kind: it is Numba's inside that has changed
            self.state.library = None
        return super().compile_extra(func)


class _DriverCompiler(Compiler):
    """Has a driver borrow arrays from its callers in Python."""

    def compile_extra(self, func):
        lent.lend(self.state.targetctx)
        return super().compile_extra(func)


def _compiled(function, **options):
    function.__signature__ = inspect.signature(function)  # Numba asks twice, which is a tenth of what an import takes
    return njit(**options)(function)


def tile(function, **options):
    """A small function called from drivers, inlined by LLVM where it thinks fit, and never called from Python."""
    return _compiled(function, **_OPTIONS, **options, no_cpython_wrapper=True, pipeline_class=_TileCompiler)


def inlined(function):
    """A tile for runs of a few elements, which feel a call: inlined everywhere."""
    return tile(function, forceinline=True)


_CALLED = _OWN | {"pipeline_class": _DriverCompiler}  # from Python


def driver(function):
    """A loop over work items, as a serial and as a parallel build of the same source."""
    if config.DISABLE_JIT:
        return Driver(quietly(function), quietly(function))
    serial = _compiled(_renamed(function, "serial"), **_CALLED)
    parallel = _compiled(_renamed(function, "parallel"), **_CALLED, parallel=True, boundscheck=False)
    for build in (serial, parallel):
        cache.attach(build)
    return Driver(serial, parallel)


def entry(function):
    """A kernel that only compiled code calls, by addresses and numbers.

    It is inlined there: a call takes a third of the time that a short row does, and lengths that stand in the caller's
    source make it shorter.
    """
    if config.DISABLE_JIT:
        return function
    build = njit(**_OWN | {"forceinline": True}, no_cpython_wrapper=True)(function)
    cache.attach(build)
    return build


def whole(function):
    """A small function called from Python that no other thread's Python can see half done: it keeps the lock."""
    if config.DISABLE_JIT:
        return quietly(function)
    build = njit(**_CALLED | {"nogil": False})(function)
    cache.attach(build)
    return build


def _renamed(function, build):
    """A twin under its own qualified name: Numba's disk cache tells functions apart by name, not by options."""
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__qualname__ = f"{function.__qualname__}.{build}"
    twin.__doc__ = function.__doc__
    twin.__module__ = function.__module__
    return twin
