"""Operations inside a user's own compiled functions: the bits of the Python call, and errors that say what to do."""

import math
import re
from typing import Any

import numba
import numpy as np
import pytest
from internals import arguments
from numba.core.errors import TypingError

import fastbn

full = pytest.mark.full


def arrays(shape: tuple[int, ...], dtype: Any, weights: Any, count: int = 2) -> list[Any]:
    rng = np.random.default_rng(math.prod(shape))
    of_x = [(rng.standard_normal(shape) * 3 + 1).astype(dtype) for _ in range(count)]
    return of_x + [rng.standard_normal(weights).astype(dtype) for _ in range(2)]


def assert_same(compiled_function: Any, *args: Any) -> None:
    """Compiled and in Python, a function gives the same bits, and leaves the same in its arguments."""
    compiled = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in args)
    interpreted = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in args)
    with fastbn.num_threads(1):
        found, expected = compiled_function(*compiled), compiled_function.py_func(*interpreted)
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    assert len(found) == len(expected)
    for a, b in zip((*found, *compiled), (*expected, *interpreted), strict=True):
        if isinstance(b, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes()


# Layer and RMS norm ---------------------------------------------------------------------------------------------------


@full
def test_layer_norm_of_a_row_has_the_bits_of_the_python_call():
    x, _, w, b = arrays((3, 100), np.float32, 100)
    assert_same(numba.njit(lambda x, w, b: fastbn.layer_norm(x, 100, w, b)), x, w, b)


def test_windows_in_a_prange_have_the_bits_of_one_call():
    @numba.njit(parallel=True)
    def normalized(x, w, y):
        for i in numba.prange(len(x)):
            fastbn.layer_norm(x[i], 64, w, out=y[i])

    x, y, w, _ = arrays((500, 64), np.float32, 64)
    normalized(x, w, y)
    assert y.tobytes() == fastbn.layer_norm(x, 64, w).tobytes()


def test_a_call_takes_little_of_its_callers_stack():
    """A function may make many, on a thread that has a few hundred kilobytes: each has memory of its own there."""
    x, y, w, _ = arrays((3, 64), np.float32, 64)
    normalized = numba.njit(lambda x, w, y: fastbn.layer_norm(x, 64, w, out=y))
    normalized(x, w, y)
    [code] = normalized.inspect_llvm().values()
    [numbers] = map(int, re.findall(r"alloca \[(\d+) x double\]", code))
    assert 8 * numbers < 2048


@numba.njit
def rows(x, dy, w, b):
    n = x.shape[-1]
    y, mean, rstd = fastbn.layer_norm_forward(x, n, w, b, 1e-3)
    z, root = fastbn.rms_norm_forward(x, n, w)
    dx, dw, db = fastbn.layer_norm_backward(dy, x, mean, rstd, w)
    dz, dv = fastbn.rms_norm_backward(dy, x, root, w)
    return y, mean, rstd, z, root, dx, dw, db, dz, dv, fastbn.layer_norm(x, n), fastbn.rms_norm(x, n, None, 0.5)


@full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7, 64), (1, 1), (300, 1030), (70, 20000), (0, 5), (4, 0)])
def test_rows(shape, dtype):
    assert_same(rows, *arrays(shape, dtype, shape[-1:]))


@full
def test_one_row_without_other_axes():
    assert_same(rows, *arrays((64,), np.float32, (64,)))


@full
def test_several_axes_and_weights_of_another_dtype():
    x, dy, w, b = arrays((3, 5, 6, 7), np.float32, (6, 7))

    @numba.njit
    def all_of(x, dy, w, b):
        y, mean, rstd = fastbn.layer_norm_forward(x, (6, 7), weight=w, bias=b)
        return y, mean, rstd, *fastbn.layer_norm_backward(dy, x, mean, rstd, w)

    assert_same(all_of, x, dy, w.astype(np.float64), b)


@full
@pytest.mark.parametrize("activation", arguments.ACTIVATIONS)
def test_activations(activation):
    x, dy, w, b = arrays((6, 40), np.float32, 40)

    @numba.njit
    def all_of(x, dy, w, b):
        y, mean, rstd = fastbn.layer_norm_forward(x, 40, w, b, activation=activation)
        return y, *fastbn.layer_norm_backward(dy, x, mean, rstd, w, bias=b, activation=activation)

    assert_same(all_of, x, dy, w, b)


@full
def test_a_slope_that_is_known_when_it_runs():
    x, _, w, b = arrays((6, 40), np.float32, 40)

    @numba.njit
    def normalized(x, w, b, slope):
        return fastbn.layer_norm(x, 40, w, b, activation=("leaky_relu", slope))

    assert_same(normalized, x, w, b, 0.3)


@full
def test_constants_and_read_only_arrays():
    x, _, w, b = arrays((6, 40), np.float32, 40)
    x.flags.writeable = False
    found = numba.njit(lambda x: fastbn.layer_norm(x, 40, w, b))(x)
    assert found.tobytes() == fastbn.layer_norm(x, 40, w, b).tobytes()


