"""The only place where Numba's options appear."""

import functools
import inspect
from types import FunctionType
from typing import NamedTuple

from numba import njit
from numba.core import config
from numba.core.compiler import Compiler

from fastbn._quiet import quietly
from fastbn.kernels import cache, lent, libraries, lock

# No fast-math flag anywhere: the order of every sum stands in the source (see simd), so no compiler may change it.
_OPTIONS = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}

# Said of what is kept on disk, for otherwise these are those of the first caller, which may be a user's function.
_OWN = _OPTIONS | {"fastmath": False, "forceinline": False}


class Driver(NamedTuple):
    """One Python body compiled twice; both builds give the same bits."""

    serial: FunctionType
    parallel: FunctionType


def _without_by_products(result):
    """Without what Numba keeps to tell of how it compiled: the function's typed code, for one."""
    try:
        result.fndesc.typemap = result.fndesc.calltypes = None
        return result._replace(type_annotation="", metadata={})
    except (AttributeError, ValueError):  # it is Numba's inside that has changed
        return result


class _TileCompiler(Compiler):
    """Leaves the optimization of a tile to that of the drivers around it: at every level, that is most of the time."""

    def compile_extra(self, func):
        codegen = self.state.targetctx.codegen()
        self.state.library = libraries.new(libraries.Part, codegen, func.__qualname__)
        return _without_by_products(super().compile_extra(func))


class _WholeCompiler(Compiler):
    def compile_extra(self, func):
        context = self.state.targetctx
        self.state.library = libraries.new(libraries.Whole, context.codegen(), func.__qualname__)
        if self.state.library is not None:
            libraries.in_parts(context)
        return _without_by_products(super().compile_extra(func))


@functools.cache
def _provide_lock():
    """Before a driver is compiled, or loaded."""
    if lent.KNOWN:
        lock.provide(_hand_over)


class _DriverCompiler(_WholeCompiler):
    """Has a driver borrow arrays, and Python's lock, from its callers in Python."""

    def compile_extra(self, func):
        _provide_lock()
        lent.lend(self.state.targetctx, self.state.flags.auto_parallel.enabled)
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
        cache.attach(build, _provide_lock)
    return Driver(serial, parallel)


def entry(function):
    """A kernel that only compiled code calls, by addresses and numbers.

    It is inlined there: a call takes a third of the time that a short row does, and lengths that stand in the caller's
    source make it shorter.
    """
    if config.DISABLE_JIT:
        return function
    build = njit(**_OWN | {"forceinline": True}, no_cpython_wrapper=True, pipeline_class=_WholeCompiler)(function)
    cache.attach(build)
    return build


def whole(function):
    """A small function called from Python that no other thread's Python can see half done: it keeps the lock."""
    if config.DISABLE_JIT:
        return quietly(function)
    build = njit(**_CALLED | {"nogil": False})(function)
    cache.attach(build)
    return build


_hand_over = entry(lock.hand_over)


def _renamed(function, build):
    """A twin under its own qualified name: Numba's disk cache tells functions apart by name, not by options."""
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__qualname__ = f"{function.__qualname__}.{build}"
    twin.__doc__ = function.__doc__
    twin.__module__ = function.__module__
    return twin
