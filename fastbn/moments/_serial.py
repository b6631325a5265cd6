"""Moments as plain numbers, strings, lists and dicts."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from fastbn._moments import Sums
from fastbn.moments._states import Exact, State, integers

FORMAT, VERSION = "fastbn.Moments", 1

_EXACT = ("count", "sum", "sum_of_squares")
_SUMS = ("count", "shift", "offset", "m2", "power")
_LARGEST_POWER = 4096  # far beyond what the exponents of float64 lead to


def to_dict(axes: tuple[int, ...], state: State) -> dict[str, Any]:
    """See `Moments.to_dict`."""
    shape = state.n.shape
    kind, names = ("exact", _EXACT) if isinstance(state, Exact) else ("float", _SUMS)
    numbers = {name: np.broadcast_to(v, shape).ravel().tolist() for name, v in zip(names, state, strict=True)}
    return {"format": FORMAT, "version": VERSION, "axis": list(axes), "shape": list(shape), kind: numbers}


def from_dict(data: Any) -> tuple[tuple[int, ...], State]:
    """See `Moments.from_dict`."""
    if not isinstance(data, Mapping):
        raise TypeError(f"data is of type {type(data).__name__}; expected the dict that Moments.to_dict returned")
    if data.get("format") != FORMAT:
        raise ValueError(
            f"data has the format {data.get('format')!r}; expected {FORMAT!r}, as Moments.to_dict writes it"
        )
    if data.get("version") != VERSION:
        raise ValueError(
            f"data has version {data.get('version')!r} of its form; this release of fastbn reads version {VERSION}"
        )
    try:
        axes, state = tuple(int(a) for a in data["axis"]), _state(data)
        if state.n.ndim != len(axes) and (state.n.ndim or state.n.any()):
            raise ValueError(f"expected a length for each of the axes {axes}, not the shape {state.n.shape}")
        return axes, state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"data is damaged: {type(error).__name__}: {error}; expected what to_dict returned") from None


def _state(data: Mapping[str, Any]) -> State:
    shape = tuple(int(v) for v in data["shape"])
    exact = "exact" in data
    columns = [list((data["exact"] if exact else data["float"])[name]) for name in (_EXACT if exact else _SUMS)]
    if any(len(column) != prod(shape) for column in columns):
        raise ValueError(f"expected {prod(shape)} numbers each for the shape {shape}")
    if not all(count >= 0 for count in columns[0]):
        raise ValueError("expected counts of zero or more")
    if any(any(numbers) for count, *numbers in zip(*columns, strict=True) if count == 0):
        raise ValueError("expected sums of zero where the count is zero")
    if exact:
        return _exact(columns, shape)
    counts, _, _, squares, powers = (np.array(column, np.float64) for column in columns)
    if not np.isfinite(counts).all():
        raise ValueError("expected finite counts")
    if (squares < 0).any():
        raise ValueError("expected m2, sums of squares, of zero or more")
    if not (np.abs(powers) <= _LARGEST_POWER).all() or (powers % 1).any():
        raise ValueError(f"expected powers that are whole numbers from {-_LARGEST_POWER} to {_LARGEST_POWER}")
    return Sums(*(np.array(column, np.float64).reshape(shape) for column in columns))


def _exact(columns: list[list[Any]], shape: tuple[int, ...]) -> Exact:
    if any(not isinstance(v, int) for column in columns for v in column):
        raise ValueError("expected integers for what is exact")
    if any(n * q < s * s for n, s, q in zip(*columns, strict=True)):
        raise ValueError("expected sums of squares that are at least the square of the sum over the count")
    return Exact(*(integers(column, shape) for column in columns))
