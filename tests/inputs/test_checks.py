"""Wrong calls: each is refused with the argument, what it was and what it should be, and touches nothing."""

import inspect
import re
import traceback
from pathlib import Path

import numpy as np
import pytest
from cases import OPERATIONS, Case, assert_same_bits, strided
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import fastbn

CASE = {
    "batch_norm": Case("batch_norm", (2, 6, 5)),
    "group_norm": Case("group_norm", (2, 6, 5), 3),
    "instance_norm": Case("instance_norm", (2, 6, 5)),
    "layer_norm": Case("layer_norm", (2, 6, 5), 5),
    "rms_norm": Case("rms_norm", (2, 6, 5), 5),
}
FUNCTIONS = [op + direction for op in OPERATIONS for direction in ("", "_forward", "_backward")]
TRAINING = ("batch_norm", "batch_norm_forward", "instance_norm")  # of running arrays, in place
RUNNING = ("running_mean", "running_var")
VECTORS = ("weight", "bias", "mean", "rstd", *RUNNING)


def operation(function):
    return function.removesuffix("_forward").removesuffix("_backward")


def accepted(function):
    return inspect.signature(getattr(fastbn, function)).parameters


def arguments(function, dtype=np.float32):
    """A right call with every argument given, each array in memory of its own."""
    case = CASE[operation(function)]
    of_elements = Case("layer_norm", (*case.shape[:-1], *case.parameter_shape), case.parameter_shape)
    values = {
        "x": case.data(dtype),
        "dy": case.upstream(dtype),
        "mean": np.zeros(case.statistics_shape),
        "rstd": np.ones(case.statistics_shape),
        "running_mean": np.zeros(case.parameter_shape, dtype),
        "running_var": np.ones(case.parameter_shape, dtype),
        "num_groups": case.arg,
        "normalized_shape": case.arg,
        "eps": 1e-5,
        "momentum": 0.1,
        "training": True,
        "use_input_stats": True,
        "axis": 1,
        "out": np.full(case.shape, 7, dtype),
        "activation": "silu",
        "residual": case.upstream(dtype),
        "where": np.ones(1, bool),  # fits any x
        "y": None,  # takes the place of x
        **of_elements.parameters(dtype),
    }
    return {name: values[name] for name in accepted(function)}


def where(names, functions=FUNCTIONS):
    """(function, argument) for every function that takes one of the arguments."""
    return [(function, name) for function in functions for name in names if name in accepted(function)]


def contents(values):
    """Copies of all arrays, with the memory around those that are views."""
    arrays = [(v, v.base) for v in values if isinstance(v, np.ndarray)]
    arrays = [a for pair in arrays for a in pair if isinstance(a, np.ndarray) and a.dtype != object]
    return [(a, a.copy()) for a in arrays]


def assert_untouched(before):
    for array, copy in before:
        assert_same_bits(np.asarray(array), np.asarray(copy))


def assert_own_words(error):
    """Said by fastbn itself, and not by something further down that it called."""
    assert type(error) in (TypeError, ValueError), repr(error)
    said_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    assert Path(fastbn.__file__).parent in said_in.parents, f"raised in {said_in}: {error}"


def refuse(function, *words, **changes):
    """The call with these changes is refused with all of these words, and no array is changed.

    With `out` and without, where the call may be taken for the right one that came just before.
    """
    right = arguments(function)
    getattr(fastbn, function)(**right | {"out": None})
    for given in (right | changes, right | {"out": None} | changes):
        before = contents(given.values())
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(fastbn, function)(**given)
        assert_own_words(caught.value)
        for word in words:
            assert word in str(caught.value)
        assert_untouched(before)


def test_the_call_that_the_others_spoil_is_right():
    for function in FUNCTIONS:
        given = arguments(function)
        result = getattr(fastbn, function)(**given)
        y = result[0] if isinstance(result, tuple) else result
        assert y is given["out"]
        assert not (y == 7).any()


# What is not an array of floats ---------------------------------------------------------------------------------------

