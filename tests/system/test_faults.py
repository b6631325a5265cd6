"""Odd settings of Numba, odd arguments, huge arrays, and long runs."""

import ctypes
import sys

import numpy as np
import pytest
import soak
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import python

import fastbn

# Numba's settings -----------------------------------------------------------------------------------------------------

SETTINGS = {
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "opt0": {"NUMBA_OPT": "0"},
    "one-thread": {"NUMBA_NUM_THREADS": "1", "FASTBN_NUM_THREADS": None},
    "boundscheck": {"NUMBA_BOUNDSCHECK": "1", "FASTBN_NUM_THREADS": "1"},
    "debuginfo": {
        "NUMBA_DEBUGINFO": "1",
        "FASTBN_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore:Could not find source for function",  # that of a lambda, whose lines it then guesses
    },
}


@pytest.mark.full
@pytest.mark.parametrize("variables", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_numba(variables):
    program = "import workload; print(workload.check(), workload.check_fused())"
    assert python(program, **variables) == ("right right\n", "")


@pytest.mark.full
def test_bounds_are_checked_in_serial_kernels():
    """In those of columns as well, and really: past the end of an array there is an error."""
    program = """
        import numpy as np, workload
        from fastbn.kernels.jit import driver

        workload.check_columns()
        workload.check_fused(-1)

        @driver
        def past_the_end(x):
            return x[x.size]

        try:
            past_the_end.serial(np.ones(3))
        except IndexError as error:
            print(error)
    """
    assert python(program, **SETTINGS["boundscheck"])[0] == "index is out of bounds\n"


@pytest.mark.full
def test_half_precision_on_a_generic_processor():
    """Without instructions of its own for float16."""
    program = """
        import numpy as np, fastbn
        from fastbn import reference
        x = np.random.default_rng(0).standard_normal((4, 100)).astype(np.float16)
        np.testing.assert_allclose(fastbn.layer_norm(x, 100), reference.layer_norm(x, 100), atol=2e-3)
        print("right")
    """
    assert python(program, **SETTINGS["generic"]) == ("right\n", "")


@pytest.mark.full
def test_without_compilation():
    program = """
        import numpy as np, fastbn
        from fastbn import reference
        from fastbn.cli import main
        x = np.random.default_rng(0).standard_normal((2, 3, 5))
        for more in ({}, {"activation": "silu", "residual": x[::-1], "where": x < 1}):
            for a, b in zip(fastbn.batch_norm_forward(x, **more), reference.batch_norm_forward(x, **more)):
                np.testing.assert_allclose(a, b, atol=1e-12)
        print("right", main(["info"]))
    """
    out, err = python(program, NUMBA_DISABLE_JIT="1")
    assert err == ""
    assert out.endswith("right 0\n")
    assert "NUMBA_DISABLE_JIT is set" in out


# Nothing but ValueError and TypeError ---------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-3, 5), st.floats(width=32), st.booleans(), st.just(2**70), st.complex_numbers())
dtypes = st.sampled_from(("f2", "f4", "f8", ">f4", "i4", "u1", "?", "c8", "O", "S3", "M8[s]", "f4,f4", "g"))


@st.composite
def some_array(draw):
    shape = draw(st.lists(st.sampled_from((0, 1, 2, 2, 3, 4)), max_size=4))
    array = np.zeros(shape, draw(dtypes))
    if array.dtype.kind in "fc":
        array.flat = np.arange(array.size) % 7
    if draw(st.booleans()):
        array = array.T
    if draw(st.sampled_from((False, False, True))):
        array.flags.writeable = False
    return array


anything = st.one_of(
    some_array(),
    some_array(),
    numbers,
    st.none(),
    st.text(max_size=3),
    st.lists(numbers, max_size=3),
    st.tuples(st.integers(-1, 4), st.integers(0, 4)),
    st.sampled_from((object(), {}, np.ma.ones((2, 2)), np.float32(1), np.nan, b"1", [[1.0], [1.0, 2.0]], ..., type)),
)
good = st.sampled_from(((2, 4), (2, 4, 3), (3, 4, 2, 2))).map(lambda s: np.ones(s, np.float32))
FACE = [
    getattr(fastbn, op + form)
    for op in ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
    for form in ("", "_forward", "_backward")
]
KEYWORDS = ("weight", "bias", "eps", "momentum", "axis", "out", "training", "running_mean", "running_var")


@pytest.mark.full
@settings(max_examples=1500)
@given(
    st.sampled_from(FACE),
    st.one_of(good, anything),
    st.lists(anything, max_size=5),
    st.dictionaries(st.sampled_from(KEYWORDS), anything, max_size=3),
)
def test_functions_raise_nothing_but_value_and_type_errors(function, x, args, keywords):
    check_refusal(lambda: function(x, *args, **keywords))


LAYERS = [
    fastbn.BatchNorm1d,
    fastbn.BatchNorm2d,
    fastbn.BatchNorm3d,
    fastbn.LayerNorm,
    fastbn.GroupNorm,
    fastbn.InstanceNorm1d,
    fastbn.InstanceNorm2d,
    fastbn.InstanceNorm3d,
    fastbn.RMSNorm,
]


@pytest.mark.full
@settings(max_examples=500)
@given(st.sampled_from(LAYERS), st.lists(st.one_of(st.sampled_from((2, 4)), anything), max_size=4), good, anything)
def test_layers_raise_nothing_but_value_and_type_errors(layer, args, x, dy):
    def use():
        made = layer(*args)
        made(x)
        made.backward(dy)

    check_refusal(use)


def check_refusal(call):
    """Right or refused, in words of its own; what NumPy warns of in converting odd arrays is NumPy's affair."""
    told = None
    with np.errstate(all="ignore"):
        try:
            call()
        except (ValueError, TypeError) as error:
            told = str(error)
    assert told is None or (told and "numba" not in told.lower())


# Huge arrays ----------------------------------------------------------------------------------------------------------

PAST_32_BITS = 2**31 + 2**12


def alternate(*shape):
    """-1, 3, -1, 3, ...: mean 1, variance 4, exactly."""
    x = np.empty(shape, np.float16)
    flat = x.reshape(-1)
    flat[::2], flat[1::2] = -1, 3
    return x


def check_alternates(y, even, odd):
    flat = y.reshape(-1)
    for start in range(0, flat.size, 1 << 28):
        part = flat[start : start + (1 << 28)]
        assert (part[::2] == even).all()
        assert (part[1::2] == odd).all()


@pytest.mark.slow  # 9 to 13 GB each
@pytest.mark.parametrize(
    "call",
    [
        lambda: fastbn.layer_norm(alternate(1, PAST_32_BITS), PAST_32_BITS, eps=0),
        lambda: fastbn.layer_norm(alternate(PAST_32_BITS // 64, 64), 64, eps=0),
        lambda: fastbn.batch_norm_forward(x := alternate(3, 1, PAST_32_BITS), eps=1e-12, out=x)[0],
        lambda: fastbn.group_norm(alternate(1, PAST_32_BITS // 64, 64), 1, axis=-1, eps=0),
    ],
    ids=["one-row", "rows", "channels-first", "channels-last"],
)
def test_arrays_past_2_to_the_31_elements(call):
    check_alternates(call(), -1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "shape", "statistics", "keywords"),
    [
        ("layer_norm", (PAST_32_BITS // 64, 64), PAST_32_BITS // 64, {}),
        ("batch_norm", (2, 1, PAST_32_BITS), 1, {}),
        ("group_norm", (1, PAST_32_BITS // 64, 64), (1, 1), {"axis": -1}),
    ],
    ids=["rows", "channels-first", "channels-last"],
)
def test_gradients_past_2_to_the_31_elements(op, shape, statistics, keywords):
    """With dy = x, mean 0 and rstd 1: x - avg(x) - x avg(x x), of averages 1 and 5."""
    x = alternate(*shape)
    mean, rstd = np.zeros(statistics), np.ones(statistics)
    dx, dweight, dbias = getattr(fastbn, f"{op}_backward")(x, x, mean, rstd, **keywords, out=x)
    check_alternates(dx, 3, -13)
    terms = dx.size // dbias.size
    np.testing.assert_allclose(dbias, terms if dbias.size == 1 else [-terms, 3 * terms] * (dbias.size // 2))
    np.testing.assert_allclose(dweight, 5 * terms if dbias.size == 1 else [terms, 9 * terms] * (dbias.size // 2))


# Long runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_short_soak():
    """Two minutes of it, and memory that is flat, are a step of .ci/run; of one dtype, for most is compiled first."""
    assert soak.Soak(2, dtypes=[np.dtype(np.float32)]).counts()["calls"] > 0


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc tells what is in use")
@pytest.mark.parametrize("leak", [None, list, ctypes.c_void_p], ids=["nothing", "objects", "memory"])
def test_the_soak_sees_100_bytes_a_call(monkeypatch, leak):
    x, leaked, malloc = np.ones((2, 8)), [], ctypes.CDLL(None).malloc

    def call(rng, dtypes):
        fastbn.layer_norm(x, 8)
        if leak is list:
            leaked.append(bytes(100))
        elif leak:
            malloc(100)
        return (), 0.0

    monkeypatch.setattr(soak, "some_call", call)
    assert soak.Soak(1).leaks == (leak is not None)
