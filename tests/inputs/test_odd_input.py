"""Odd arrays that are right all the same: whatever memory they lie in, whatever lengths, whatever values."""

import tempfile
from math import prod

import numpy as np
import pytest
from against_reference import check_backward, check_forward
from cases import (
    Case,
    assert_close,
    assert_same_bits,
    by_channel,
    channels_last_view,
    forward_tolerance,
    gradient_scales,
    gradient_tolerance,
    ids,
    memory_order,
    misaligned,
    read_only,
    strided,
    trailing,
)
from numpy.lib.stride_tricks import as_strided

import fastbn
from fastbn import reference

ODD = [
    *by_channel((4, 6, 9, 11), (3,)),
    *by_channel((3, 5, 7, 6), (2,), axis=-1),
    *trailing((4, 6, 35), 35),
    *trailing((5, 3, 7), (3, 7)),
]
FLAT = [*by_channel((16, 6), (2,)), *trailing((5, 7), 7)]


def inputs(case, dtype=np.float32):
    """Every array that the functions of a case read."""
    rng = np.random.default_rng(3)
    _, statistics = case.forward(reference, case.data(dtype))
    return {
        "x": case.data(dtype),
        "dy": case.upstream(dtype),
        **case.parameters(dtype),
        "statistics": statistics,
        "running": [rng.uniform(0.5, 2.0, case.parameter_shape).astype(dtype) for _ in range(2)],
    }


def everything(case, x, dy, weight, statistics, running, bias=None, library=fastbn):
    """All results of all functions of a case, by name."""
    parameters = {"weight": weight} if case.op == "rms_norm" else {"weight": weight, "bias": bias}
    y, saved = case.forward(library, x, **parameters)
    results = {"y": y, "rstd": saved[-1], "normalized": case.normalize(library, x, **parameters)}
    if case.op != "rms_norm":
        results["mean"] = saved[0]
    if case.op in ("batch_norm", "instance_norm"):
        frozen = {"training": False} if case.op == "batch_norm" else {"use_input_stats": False}
        results["evaluated"] = getattr(library, case.op)(x, *running, **parameters, **frozen, **case.keywords)
    gradients = case.backward(library, dy, x, statistics, weight=weight)
    return results | dict(zip(("dx", "dweight", "dbias"), gradients, strict=False))


def arranged(arrange, given):
    return {
        name: list(map(arrange, value)) if isinstance(value, list | tuple) else arrange(value)
        for name, value in given.items()
    }


def assert_same_results(results, expected):
    assert results.keys() == expected.keys()
    for name, value in results.items():
        assert type(value) is np.ndarray, name
        assert_same_bits(value.astype(value.dtype.newbyteorder("=")), expected[name])


def assert_results_close(case, results, expected, statistics, dtype=np.float32):
    scales = dict(zip(("dx", "dweight", "dbias"), gradient_scales(case, statistics), strict=True))
    for name, value in expected.items():
        tolerance = gradient_tolerance(dtype) if name in scales else forward_tolerance(dtype)
        assert_close(results[name], value, tolerance, scales.get(name, 1.0))


# Memory ---------------------------------------------------------------------------------------------------------------


def memory_mapped(a, mode="r"):
    with tempfile.TemporaryFile() as file:
        file.write(a.tobytes())
        file.flush()
        return np.memmap(file, a.dtype, mode, shape=a.shape)