NO_FLOATS = {
    "int32": lambda a: a.astype(np.int32),
    "uint8": lambda a: np.ones(a.shape, np.uint8),
    "bool": lambda a: a > 0,
    "complex64": lambda a: a.astype(np.complex64),
    "object": lambda a: a.astype(object),
    "<U": lambda a: a.astype(str),
    "|S": lambda a: a.astype(bytes),
    "datetime64": lambda a: a.astype(np.int64).astype("datetime64[s]"),
    "('f'": lambda a: np.zeros(a.shape, [("f", a.dtype)]),
}
NO_ARRAYS = {
    "words": "x",
    "a dict": {"a": 1.0},
    "a ragged list": [[1.0], [1.0, 2.0]],
    "an object": object(),
    "a list of ints": [1, 2, 3],
    "a generator": (1.0 for _ in range(3)),
    "a class": np.ndarray,
}


@pytest.mark.parametrize("was", NO_FLOATS)
@pytest.mark.parametrize(("function", "name"), where(("x", "dy", "residual", "out", *VECTORS)))
def test_other_types_of_numbers(function, name, was):
    wrong = NO_FLOATS[was](arguments(function)[name])
    refuse(function, name, was, "expected", "float", **{name: wrong})


@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="longdouble is float64 on this platform")
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("function", "name"), where(("x", "dy", "residual", "out")))
def test_longdouble(function, name, order):
    wrong = arguments(function)[name].astype(np.dtype(np.longdouble).newbyteorder(order))
    refuse(function, name, str(wrong.dtype), "expected", "float32", **{name: wrong})


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("function", "name"), where(("x", "dy", "residual", "out", *VECTORS)))
def test_masked_arrays(function, name, masked):
    wrong = np.ma.array(arguments(function)[name], mask=masked)
    refuse(function, name, "masked", **{name: wrong})


@pytest.mark.parametrize("wrong", NO_ARRAYS.values(), ids=NO_ARRAYS)
@pytest.mark.parametrize(("function", "name"), where(("x", "dy", "residual", "out", *VECTORS)))
def test_what_is_no_array(function, name, wrong):
    refuse(function, name, **{name: wrong})


@pytest.mark.parametrize(("function", "name"), where(("x", "dy", "mean", "rstd")))
def test_none(function, name):
    refuse(function, name, "None", "expected", **{name: None})