@full
def test_arrays_of_the_call_alone_live_as_long_as_it():
    @numba.njit
    def columns_of(x, y):
        n = x.shape[0]
        for j in range(x.shape[1]):
            w = np.ones(n, np.float32)
            y[j] = fastbn.layer_norm(np.ascontiguousarray(x[:, j]), n, w * 2, np.arange(n).astype(np.float32))

    x = arrays((300, 50), np.float32, 1)[0]
    assert_same(columns_of, x, np.empty((50, 300), np.float32))


@full
def test_options_of_the_caller_do_not_reach_the_kernels():
    x, dy, w, b = arrays((9, 1000), np.float64, 1000)

    @numba.njit(fastmath=True, error_model="python", boundscheck=True)
    def all_of(x, dy, w, b):
        y, mean, rstd = fastbn.layer_norm_forward(x, 1000, w, b)
        return y, fastbn.layer_norm_backward(dy, x, mean, rstd, w)[0]

    y, mean, rstd = fastbn.layer_norm_forward(x, 1000, w, b)
    found = all_of(x, dy, w, b)
    assert found[0].tobytes() == y.tobytes()
    assert found[1].tobytes() == fastbn.layer_norm_backward(dy, x, mean, rstd, w)[0].tobytes()


# Batch, group and instance norm ---------------------------------------------------------------------------------------

SHAPES = [
    ((4, 6, 5, 5), 1),
    ((2, 6, 9, 11), 1),
    ((3, 5, 7, 6), -1),
    ((70, 600, 1, 1), 1),
    ((5, 3, 8, 2), 2),
    ((4, 1, 30, 2), 1),
    ((200, 2, 3, 1), 1),
    ((3, 40, 40, 16), -1),
    ((0, 3, 4, 1), 1),
]


def test_evaluation_by_running_statistics():
    x, _, w, b = arrays((4, 6, 5, 5), np.float32, 6)
    mean, var = np.arange(6.0), np.arange(1.0, 7.0)
    assert_same(numba.njit(lambda x, m, v, w, b: fastbn.batch_norm(x, m, v, w, b)), x, mean, var, w, b)


@numba.njit
def trained(x, dy, w, b, running_mean, running_var, axis):
    plain = fastbn.batch_norm(x, training=True, axis=axis)
    y, mean, rstd = fastbn.batch_norm_forward(x, w, b, running_mean, running_var, 0.3, axis=axis)
    return plain, y, mean, rstd, *fastbn.batch_norm_backward(dy, x, mean, rstd, w, axis=axis)


@numba.njit
def evaluated(x, dy, w, b, running_mean, running_var, axis):
    y = fastbn.batch_norm(x, running_mean, running_var, w, b, axis=axis, activation="relu")
    z = fastbn.instance_norm(x, running_mean, running_var, None, None, False, axis=axis)
    mean, rstd = running_mean, 1 / np.sqrt(running_var)
    back = fastbn.batch_norm_backward(dy, x, mean, rstd, w, axis=axis, training=False, bias=b, activation="silu")
    return y, z, *back


@numba.njit
def grouped(x, dy, w, b, count, axis):
    y, mean, rstd = fastbn.group_norm_forward(x, count, w, b, axis=axis, activation="gelu")
    back = fastbn.group_norm_backward(dy, x, mean, rstd, w, axis=axis, bias=b, activation="gelu")
    return y, mean, rstd, fastbn.group_norm(x, count, axis=axis), *back


@numba.njit
def grouped_first(x, dy, w, b, count):
    y, mean, rstd = fastbn.group_norm_forward(x, count, w, b)
    return y, mean, rstd, *fastbn.group_norm_backward(dy, x, mean, rstd, w)


@numba.njit
def instances(x, dy, w, b, axis):
    y, mean, rstd = fastbn.instance_norm_forward(x, w, b, axis=axis)
    back = fastbn.instance_norm_backward(dy, x, mean, rstd, w, axis=axis)
    return y, mean, rstd, fastbn.instance_norm(x, axis=axis), *back


@full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("function", [trained, evaluated], ids=["trained", "evaluated"])
def test_batch_norm(function, shape, axis, dtype):
    x, dy, w, b = arrays(shape, dtype, shape[axis])
    assert_same(function, x, dy, w, b, np.full(shape[axis], 0.25), np.full(shape[axis], 2.0), axis)


@full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_groups(shape, axis, dtype):
    x, dy, w, b = arrays(shape, dtype, shape[axis])
    count = 2 if shape[axis] % 2 == 0 else 1
    assert_same(grouped, x, dy, w, b, count, axis)
    if axis == 1:
        assert_same(grouped_first, x, dy, w, b, count)


@full
@pytest.mark.parametrize(("shape", "axis"), [s for s in SHAPES if s[0] != (70, 600, 1, 1)])
def test_instances(shape, axis):
    assert_same(instances, *arrays(shape, np.float32, shape[axis]), axis)


# Where the result goes, and errors ------------------------------------------------------------------------------------


