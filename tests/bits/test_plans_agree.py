"""Calls from Python and from compiled code go by the same plans, whatever the shape: plans decide about bits."""

from typing import Any

import numba
import numpy as np
import pytest
from internals import Runs, integers, numbers, steps, views

SHAPES = [
    (1, 1),
    (7, 64),
    (4, 6, 5, 5),
    (2, 6, 9, 11),
    (100_000, 64),
    (4096, 768),
    (70, 20_000),
    (3, 16_384, 2),
    (300, 1030),
    (64, 256, 56, 56),
    (32, 3, 224, 224),
    (1, 3, 1080, 1920),
    (8, 1, 30, 2),
    (8, 30, 1, 1),
    (50, 2048, 7, 7),
    (48, 64, 8, 8),
    (3, 40, 40, 16),
    (256, 112, 112, 3),
    (16_385, 4, 12),
    (1, 2000, 1),
]
KERNELS = (
    *("forward", "scale", "backward", "rows_forward", "rows_backward"),
    *("columns_forward", "columns_scale", "columns_backward"),
)


def unread(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of this shape without its memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


@pytest.fixture
def plans(monkeypatch):
    """The plans that the passes of compiled code hand to kernels, which are not run."""
    found: list[Any] = []
    for name in KERNELS:
        monkeypatch.setattr(
            steps, f"_{name}", lambda plan, *args, name=name: found.append((name, [*plan[0], *plan[1]]))
        )
    monkeypatch.setattr(steps, "_add_up", lambda *args: None)
    monkeypatch.setattr(steps, "elements", lambda array, count: unread((count,), array.dtype))
    monkeypatch.setattr(steps, "flat", lambda values, like: values)
    monkeypatch.setattr(steps, "address", lambda values: values)
    return found


def of_python(view: Any, kind: str, x: Any, **settings: Any) -> Any:
    """The kernel and the plan that a call from Python has for this view."""
    of_x = numbers.of(x)
    if kind == "forward":
        plan = numbers.forward(view, of_x, settings.get("centered", True), settings.get("rooted", True))
    else:
        plan = numbers.scale(view, of_x) if kind == "scale" else numbers.backward(view, of_x, True)[0]
    of_rows = view.affine == "element" and kind != "scale"
    return f"{'columns_' if view.columns else 'rows_' if of_rows else ''}{kind}", plan.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows(shape, dtype, plans):
    x, nothing = unread(shape, dtype), (np.empty(0), np.empty(0))
    for trailing in range(1, len(shape) + 1):
        view = views.layer_view(shape, None, trailing)
        n = view.weights
        rows = x.size // n, n, n
        for centered in (1, 0):
            plans.clear()
            steps.rows((x, x), rows, (None, None), 1e-5, nothing, centered, None)
            assert plans == [of_python(view, "forward", x, centered=centered)]
        plans.clear()
        steps.rows_backward((x, x, x), rows, (None, None), nothing, nothing, None)
        assert plans == [of_python(view, "backward", x)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_channels(shape, dtype, plans):
    x, nothing = unread(shape, dtype), (np.empty(0), np.empty(0))
    for axis in range(len(shape)):
        view, parts = views.batch_view(shape, None, axis), steps.split(shape, axis)
        plans.clear()
        steps.batch((x, x), parts, (None, None), 1e-5, nothing, 0, None)
        steps.batch_backward((x, x, x), parts, (None, None), nothing, nothing, None)
        assert plans == [of_python(view, "forward", x, rooted=False), of_python(view, "backward", x)]
        for statistics in (0, 1):
            plans.clear()
            steps.given((x, x), parts, (None, None), 1e-5, nothing, None, statistics)
            given = views.batch_view(shape, None, axis, bool(statistics))
            assert plans == [of_python(given, "scale", x)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_groups(shape, dtype, plans):
    x, nothing = unread(shape, dtype), (np.empty(0), np.empty(0))
    for axis in range(1, len(shape)):
        channels = shape[axis]
        for groups in {1, channels, *(g for g in (2, 3, 32) if channels % g == 0)}:
            view, parts = views.group_view(shape, None, axis, groups), steps.split_groups(shape, axis, groups)
            expected = [of_python(view, "forward", x), of_python(view, "backward", x)]
            forwards, backwards = [steps.groups], [steps.groups_backward]
            if axis == 1:  # where one that reads no columns does as well
                forwards.append(steps.groups_by_runs)
                backwards.append(steps.groups_backward_by_runs)
            for forward, backward in zip(forwards, backwards, strict=True):
                plans.clear()
                forward((x, x), parts, (None, None), 1e-5, nothing, None)
                backward((x, x, x), parts, (None, None), nothing, nothing, None)
                assert plans == expected


@numba.njit
def compiled(lengths, nbytes, itemsize):
    """Plans of all kinds, for one set of numbers, in a row."""
    outer, channels, span, inner = lengths
    runs, elements = Runs(outer, channels, span, inner, channels * span), Runs(1, outer, 1, inner, inner)
    eight = integers.columns(outer, channels * span * inner, span * inner, inner, channels * span, 0)
    by_row = integers.columns(outer, inner, 1, 1, outer, 1)
    return (
        integers.runs_forward(runs, 1, nbytes, itemsize, 1, 0),
        integers.runs_forward(elements, 0, nbytes, itemsize, 0, 1),
        integers.runs_scale(runs, 1, nbytes, itemsize),
        integers.runs_backward(Runs(outer, channels, 1, inner, channels), nbytes, itemsize),
        integers.adjacent(Runs(outer, channels, 1, inner, channels), itemsize, span),
        integers.rows_backward(elements, nbytes, itemsize),
        integers.columns_forward(eight, 1, nbytes, itemsize, 1, 0),
        integers.columns_scale(by_row, channels, nbytes, itemsize, 2, 3),
        integers.columns_backward(eight, channels, nbytes, itemsize, 1),
        integers.channels_are_columns(outer, channels, inner, 0),
        integers.channels_are_columns(outer, channels, inner, 1),
    )


def test_arithmetic_is_the_same_compiled():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        lengths = tuple(int(n) for n in 2 ** rng.uniform(0, 14, 4))
        nbytes, itemsize = int(2 ** rng.uniform(2, 28)), int(rng.choice([2, 4, 8]))
        assert compiled(lengths, nbytes, itemsize) == compiled.py_func(lengths, nbytes, itemsize)
