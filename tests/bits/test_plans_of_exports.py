"""A C library's functions go by the plans of Python's calls: its entries, compiled natively, say which they made."""

import ctypes
from types import FunctionType
from typing import Any

import numba
import numpy as np
import pytest
from internals import numbers, views
from numba import carray, njit, types
from numba.core.dispatcher import Dispatcher

from fastbn._export import entries, entries_back, interface
from fastbn._export.memory import at_byte, place
from fastbn.kernels.simd import address

ROWS = [(1, 1), (7, 64), (100_000, 64), (4096, 768), (70, 20_000), (16_385, 12), (300, 1030), (100, 40_000)]
IMAGES = [
    (4, 6, 25),
    (2, 6, 99),
    (64, 256, 3136),
    (32, 3, 50_176),
    (1, 3, 2_073_600),
    (8, 1, 60),
    (8, 30, 1),
    (50, 2048, 49),
    (48, 64, 64),
    (1, 2000, 2),
    (640, 12, 1),
    (2, 320, 4096),
]
MOST = (1 << 63) - 1
KERNELS = {  # names in Python: those in the entries, and which of the arguments after the plan is written
    "forward": ("_runs_forward", 1),
    "scale": ("_runs_scale", 1),
    "columns_forward": ("_columns_forward", 1),
    "columns_scale": ("_columns_scale", 1),
    "backward": ("_runs_backward", 2),
    "rows_forward": ("_rows_forward", 1),
    "rows_backward": ("_rows_backward", 2),
    "columns_backward": ("_columns_backward", 2),
}


def recorder(kernel: int, result: int) -> Any:
    """In the place of a kernel: puts its number and its plan where the result would go."""

    @njit
    def record(plan, *args):
        view, how = plan
        size = len(view) + len(how)
        told = carray(at_byte(place(address(args[result])), address(np.empty(0, np.int64))), (2 + size,))
        told[0], told[1] = kernel, size
        for k in range(len(view)):
            told[2 + k] = view[k]
        for k in range(len(how)):
            told[2 + len(view) + k] = how[k]

    return record


@njit
def nothing(*args):
    pass


def recording(module: Any) -> dict[str, Any]:
    """What a module of entries consists of, with recorders for its kernels."""
    own = dict(module.__dict__)
    for name, value in module.__dict__.items():
        if isinstance(value, Dispatcher) and value.py_func.__module__.startswith(entries.__name__):
            f = value.py_func
            names = own if f.__module__ == module.__name__ else f.__globals__
            own[name] = njit(error_model="numpy")(FunctionType(f.__code__, names, name, f.__defaults__, f.__closure__))
    own |= {name: recorder(k, result) for k, (name, result) in enumerate(KERNELS.values()) if name in own}
    own |= {name: nothing for name in ("_collect", "_update") if name in own}
    return own


ENTRIES, ENTRIES_BACK = recording(entries), recording(entries_back)


def plan_of(function: interface.Function) -> Any:
    """Of sizes: the kernel and the plan of a call."""
    module = ENTRIES_BACK if function.backward else ENTRIES
    entry, workspace = module[function.entry], module[function.workspace]
    compiled = numba.cfunc(types.int64(*function.signature()))(entry.py_func)
    kinds = {"size": ctypes.c_int64, "number": ctypes.c_double}
    given = [kinds.get(p.kind, ctypes.c_void_p) for p in function.parameters]
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *given, ctypes.c_int64)(compiled.address)
    call.code = compiled  # which goes with its last reference

    def plan(x: Any, sizes: tuple[int, ...]) -> tuple[str, list[int]]:
        result, rest = pointer(x), np.empty(4_000_000)
        work = np.empty(workspace(*sizes, x.itemsize, MOST) + 64, np.uint8)
        places = {"x": result, "y": result, "dy": result, "dx": result, "weight": None, "bias": None}
        places |= {"work": pointer(work), "mean": pointer(rest[:1_000_000]), "rstd": pointer(rest[1_000_000:])}
        places |= {"running_mean": pointer(rest[2_000_000:]), "running_var": pointer(rest[3_000_000:])}
        lengths = iter(sizes)
        values = {"size": lambda name: next(lengths), "number": lambda name: 1e-5}
        args = [values.get(p.kind, places.get)(p.name) for p in function.parameters]
        assert call(*args, MOST) == entries.OK
        told = x.base[:256].view(np.int64)
        return list(KERNELS)[told[0]], told[2 : 2 + told[1]].tolist()

    return plan


def pointer(array: Any) -> Any:
    return ctypes.c_void_p(array.ctypes.data)


def unwritten(shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory that nobody touches but a recorder, who may need more of it than there are elements."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.empty(size + 256, np.uint8)[:size].view(dtype).reshape(shape)


def of_python(view: Any, kind: str, x: Any, centered: bool = True, rooted: bool = True) -> tuple[str, list[int]]:
    of_x = numbers.of(x)
    if kind == "forward":
        plan = numbers.forward(view, of_x, centered, rooted)
    else:
        plan = numbers.scale(view, of_x) if kind == "scale" else numbers.backward(view, of_x, True)[0]
    of_rows = view.affine == "element" and kind != "scale"
    return f"{'columns_' if view.columns else 'rows_' if of_rows else ''}{kind}", plan.tolist()


def functions(operation: str, dtype: str) -> list[interface.Function]:
    return list(interface.functions([operation], [dtype], backward=True))


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("operation", interface.OPERATIONS)
def test_an_exported_function_goes_by_the_plan_of_python(operation, dtype):
    for function in functions(operation, dtype):
        plan = plan_of(function)
        kind = "backward" if function.backward else "scale" if function.entry.startswith("batch_norm_n") else "forward"
        if function.layout is None:
            for shape in ROWS:
                x = unwritten(shape, dtype)
                view = views.layer_view(shape, None, 1)
                assert plan(x, shape) == of_python(view, kind, x, centered=operation == "layer_norm"), shape
            continue
        for sizes in IMAGES:
            batch, channels, plane = sizes
            first = function.layout == "nchw"
            axis, shape = (1, sizes) if first else (2, (batch, plane, channels))
            x = unwritten(shape, dtype)
            if operation == "batch_norm":
                view = views.batch_view(shape, None, axis, kind != "scale")
                assert plan(x, sizes) == of_python(view, kind, x, rooted=False), sizes
                continue
            if operation == "instance_norm" and plane == 1:
                continue
            instances = operation == "instance_norm"
            for groups in {channels} if instances else {1, channels, *(g for g in (2, 3, 32) if channels % g == 0)}:
                view = views.group_view(shape, None, axis, groups)
                own = sizes if instances else (*sizes, groups)
                name, expected = of_python(view, kind, x)
                if name == "rows_forward":  # for which the C library has the other kernel, to be smaller
                    name = "forward"
                assert plan(x, own) == (name, expected), own
