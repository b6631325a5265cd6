"""A shared library that `fastbn export` made, called through ctypes, case by case of its self test."""

import ctypes
from typing import Any

import numpy as np

from fastbn._export import cases

KINDS = {"size": ctypes.c_int64, "number": ctypes.c_double}


def faults(path: Any, tried: list[cases.Case]) -> list[str]:
    """What does not come out as in Python."""
    library = ctypes.CDLL(str(path))
    return [fault for case in tried for fault in _faults_of(library, case)]


def _faults_of(library: ctypes.CDLL, case: cases.Case) -> list[str]:
    function, memory, given = case.function, [], []
    for p, a in zip(case.function.parameters, case.arguments, strict=True):
        of_elements = function.dtype_of(p)
        dtype = np.dtype("uint16" if of_elements.half else of_elements.name)
        values: Any = None
        if a.kind == "draw":
            values = cases.drawn(*a.value, dtype=of_elements.name)
        elif a.kind in ("room", "askew"):
            values = np.full(a.value[0], 0x7F7F if of_elements.half else np.nan, dtype)
        elif a.kind == "work":
            values = _guarded(_size(library, function.name, case.sizes))
        elif a.kind in ("same", "part"):
            values = memory[a.of]
        memory.append(values)
        if a.kind in KINDS:
            given.append(KINDS[a.kind](a.value))
        elif values is None:
            given.append(None)
        else:
            further = {"part": dtype.itemsize, "askew": 1}.get(a.kind, 0)
            given.append(ctypes.c_void_p(values.ctypes.data + further))
    found = [f"{case.name}: {what}" for what in _compared(library, case, given, memory)]
    for p, values in zip(case.function.parameters, memory, strict=True):
        if p.kind == "work" and values is not None and (values.base[-64:] != 0x7F).any():
            found.append(f"{case.name}: written behind the working memory")
    return found


def _compared(library: ctypes.CDLL, case: cases.Case, given: list[Any], memory: list[Any]) -> list[str]:
    status = getattr(library, case.function.name)(*given)
    if status != case.status:
        return [f"status {status}, expected {case.status}"]
    parameters = case.function.parameters
    return [
        f"other bits in {parameters[i].name}"
        for i, count, expected in case.expected
        if cases.digest(memory[i][:count]) != expected
    ]


def _size(library: ctypes.CDLL, name: str, sizes: tuple[int, ...]) -> int:
    workspace = getattr(library, f"{name}_workspace")
    workspace.restype = ctypes.c_size_t
    return workspace(*map(ctypes.c_int64, sizes))


def _guarded(size: int) -> Any:
    """Working memory of odd alignment, with bytes behind it that are watched."""
    return np.full(size + 65, 0x7F, np.uint8)[1 : size + 1]