@full
def test_out_may_be_an_argument():
    x, dy, w, _ = arrays((6, 40), np.float32, 40)

    @numba.njit
    def in_place(x, dy, w):
        _, mean, rstd = fastbn.layer_norm_forward(x, 40, w)
        fastbn.layer_norm_backward(dy, x, mean, rstd, w, activation=None, out=dy)
        return fastbn.layer_norm(x, 40, w, out=x)

    assert_same(in_place, x, dy, w)


@numba.njit
def of_part(x, n, out):
    return fastbn.layer_norm(x, n, out=out)


@full
@pytest.mark.parametrize(
    ("n", "out", "message"),
    [
        (9, np.empty((4, 8)), "normalized_shape is not how the shape of x ends"),
        (8, np.empty((4, 7)), "out has another shape than x"),
        (8, None, "out overlaps x"),
    ],
)
def test_errors_of_values_come_before_anything_is_written(n, out, message):
    memory = np.arange(40.0).reshape(5, 8)
    before = memory.copy()
    with pytest.raises(ValueError, match=message):
        of_part(memory[:4], n, memory[1:] if out is None else out)
    assert np.array_equal(memory, before)


@numba.njit
def trained_in_place(x, running_mean, running_var):
    return fastbn.batch_norm(x, running_mean, running_var, training=True)


@full
def test_memory_that_is_written_to_is_apart_and_aligned():
    bytes_of_it = np.zeros(4 * 8 * 8 + 1, np.uint8)
    misaligned = bytes_of_it[1:].view(np.float64).reshape(4, 8)
    with pytest.raises(ValueError, match="misaligned"):
        of_part(np.ones((4, 8)), 8, misaligned)
    both = np.ones(12)
    for mean, var in ((both[:8], both[4:]), (both[:8], both[:8])):
        with pytest.raises(ValueError, match="running_mean or running_var overlaps"):
            trained_in_place(np.arange(32.0).reshape(4, 8), mean, var)
    assert np.array_equal(both, np.ones(12))


@full
def test_errors_of_settings():
    @numba.njit
    def normalized(x, eps, momentum):
        return fastbn.batch_norm(x, training=True, eps=eps, momentum=momentum)

    @numba.njit
    def in_groups(x, groups, axis):
        return fastbn.group_norm(x, groups, axis=axis)

    x = np.ones((4, 6, 2))
    for numbers, message in (((0.0, 0.1), "eps is zero"), ((-1.0, 0.1), "eps is neg"), ((1.0, np.inf), "momentum")):
        with pytest.raises(ValueError, match=message):
            normalized(x, *numbers)
    with pytest.raises(ValueError, match="more than 1 when training"):
        normalized(x[:1, :, :1].copy(), 1.0, 0.1)
    for groups, axis, message in ((4, 1, "num_groups"), (2, 0, "axis"), (2, 3, "axis")):
        with pytest.raises(ValueError, match=message):
            in_groups(x, groups, axis)


@full
@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        (lambda x: fastbn.layer_norm(x, 8), (np.ones((4, 8)).T,), r"ascontiguousarray\(x\)"),
        (lambda x: fastbn.layer_norm(x, 8), (np.ones((4, 8), np.int32),), "expected float32 or float64"),
        (lambda x: fastbn.layer_norm(x, 8, where=x), (np.ones((4, 8)),), "where is given; leave it out"),
        (lambda x: fastbn.group_norm(x, 2, residual=x), (np.ones((4, 8)),), "residual is given; leave it out"),
        (lambda x, a: fastbn.layer_norm(x, 8, activation=a), (np.ones((4, 8)), "relu"), "as a literal"),
        (lambda x, t: fastbn.batch_norm(x, training=t), (np.ones((4, 8)), True), "write two calls and an if"),
        (lambda x: fastbn.batch_norm(x), (np.ones((4, 8)),), "running_mean is None; expected an array with 1 axis"),
        (
            lambda x, c: fastbn.rms_norm(x, 8, x[0] if c else None),
            (np.ones((4, 8)), True),
            "weight may be None or an arr",
        ),
        (lambda x: fastbn.rms_norm(x, (2, 4, 8)), (np.ones((4, 8)),), "expected 1 to 2, the axes of x"),
        (lambda x, w: fastbn.rms_norm(x, 8, w), (np.ones((4, 8)), np.ones((1, 8))), "weight has 2 axes; expected 1"),
    ],
)
def test_what_is_not_taken_is_refused_when_compiling(call, args, message):
    with pytest.raises(TypingError, match=message):
        numba.njit(call)(*args)


@full
def test_an_error_in_a_prange_reaches_the_caller():
    @numba.njit(parallel=True)
    def normalized(x, n, y):
        for i in numba.prange(len(x)):
            fastbn.layer_norm(x[i], n, out=y[i])

    with pytest.raises((SystemError, ValueError)) as raised:  # Numba's threads leave it as the cause of another one
        normalized(np.ones((10, 8)), 9, np.ones((10, 8)))
    assert "normalized_shape" in str(raised.value.__cause__ or raised.value)