def far_apart(a):
    """Rows of the last axis that are 16 MiB from each other."""
    rows = np.empty((prod(a.shape[:-1]), (1 << 24) // a.itemsize), a.dtype)[:, : a.shape[-1]]
    rows[...] = a.reshape(rows.shape)
    return as_strided(
        rows, a.shape, (*(s // a.itemsize // a.shape[-1] * rows.strides[0] for s in a.strides[:-1]), a.itemsize)
    )


class Subclass(np.ndarray):
    """One whose own arithmetic would be noticed."""

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("arithmetic of the subclass")


class ArrayLike:
    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a if dtype is None else self.a.astype(dtype)


class Interface:
    def __init__(self, a):
        self.a = a
        self.__array_interface__ = a.__array_interface__


def torch_tensor(a):
    import torch

    return torch.from_numpy(a.copy())


SAME_ORDER = {
    "read-only": read_only,
    "memory-mapped": memory_mapped,
    "misaligned": misaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "big-endian-misaligned": lambda a: misaligned(a.astype(a.dtype.newbyteorder(">"))),
    "steps": strided,
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "rows-backwards": lambda a: np.flip(np.flip(a, 0).copy(), 0),
    "last-axis-backwards": lambda a: np.flip(np.flip(a, -1).copy(), -1),
    "window": lambda a: np.pad(a, 2)[(slice(2, -2),) * a.ndim],
    "field": lambda a: np.rec.fromarrays([a, a], dtype=[("f", a.dtype), ("g", a.dtype)]).view(np.ndarray)["f"],
    "odd-field": lambda a: np.rec.fromarrays([a, a], dtype=[("i", "i1"), ("f", a.dtype)]).view(np.ndarray)["f"],
    "subclass": lambda a: a.view(Subclass),
    "array-like": ArrayLike,
    "interface": Interface,
    "memoryview": memoryview,
    "torch": torch_tensor,
}
OTHER_ORDER = {
    "Fortran": np.asfortranarray,
    "Fortran-read-only": lambda a: read_only(a.T).T,
    "Fortran-big-endian": lambda a: a.T.astype(a.dtype.newbyteorder(">"), order="C").T,
    "Fortran-misaligned": lambda a: misaligned(a.T).T,
    "channels-last": lambda a: channels_last_view(a) if a.ndim > 2 else a,
    "some-axes-exchanged": lambda a: np.swapaxes(np.swapaxes(a, 0, -1).copy(), 0, -1),
    "Fortran-steps": lambda a: strided(a.T).T,
}


@pytest.mark.full
@pytest.mark.parametrize(
    "arrange",
    [
        pytest.param(arrange, marks=pytest.mark.system("torch") if name == "torch" else (), id=name)
        for name, arrange in SAME_ORDER.items()
    ],
)
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_memory_of_the_same_order(case, arrange):
    """The bits of the contiguous call: only where the elements lie has changed."""
    given = inputs(case)
    assert_same_results(everything(case, **arranged(arrange, given)), everything(case, **given))


@pytest.mark.full
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_lists_are_float64(case):
    given = inputs(case, np.float64)
    lists = arranged(np.ndarray.tolist, given)
    assert_same_results(everything(case, **lists), everything(case, **given))
    tuples = lists | {"x": tuple(lists["x"])}
    assert_same_results(everything(case, **tuples), everything(case, **given))


@pytest.mark.full
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_float64_in_odd_memory(case):
    given = inputs(case, np.float64)
    expected = everything(case, **given)
    for name in ("memory-mapped", "misaligned", "big-endian"):
        assert_same_results(everything(case, **arranged(SAME_ORDER[name], given)), expected)


@pytest.mark.full
@pytest.mark.parametrize("name", ["x", "dy", "weight", "bias", "statistics", "running"])
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_each_argument_alone(case, name):
    """A mixture: one kernel call sees odd and plain arrays side by side."""
    given = inputs(case)
    expected = everything(case, **given)
    for arrange in (SAME_ORDER["big-endian"], misaligned, memory_mapped, strided):
        odd = arranged(arrange, {n: v for n, v in given.items() if n == name})
        assert_same_results(everything(case, **(given | odd)), expected)


@pytest.mark.full
@pytest.mark.parametrize("arrange", OTHER_ORDER.values(), ids=OTHER_ORDER)
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_memory_of_another_order(case, arrange):
    given = inputs(case)
    expected = everything(case, **given, library=reference)
    assert_results_close(case, everything(case, **arranged(arrange, given)), expected, given["statistics"])


@pytest.mark.full
@pytest.mark.parametrize("case", FLAT, ids=ids)
def test_matrices(case):
    given = inputs(case)
    odd = {name: given[name].view(np.matrix) for name in ("x", "dy")}
    assert_same_results(everything(case, **(given | odd)), everything(case, **given))


@pytest.mark.full
@pytest.mark.parametrize("case", [c for c in ODD if prod(c.shape[:-1]) < 64], ids=ids)
def test_huge_strides(case):
    given = inputs(case)
    odd = {name: far_apart(given[name]) for name in ("x", "dy")}
    expected = everything(case, **given)
    assert_same_results(everything(case, **(given | odd)), expected)
    odd["x"][...] = given["x"]
    assert case.normalize(fastbn, odd["x"], weight=given["weight"], out=odd["x"]) is odd["x"]
    assert_same_bits(odd["x"], case.normalize(fastbn, given["x"], weight=given["weight"]))


@pytest.mark.full
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_inputs_are_only_read(case):
    given = inputs(case)
    everything(case, **arranged(read_only, given))
    before = arranged(np.copy, given)
    everything(case, **given)
    for name, value in before.items():
        np.testing.assert_array_equal(given[name], value)


@pytest.mark.full
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, channels_last_view])
@pytest.mark.parametrize(
    "case", [*by_channel((4, 6, 9, 11), (3,)), *by_channel((4, 6, 35), (3,)), *trailing((5, 4, 3, 7), 7)], ids=ids
)
def test_results_have_the_memory_order_of_x(case, arrange):
    given = inputs(case)
    given["x"] = arrange(given["x"])
    results = everything(case, **given)
    for name in {"y", "normalized", "evaluated", "dx"} & {*results}:
        assert memory_order(results[name]) == memory_order(given["x"]), name


# Where the result goes ------------------------------------------------------------------------------------------------

# Arrangements of writable memory
WRITABLE = {
    "plain": np.copy,
    "Fortran": np.asfortranarray,
    "channels-last": channels_last_view,
    "steps": strided,
    "backwards": SAME_ORDER["backwards"],
    "last-axis-backwards": SAME_ORDER["last-axis-backwards"],
    "window": SAME_ORDER["window"],
    "exchanged": OTHER_ORDER["some-axes-exchanged"],
    "memory-mapped": lambda a: memory_mapped(a, "r+"),
    "subclass": lambda a: a.copy().view(Subclass),
}


@pytest.mark.full
@pytest.mark.parametrize("arrange", WRITABLE.values(), ids=WRITABLE)
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_in_place(case, arrange):
    """out is x, dy or x in backward: the bits of the call that returns a new array."""
    given = inputs(case)
    weight, statistics = given["weight"], given["statistics"]
    x = arrange(given["x"])
    y, saved = case.forward(fastbn, x, weight=weight)
    result, saved_in_place = case.forward(fastbn, x, weight=weight, out=x)
    assert result is x
    assert_same_bits(np.asarray(x), y)
    for value, same in zip(saved_in_place, saved, strict=True):
        assert_same_bits(value, same)
    x = arrange(given["x"])
    assert case.normalize(fastbn, x, weight=weight, out=x) is x
    assert_same_bits(np.asarray(x), y)
    for name in ("x", "dy"):
        odd = {"x": arrange(given["x"]), "dy": arrange(given["dy"])}
        gradients = case.backward(fastbn, odd["dy"], odd["x"], statistics, weight=weight)
        in_place = case.backward(fastbn, odd["dy"], odd["x"], statistics, weight=weight, out=odd[name])
        assert in_place[0] is odd[name]
        for value, same in zip(in_place, gradients, strict=True):
            assert_same_bits(np.asarray(value), same)


@pytest.mark.full
@pytest.mark.parametrize("arrange", WRITABLE.values(), ids=WRITABLE)
@pytest.mark.parametrize("case", [case for case in ODD if case.op in ("batch_norm", "instance_norm")], ids=ids)
def test_evaluation_in_place(case, arrange):
    given = inputs(case)
    x, frozen = arrange(given["x"]), {"training": False} if case.op == "batch_norm" else {"use_input_stats": False}
    expected = getattr(fastbn, case.op)(x, *given["running"], given["weight"], **frozen, **case.keywords)
    assert getattr(fastbn, case.op)(x, *given["running"], given["weight"], **frozen, **case.keywords, out=x) is x
    assert_same_bits(np.asarray(x), expected)


@pytest.mark.full
@pytest.mark.parametrize("case", [case for case in ODD if case.op == "batch_norm"], ids=ids)
def test_frozen_backward_in_place(case):
    given = inputs(case)
    for name in ("x", "dy"):
        odd = {"x": given["x"].copy(), "dy": given["dy"].copy()}
        call = lambda **out: case.backward(fastbn, odd["dy"], odd["x"], given["statistics"], training=False, **out)  # noqa: B023, E731
        for value, same in zip(call(), call(out=odd[name]), strict=True):
            assert_same_bits(value, same)


@pytest.mark.full
@pytest.mark.parametrize("order", WRITABLE)
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_out_of_every_order_for_x_of_every_order(case, order):
    given = inputs(case)
    expected = everything(case, **given, library=reference)
    scale = gradient_scales(case, given["statistics"])[0]
    for arrange in WRITABLE.values():
        x, dy = arrange(given["x"]), WRITABLE["Fortran"](given["dy"])
        out = WRITABLE[order](np.full(case.shape, np.nan, np.float32))
        named = {name: given[name] for name in ("weight", "bias") if name in given}
        assert case.normalize(fastbn, x, **named, out=out) is out
        assert_close(np.asarray(out), expected["y"], forward_tolerance(np.float32))
        assert case.backward(fastbn, dy, x, given["statistics"], weight=given["weight"], out=out)[0] is out
        assert_close(np.asarray(out), expected["dx"], gradient_tolerance(np.float32), scale)


@pytest.mark.full
@pytest.mark.parametrize("case", FLAT, ids=ids)
def test_out_that_is_a_matrix(case):
    given = inputs(case)
    out = np.zeros(case.shape, np.float32).view(np.matrix)
    assert case.normalize(fastbn, given["x"], out=out) is out
    assert_same_bits(np.asarray(out), case.normalize(fastbn, given["x"]))
    assert case.backward(fastbn, given["dy"], given["x"], given["statistics"], out=out)[0] is out
    assert_same_bits(np.asarray(out), case.backward(fastbn, given["dy"], given["x"], given["statistics"])[0])


@pytest.mark.full
def test_out_that_lies_between_the_elements_of_x():
    """They share a range of addresses and no element."""
    both = np.zeros((4, 6, 10), np.float32)
    x, out = both[..., ::2], both[..., 1::2]
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    expected = fastbn.batch_norm(x.copy(), training=True)
    before = x.copy()
    fastbn.batch_norm(x, training=True, out=out)
    assert_same_bits(out.copy(), expected)
    assert_same_bits(x.copy(), before)


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(
    "dtype", [np.float16, np.float64, np.longdouble, ">f2", ">f8", np.dtype(np.longdouble).newbyteorder(">")]
)
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_vectors_of_other_float_types(case, dtype):
    """Values that every float type holds, so that the bits of the float32 call are wanted."""
    given = inputs(case)
    for name in {"weight", "bias"} & {*given}:
        given[name] = given[name].astype(np.float16).astype(np.float32)
    given["running"] = [v.astype(np.float16).astype(np.float32) for v in given["running"]]
    vectors = {"weight", "bias", "running"} & {*given}
    odd = arranged(lambda v: v.astype(dtype), {name: given[name] for name in vectors})
    expected, results = everything(case, **given), everything(case, **(given | odd))
    for name in ("dweight", "dbias"):
        if name in results:
            assert results[name].dtype.kind == "f"
            scale = np.abs(expected[name]).max()
            assert_close(results.pop(name), expected.pop(name), np.finfo(np.float16).eps, scale)
    assert_same_results(results, expected)


RUNNING = {
    "big-endian": SAME_ORDER["big-endian"],
    "misaligned": misaligned,
    "steps": strided,
    "backwards": SAME_ORDER["backwards"],
    "memory-mapped": lambda a: memory_mapped(a, "r+"),
    "subclass": lambda a: a.view(Subclass),
    "longdouble": lambda a: a.astype(np.longdouble),
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
}


@pytest.mark.full
@pytest.mark.parametrize("arrange", RUNNING.values(), ids=RUNNING)
@pytest.mark.parametrize("function", ["batch_norm", "batch_norm_forward", "instance_norm"])
def test_running_arrays_are_updated_where_they_lie(function, arrange):
    x = Case("batch_norm", (4, 6, 35)).data(np.float32, 1.0)
    training = {"training": True} if function == "batch_norm" else {}
    plain, odd = [
        {"running_mean": put(np.linspace(-1, 1, 6, dtype=np.float32)), "running_var": put(np.ones(6, np.float32))}
        for put in (np.copy, arrange)
    ]
    getattr(fastbn, function)(x, **plain, **training)
    getattr(fastbn, function)(x, **odd, **training)
    for name, value in plain.items():
        same = np.asarray(odd[name])
        np.testing.assert_allclose(
            same.astype(np.float64), value, rtol=2 * max(np.finfo(v.dtype).eps for v in (same, value))
        )
        if same.dtype.newbyteorder("=") == np.float32:
            assert_same_bits(same.astype(np.float32), value)


# Lengths --------------------------------------------------------------------------------------------------------------

EMPTY = [
    *by_channel((0, 6, 4, 4), (1, 2, 6)),
    *by_channel((0, 4, 4, 6), (1, 2, 6), axis=-1),
    *by_channel((2, 6, 0), (2,)),
    *by_channel((2, 0, 3, 6), (2,), axis=-1),
    *by_channel((0, 6, 0), (2,)),
    Case("batch_norm", (0, 6)),
    Case("batch_norm", (6, 0), axis=0),
    Case("batch_norm", (0, 1)),
    Case("group_norm", (0, 6), 2),
    Case("instance_norm", (0, 6)),
    Case("batch_norm", (2, 0)),
    Case("batch_norm", (2, 0, 3)),
    Case("batch_norm", (2, 3, 0), axis=-1),
    Case("group_norm", (2, 0, 3), 1),
    Case("group_norm", (2, 0), 1),
    Case("group_norm", (2, 3, 0), 2, axis=-1),
    Case("instance_norm", (2, 0, 3)),
    Case("instance_norm", (2, 3, 0), axis=-1),
    *trailing((0, 7), 7),
    *trailing((3, 0, 7), 7),
    *trailing((3, 0, 7), (0, 7)),
    *trailing((0, 3, 7), (3, 7)),
    *trailing((3, 0), 0),
    *trailing((0,), 0),
    *trailing((0, 0), 0),
    *trailing((2, 3, 0), (3, 0)),
]


@pytest.mark.full
@pytest.mark.parametrize(
    "arrange", [np.ascontiguousarray, np.asfortranarray, channels_last_view, read_only, SAME_ORDER["big-endian"]]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", EMPTY, ids=ids)
def test_empty_arrays(case, dtype, arrange):
    """Right shapes and types, gradients of zero, and not a warning, which would be an error here."""
    x = np.empty(case.shape, dtype)
    x = x if x.ndim == 1 and arrange is channels_last_view else arrange(x)
    statistics = [np.zeros(case.statistics_shape)] * (1 if case.op == "rms_norm" else 2)
    running = [np.ones(case.parameter_shape, dtype) for _ in range(2)]
    results = everything(case, x=x, dy=x, **case.parameters(dtype), statistics=statistics, running=running)
    for name, value in results.items():
        if name in ("rstd", "mean"):
            assert (value.shape, value.dtype) == (case.statistics_shape, np.float64)
        elif name in ("dweight", "dbias"):
            assert_same_bits(value, np.zeros(case.parameter_shape, dtype))
        else:
            assert (value.shape, value.dtype) == (case.shape, dtype)
    out = np.empty(case.shape, dtype)
    assert case.normalize(fastbn, x, out=out) is out
    assert case.backward(fastbn, x, x, statistics, out=out)[0] is out


@pytest.mark.full
@pytest.mark.parametrize("function", ["batch_norm", "batch_norm_forward", "instance_norm"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((0, 3), 1), ((0, 3, 4), 1), ((0, 4, 3), -1), ((2, 3, 0), 1), ((2, 0, 3), 2), ((2, 0), 1)],
    ids=str,
)
def test_empty_arrays_leave_running_arrays_alone(function, shape, axis):
    training = {"training": True} if function == "batch_norm" else {}
    running = [np.linspace(0.3, 0.7, shape[axis], dtype=np.float32) for _ in range(2)]
    x = np.empty(shape, np.float32)
    named = {"running_mean": running[0], "running_var": running[1], "momentum": 0.5}
    getattr(fastbn, function)(x, **named, **training, axis=axis)
    for value in running:
        assert_same_bits(value, np.linspace(0.3, 0.7, shape[axis], dtype=np.float32))


SHAPES = [(7, 6), (3, 6, 5), (3, 4, 5, 6), (2, 3, 4, 3, 2), (2, 3, 2, 4, 2, 3)]
EVERY_AXIS = [
    case
    for shape in SHAPES
    for axis in range(-len(shape), len(shape))
    for case in by_channel(shape, (1, 2), axis)
    if case.op == "batch_norm" or axis != -len(shape)
    if case.op != "group_norm" or shape[axis] % case.arg == 0
]
EVERY_TRAILING = [case for shape in SHAPES for a in range(len(shape)) for case in trailing(shape, shape[a:])]
ONES = [
    case
    for shape in [(1, 6, 5), (3, 1, 5), (3, 6, 1, 1, 5), (1, 1, 1, 5), (1, 1, 8, 1, 1), (4, 1, 1, 1, 6, 1)]
    for axis in range(len(shape))
    for case in by_channel(shape, (1,), axis)
    if prod(shape) > {"batch_norm": shape[axis]}.get(case.op, shape[0] * shape[axis])
] + [
    case
    for shape in [(1, 6, 1), (3, 1, 5, 1), (1, 1), (1, 1, 1, 9)]
    for a in range(len(shape))
    for case in trailing(shape, shape[a:])
]


@pytest.mark.full
@pytest.mark.parametrize("case", EVERY_AXIS + EVERY_TRAILING + ONES, ids=ids)
def test_every_axis_of_every_rank(case):
    for arrange in (np.ascontiguousarray, np.asfortranarray, *([channels_last_view] if len(case.shape) > 2 else [])):
        x, dy = arrange(case.data(np.float32, 3.0)), arrange(case.upstream(np.float32))
        check_forward(case, x, 3.0)
        check_backward(case, dy, x, 3.0)


@pytest.mark.full
@pytest.mark.parametrize("step", [0, 12, -4, 2**40])
@pytest.mark.parametrize("case", ONES, ids=ids)
def test_strides_of_axes_of_length_one_mean_nothing(case, step):
    given = inputs(case)
    odd = {}
    for name in ("x", "dy"):
        a = given[name]
        strides = [step if n == 1 else s for n, s in zip(a.shape, a.strides, strict=True)]
        odd[name] = (
            np.ndarray(a.shape, a.dtype, a, strides=strides) if step in (0, 12) else as_strided(a, a.shape, strides)
        )
    assert_same_results(everything(case, **(given | odd)), everything(case, **given))
    out = as_strided(np.zeros(case.shape, np.float32), case.shape, odd["x"].strides)
    assert case.normalize(fastbn, given["x"], out=out) is out
    assert_same_bits(out.copy(), case.normalize(fastbn, given["x"]))


# Values that are not finite -------------------------------------------------------------------------------------------

GROUPS = [
    *by_channel((4, 6, 9, 11), (3,)),
    *by_channel((9, 6, 5), (3,)),  # runs shorter than a vector
    *by_channel((2, 2, 20_000), (1,)),  # groups in several pieces
    *by_channel((4, 9, 11, 6), (3,), axis=-1),
    *by_channel((2, 5, 7, 130), (13,), axis=-1),
    *by_channel((64, 12), (3,)),
    *trailing((7, 5, 35), 35),
    *trailing((5, 3, 7), (3, 7)),
    *trailing((100, 3), 3),
]
LAYOUTS = {"plain": np.copy, "channels-last": lambda a: channels_last_view(a) if a.ndim > 2 else np.asfortranarray(a)}


def places(case):
    """The first element, the last, and one between."""
    return [(0,) * len(case.shape), tuple(n - 1 for n in case.shape), tuple(n // 2 for n in case.shape)]


@pytest.mark.full
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["x", "dy"])
@pytest.mark.parametrize("case", GROUPS, ids=ids)
def test_what_is_not_finite_stays_in_its_group(case, name, arrange, poison):
    """Elsewhere every bit is that of the call without it; what a group is, the reference says, given NaN."""
    given = inputs(case)
    clean = results_with_own_statistics(case, given, arrange)
    for place in places(case):
        touched = results_with_own_statistics(case, poisoned(given, name, place, np.nan), np.copy, reference)
        odd = poisoned(given, name, place, poison)
        results = results_with_own_statistics(case, odd, arrange)
        expected = results_with_own_statistics(case, odd, np.copy, reference)
        for result, value in results.items():
            inside = np.isnan(touched[result])
            np.testing.assert_array_equal(np.isfinite(value[inside]), np.isfinite(expected[result][inside]), result)
            assert_same_bits(value[~inside], clean[result][~inside])
        assert np.isnan(touched["dx"]).any()


def poisoned(given, name, place, value):
    array = given[name].copy()
    array[place] = value
    return given | {name: array}


def results_with_own_statistics(case, given, arrange, library=fastbn):
    x, dy = arrange(given["x"]), arrange(given["dy"])
    named = {name: given[name] for name in ("weight", "bias") if name in given}
    with np.errstate(invalid="ignore" if library is reference else "warn"):
        y, statistics = case.forward(library, x, **named)
        gradients = case.backward(library, dy, x, statistics, weight=given["weight"])
    return {"y": y, "rstd": statistics[-1], **dict(zip(("dx", "dweight", "dbias"), gradients, strict=False))}


@pytest.mark.full
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("case", [case for case in GROUPS if case.op in ("batch_norm", "instance_norm")], ids=ids)
def test_running_statistics_of_other_channels(case, arrange, poison):
    given = inputs(case)
    training = {"training": True} if case.op == "batch_norm" else {}
    for place in places(case):
        clean, dirty = ([v.copy() for v in given["running"]] for _ in range(2))
        getattr(fastbn, case.op)(arrange(given["x"]), *clean, **training, **case.keywords)
        getattr(fastbn, case.op)(arrange(poisoned(given, "x", place, poison)["x"]), *dirty, **training, **case.keywords)
        inside = np.arange(case.parameter_shape[0]) == place[case.axis]
        for value, same in zip(dirty, clean, strict=True):
            assert_same_bits(value[~inside], same[~inside])
            assert not np.isfinite(value[inside]).any()


@pytest.mark.full
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("case", [case for case in GROUPS if case.op in ("batch_norm", "instance_norm")], ids=ids)
def test_in_evaluation_an_element_is_alone(case, arrange, poison):
    given = inputs(case)
    frozen = {"training": False} if case.op == "batch_norm" else {"use_input_stats": False}
    for place in places(case):
        clean, dirty = (
            getattr(fastbn, case.op)(arrange(v["x"]), *given["running"], **frozen, **case.keywords)
            for v in (given, poisoned(given, "x", place, poison))
        )
        np.testing.assert_equal(dirty[place], poison)
        dirty[place] = clean[place]
        assert_same_bits(dirty, clean)


@pytest.mark.full
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("case", ODD, ids=ids)
def test_weight_and_bias_that_are_not_finite_stay_with_their_elements(case, poison):
    given = inputs(case)
    clean = everything(case, **given)
    for name in {"weight", "bias"} & {*given}:
        index = tuple(n // 2 for n in case.parameter_shape)
        odd = everything(case, **poisoned(given, name, index, poison))
        place = [slice(None)] * len(case.shape)
        place[case.axis if case.by_channel else slice(-len(index), None)] = index[0] if case.by_channel else index
        mask = np.zeros(case.shape, bool)
        mask[tuple(place)] = True
        for result in {"y", "normalized", "evaluated"} & {*odd}:
            assert not np.isfinite(odd[result][mask]).any()
            assert_same_bits(odd[result][~mask], clean[result][~mask])