class Unreadable:
    """An array-like whose conversion fails, as that of a tensor on another device does."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, NotImplementedError])
@pytest.mark.parametrize(("function", "name"), where(("x", "dy", "residual", *VECTORS)))
def test_array_likes_that_cannot_be_read(function, name, error):
    refuse(function, name, **{name: Unreadable(error("it is somewhere else"))})


@pytest.mark.system("torch")
@pytest.mark.parametrize(("function", "name"), where(("x", "dy", "residual", "weight", "bias", "mean", "rstd")))
def test_torch_tensors_that_torch_does_not_convert(function, name):
    import torch

    right = arguments(function)[name]
    refuse(function, name, **{name: torch.tensor(right, requires_grad=True)})
    refuse(function, name, **{name: torch.empty(right.shape, device="meta")})


# Shapes ---------------------------------------------------------------------------------------------------------------

BY_CHANNEL = [f for f in FUNCTIONS if CASE[operation(f)].by_channel]
BY_SAMPLE = [f for f in BY_CHANNEL if operation(f) != "batch_norm"]
BY_ROW = [f for f in FUNCTIONS if f not in BY_CHANNEL]


@pytest.mark.parametrize("shape", [(), (6,)], ids=str)
@pytest.mark.parametrize("function", BY_CHANNEL)
def test_too_few_axes(function, shape):
    refuse(
        function,
        "x",
        str(shape),
        "expected",
        "2 axes",
        **dict.fromkeys({"x", "dy"} & {*accepted(function)}, np.ones(shape, np.float32)),
    )


@pytest.mark.parametrize("function", BY_ROW)
def test_no_axes(function):
    number = np.ones((), np.float32)
    refuse(function, "x", "()", **dict.fromkeys({"x", "dy"} & {*accepted(function)}, number))


@pytest.mark.parametrize(("function", "name"), where(VECTORS))
def test_vectors_of_other_lengths(function, name):
    right = arguments(function)[name]
    for length in (right.shape[0] - 1, right.shape[0] + 1, 2 * right.shape[0], 1, 0):
        shape = (length, *right.shape[1:])
        refuse(function, name, str(shape), "expected", str(right.shape), **{name: np.ones(shape, right.dtype)})


@pytest.mark.parametrize(
    ("function", "name"),
    # the axes of rstd say which axes of x were normalized, and how many groups there are
    [(f, name) for f, name in where(VECTORS) if name != "rstd" or operation(f) in ("batch_norm", "instance_norm")],
)
def test_vectors_of_other_ranks(function, name):
    right = arguments(function)[name]
    for shape in ((), (1, *right.shape), (*right.shape, 1), (right.size, right.size)):
        refuse(function, name, str(shape), "expected", str(right.shape), **{name: np.ones(shape, right.dtype)})


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 1), (1, 2, 6, 5)], ids=str)
@pytest.mark.parametrize("function", [f for f in BY_ROW if f.endswith("backward")])
def test_rstd_of_as_many_axes_as_x(function, shape):
    refuse(function, "rstd", str(shape), "expected", "(2, 6, 5)", rstd=np.ones(shape))


@pytest.mark.parametrize("shape", [(), (2,), (6,), (2, 6, 1), (2, 4), (2, 12), (2, 0), (3, 3)], ids=str)
def test_statistics_of_groups_that_do_not_divide_the_channels(shape):
    """The second length of rstd is the number of groups, which is no argument of backward."""
    refuse("group_norm_backward", "rstd", str(shape), "expected", rstd=np.ones(shape))


@pytest.mark.parametrize(
    "shape", [(2, 6, 4), (6, 2, 5), (1, 6, 5), (2, 6, 1), (6, 5), (2, 6, 5, 1), (60,), (0, 6, 5), ()], ids=str
)
@pytest.mark.parametrize(("function", "name"), where(("dy", "residual", "out")))
def test_arrays_not_like_x(function, name, shape):
    refuse(function, name, str(shape), "expected", "(2, 6, 5)", **{name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f8"])
@pytest.mark.parametrize(("function", "name"), where(("dy", "residual", "out")))
def test_float_types_not_like_x(function, name, dtype):
    wrong = arguments(function)[name].astype(dtype)
    refuse(
        function,
        name,
        str(wrong.dtype) if name == "out" else str(np.dtype(dtype).newbyteorder("=")),  # inputs are converted
        "expected",
        "float32",
        **{name: wrong},
    )


# One value, and none --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axis"), [((1, 6), 1), ((1, 6, 1), 1), ((1, 1, 1, 6), -1), ((6, 1), 0)], ids=str)
@pytest.mark.parametrize("function", ["batch_norm", "batch_norm_forward"])
def test_one_value_a_channel_in_training(function, shape, axis):
    words = "Expected more than 1 value per channel when training, got input size"  # torch's
    x = np.ones(shape, np.float32)
    changes = {"x": x, "residual": x, "axis": axis, "out": None}
    refuse(function, words, str(shape), **changes)
    refuse(function, words, str(shape), **changes, running_mean=None, running_var=None)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 6), 1), ((2, 6, 1), 1), ((1, 1, 1, 6), -1), ((2, 6, 1, 1), 1)], ids=str
)
@pytest.mark.parametrize("function", ["instance_norm", "instance_norm_forward"])
def test_one_spatial_element_in_training(function, shape, axis):
    words = "Expected more than 1 spatial element when training, got input size"  # torch's
    refuse(function, words, str(shape), x=np.ones(shape, np.float32), axis=axis, out=None)


@pytest.mark.parametrize("missing", [RUNNING[:1], RUNNING[1:], RUNNING], ids=str)
@pytest.mark.parametrize(("function", "flag"), [("batch_norm", "training"), ("instance_norm", "use_input_stats")])
def test_evaluation_without_statistics(function, flag, missing):
    refuse(function, missing[0], "None", "expected", **dict.fromkeys(missing), **{flag: False})


# Numbers --------------------------------------------------------------------------------------------------------------

NO_NUMBERS = [
    None,
    "0.1",
    b"0.1",
    "",
    0.1j,
    complex(1e-5),
    complex(0.1),
    np.complex64(0.1),
    np.array(0.1j),
    [0.1],
    [],
    {},
    object(),
    float,
    np.array([0.1]),
    np.array([0.1, 0.2]),
]
NOT_FINITE = [np.nan, np.inf, -np.inf, np.float32("nan"), 10**400]
SOME_NAMES = {"ids": lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value))[:30]}


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, *NOT_FINITE], **SOME_NAMES)
@pytest.mark.parametrize(("function", "name"), where(("eps", "momentum")))
def test_what_is_no_finite_number(function, name, wrong):
    if wrong is accepted(function)[name].default:
        return  # None, for RMS norm
    refuse(function, name, repr(wrong)[:20], "expected", "number", **{name: wrong})


@pytest.mark.parametrize("wrong", [-1e-5, -1, np.float32(-1e-12)])
@pytest.mark.parametrize(("function", "name"), where(["eps"]))
def test_negative_eps(function, name, wrong):
    refuse(function, "eps", str(wrong), "expected", "positive", eps=wrong)


@pytest.mark.parametrize("function", ["batch_norm", "batch_norm_forward"])
def test_batch_norm_in_training_divides_by_more_than_zero(function):
    """As in torch; elsewhere an eps of zero is allowed, as in torch."""
    refuse(function, "eps", "0", "expected", "positive", eps=0.0)


NO_INTEGERS = [None, "1", 1.0, 3.0, np.float32(1), 1j, object(), {}, np.array([1, 2])]


@pytest.mark.parametrize("wrong", [*NO_INTEGERS, (1,), [1]], **SOME_NAMES)
@pytest.mark.parametrize(("function", "name"), where(("axis", "num_groups")))
def test_what_is_no_integer(function, name, wrong):
    refuse(function, name, repr(wrong), "expected", "integer", **{name: wrong})


@pytest.mark.parametrize("wrong", [3, -4, 64, -(2**31), 10**30])
@pytest.mark.parametrize(("function", "name"), where(["axis"]))
def test_axes_that_x_lacks(function, name, wrong):
    refuse(function, "axis", str(wrong), "(2, 6, 5)", "-3 to 2", axis=wrong)


@pytest.mark.parametrize("wrong", [0, -3])
@pytest.mark.parametrize("function", BY_SAMPLE)
def test_the_axis_of_samples_has_no_channels(function, wrong):
    refuse(function, "axis", str(wrong), "samples", "expected", "(2, 6, 5)", axis=wrong)


@pytest.mark.parametrize("wrong", [0, -1, -3, 4, 5, 7, 12, 10**30])
@pytest.mark.parametrize(("function", "name"), where(["num_groups"]))
def test_groups_that_do_not_divide_the_channels(function, name, wrong):
    refuse(function, "num_groups", str(wrong), "expected", "6 channels", num_groups=wrong)


@pytest.mark.parametrize(
    "wrong", [(), [], (4,), (6, 4), (2, 5), (5, 6), (1, 2, 6, 5), (0,), 0, -1, (-1,), 6, 10**30], ids=str
)
@pytest.mark.parametrize(("function", "name"), where(["normalized_shape"]))
def test_normalized_shapes_that_x_does_not_end_in(function, name, wrong):
    refuse(function, name, str(wrong) if wrong not in ((), []) else "empty", normalized_shape=wrong)


@pytest.mark.parametrize(
    "wrong", [*NO_INTEGERS[:7], 5.0, complex(5), (5.0,), (None,), "5", [[5]], np.array([5.0])], **SOME_NAMES
)
@pytest.mark.parametrize(("function", "name"), where(["normalized_shape"]))
def test_normalized_shapes_of_other_than_integers(function, name, wrong):
    refuse(function, name, "expected", "integer", normalized_shape=wrong)


# out ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
def test_out_that_is_no_array(function):
    for wrong in ([[0.0]], (), bytearray(240), memoryview(np.zeros(60, np.float32))):
        refuse(function, "out", type(wrong).__name__, "expected", "NumPy array", out=wrong)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_read_only_out(function):
    out = arguments(function)["out"]
    out.setflags(write=False)
    refuse(function, "out", "read-only", "expected", out=out)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_misaligned_out(function):
    out = np.frombuffer(bytearray(241), np.float32, 60, offset=1).reshape(2, 6, 5)
    refuse(function, "out", "misaligned", "expected", out=out)


@pytest.mark.parametrize(
    "strides", [(0, 20, 4), (120, 0, 4), (120, 20, 0), (20, 20, 4), (120, 4, 4), (4, 8, 12), (40, -20, 4)], ids=str
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_out_that_overlaps_itself(function, strides):
    parent = np.zeros(100, np.float32)
    refuse(function, "out", "overlaps itself", "expected", out=as_strided(parent[40:], (2, 6, 5), strides))


ARRAYS = ("x", "dy", *VECTORS)


@pytest.mark.parametrize(("function", "name"), where(ARRAYS))
def test_out_that_overlaps_another_array(function, name):
    """By one element at either end, and entirely."""
    given = arguments(function, np.float64)
    value, size = given[name], given["x"].size
    for start in (size - 1, 2 * size + 1 - value.size, size):
        memory = np.zeros(3 * size)
        out = (
            memory[size:-size].reshape(given["x"].shape)
            if start != size - 1
            else memory[:size].reshape(given["x"].shape)
        )
        overlapping = memory[start : start + value.size].reshape(value.shape)
        if name in ("x", "dy") and start == size:
            overlapping = np.flip(overlapping)  # x and dy themselves are allowed
        overlapping[...] = value
        refuse(function, "out", "overlaps", "expected", **(given | {name: overlapping, "out": out}))


@pytest.mark.parametrize(("function", "name"), where(("x", "dy")))
def test_out_that_is_a_transposed_input(function, name):
    """The same shape and the same memory, and not the same array."""
    case = CASE[operation(function)]
    cube = np.random.default_rng(0).standard_normal((6, 6, 6)).astype(np.float32)
    changes = {"normalized_shape": 6, "x": cube, "dy": cube + 1, "residual": cube + 2}
    changes |= {n: np.ones(6, np.float32) for n in ("weight", "bias", *RUNNING)}
    changes |= dict.fromkeys(
        ("mean", "rstd"), np.ones(Case(case.op, cube.shape, 6 if case.arg == 5 else 3).statistics_shape)
    )
    changes = {n: value for n, value in changes.items() if n in accepted(function)}
    refuse(function, "out", "overlaps", **changes, out=changes[name].swapaxes(0, 1))


@pytest.mark.parametrize(("function", "name"), where(("weight", "bias"), BY_ROW))
def test_out_that_is_a_weight(function, name):
    row = np.linspace(1, 2, 5, dtype=np.float32)
    changes = {n: row[::-1].copy() for n in ("x", "dy") if n in accepted(function)}
    changes |= {n: np.ones(()) for n in ("mean", "rstd") if n in accepted(function)}
    refuse(function, "out", "overlaps", **changes, **{name: row, "out": row})


def test_out_over_the_memory_of_an_input_that_had_to_be_copied():
    memory = bytearray(300)
    x = np.frombuffer(memory, np.float32, 60, offset=1).reshape(2, 6, 5)
    out = np.frombuffer(memory, np.float32, 60, offset=4).reshape(2, 6, 5)
    for function in FUNCTIONS:
        refuse(function, "out", "overlaps", x=x, out=out)
        refuse(function, "out", "overlaps", x=out.view(">f4"), out=np.flip(out))
        if function.endswith("backward"):
            refuse(function, "out", "overlaps", dy=x, out=out)


# Running arrays -------------------------------------------------------------------------------------------------------


def read_only(a):
    a.setflags(write=False)
    return a


WRONG_RUNNING = {
    "list": np.ndarray.tolist,
    "tuple": tuple,
    "read-only": read_only,
    "overlaps itself": lambda a: as_strided(a, a.shape, (0,)),
    "int64": lambda a: a.astype(np.int64),
    "(6, 1)": lambda a: a[:, None],
    "(1, 6, 1)": lambda a: a[None, :, None],
    "(5,)": lambda a: a[:5],
    "memoryview": memoryview,
}


@pytest.mark.parametrize("was", WRONG_RUNNING)
@pytest.mark.parametrize(("function", "name"), where(RUNNING, TRAINING))
def test_running_arrays_that_cannot_be_updated(function, name, was):
    wrong = WRONG_RUNNING[was](arguments(function)[name])
    refuse(function, name, was, "expected", **{name: wrong})
    other = RUNNING[name == RUNNING[0]]
    refuse(function, name, was, "expected", **{name: wrong, other: None})


@pytest.mark.parametrize("function", TRAINING)
def test_running_arrays_that_are_one(function):
    memory = np.linspace(1, 2, 20, dtype=np.float32)
    for mean, var in [
        (memory[:6],) * 2,
        (memory[:6], memory[5:11]),
        (memory[:6], memory[5::-1]),
        (memory[:11:2], memory[10:16]),
    ]:
        refuse(function, "running_", "overlap", "expected", running_mean=mean, running_var=var)


@pytest.mark.parametrize("function", TRAINING)
def test_running_arrays_that_are_another_argument(function):
    """They would be right themselves, and the other would be lost."""
    given = arguments(function)
    for name in RUNNING:
        for other in ("x", "weight", "bias"):
            refuse(function, name, "overlap", "expected", **{name: given[other].reshape(-1)[:6], other: given[other]})


# A last word ----------------------------------------------------------------------------------------------------------


SOMETHING_WRONG = {
    "weight": np.ones(7, np.float32),
    "bias": np.ones(6, int),
    "running_mean": [0.0] * 6,
    "running_var": np.ones(7, np.float32),
    "mean": np.ones(9),
    "rstd": np.ones((9, 9), int),
    "num_groups": 4,
    "normalized_shape": 4,
    "eps": -1.0,
    "momentum": np.nan,
    "axis": 7,
}


@pytest.mark.parametrize(("function", "name"), where(SOMETHING_WRONG))
def test_nothing_is_touched_in_place_either(function, name):
    """x is out, and something else is wrong."""
    for x in (arguments(function)["x"], strided(arguments(function)["x"])):
        refuse(function, name, x=x, out=x, **{name: SOMETHING_WRONG[name]})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_out_is_given_by_name_only(function):
    *positional, out = arguments(function).values()
    with pytest.raises(TypeError):
        getattr(fastbn, function)(*positional, out)


# Anything -------------------------------------------------------------------------------------------------------------


@st.composite
def any_array(draw):
    """Of any type, shape and order, read-only or not; small, and often nearly right."""
    dtype = draw(
        st.sampled_from(["f4", "f4", "f4", "f8", ">f4", "f2", "g", "i8", "?", "c8", "O", "U3", "M8[s]", "f4,f4"])
    )
    shape = draw(
        st.sampled_from([(2, 6, 5), (2, 6, 5), (6,), (5,), (2, 6), (2, 3), (3,)])
        | st.lists(st.integers(0, 6), max_size=4).map(tuple)
    )
    a = np.ones(shape, dtype)
    if draw(st.booleans()) and a.dtype.kind == "f":
        a = draw(st.sampled_from([np.nan, np.inf, 0.0, -1.0, 1e4])) * a
        a = a.astype(dtype)
    a = draw(
        st.sampled_from(
            [
                lambda v: v,
                lambda v: v,
                np.asfortranarray,
                lambda v: v.T,
                lambda v: v[::-1] if v.ndim else v,
                lambda v: np.broadcast_to(v, v.shape),
                np.ma.array,
                lambda v: v.view(np.recarray) if v.dtype.names else v,
            ]
        )
    )(a)
    return a


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-4, 7)
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.lists(st.floats(width=32) | st.integers(0, 6), max_size=4)
    | st.tuples(st.integers(-1, 6), st.integers(-1, 6))
    | st.sampled_from(
        [
            object(),
            object,
            {},
            {5},
            [[1.0], [1.0, 2.0]],
            range(6),
            np.float32(1),
            np.datetime64(1, "s"),
            10**400,
            Ellipsis,
            slice(2),
            Unreadable(RuntimeError()),
            np.float16,
            memoryview(b"abcd"),
            bytearray(b"abcd"),
            "0.1",
            "1",
        ]
    )
    | any_array()
    | any_array()
    | any_array()
)


@pytest.mark.full
@settings(max_examples=600)
@drawn(st.data(), st.sampled_from(FUNCTIONS))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_is_given(data, function):
    """A right call with one to three arguments replaced by anything: a result of x's shape, or a refusal."""
    given = arguments(function)
    names = data.draw(st.lists(st.sampled_from(list(given)), min_size=1, max_size=3, unique=True))
    given |= {name: data.draw(ANYTHING, name) for name in names}
    before = contents(given.values())
    try:
        result = getattr(fastbn, function)(**given)
    except Exception as refusal:
        assert_own_words(refusal)
        words = str(refusal)
        assert any(name in words for name in (*given, "input size")), words
        assert_untouched(before)
    else:
        y = result[0] if isinstance(result, tuple) else result
        assert y.shape == np.shape(given["x"])
        assert y.dtype.kind == "f"
