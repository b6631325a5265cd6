"""Arguments of operations in compiled code, of all types that Numba takes for integers and floats."""

import numba
import numpy as np
import pytest

import fastbn

X = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float32)


@numba.njit
def trained(x, mean, var, momentum):
    return fastbn.batch_norm(x, mean, var, training=True, momentum=momentum)


@pytest.mark.full
@pytest.mark.parametrize("momentum", [0.3, np.float32(0.3), 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_of_either_dtype(dtype, momentum):
    found, expected = ((np.zeros(6, dtype), np.ones(6, dtype)) for _ in range(2))
    y = trained(X, *found, momentum)
    assert y.tobytes() == fastbn.batch_norm(X, *expected, training=True, momentum=momentum).tobytes()
    for a, b in zip(found, expected, strict=True):
        assert a.tobytes() == b.tobytes()


@numba.njit
def grouped(x, groups, axis):
    return fastbn.group_norm(x, groups, axis=axis)


@pytest.mark.full
@pytest.mark.parametrize("integer", [np.int8, np.uint8, np.uint64])
def test_integers_may_be_unsigned(integer):
    assert grouped(X, integer(2), integer(1)).tobytes() == fastbn.group_norm(X, 2).tobytes()
    with pytest.raises(ValueError, match="axis is not one of the axes"):
        grouped(X, integer(2), integer(3))
    with pytest.raises(ValueError, match="num_groups does not divide"):
        grouped(X, integer(4), integer(1))


@pytest.mark.full
def test_unsigned_integers_are_no_negative_ones():
    largest = np.uint64(2**64 - 1)
    with pytest.raises(ValueError, match="axis is not one of the axes"):
        grouped(X, np.uint64(2), largest)
    with pytest.raises(ValueError, match="num_groups does not divide"):
        grouped(X, largest, np.uint64(1))


@numba.njit
def rectified(x, slope):
    return fastbn.layer_norm(x, 5, activation=("leaky_relu", slope))


@pytest.mark.full
def test_slopes_are_those_of_calls_from_python():
    """A slope of -0.0 is 0.0, which tells in the sign of zeros; one that is not finite is refused."""
    for slope in (-0.0, 0.0, 0.1):
        assert rectified(X, slope).tobytes() == fastbn.layer_norm(X, 5, activation=("leaky_relu", slope)).tobytes()
    for slope in (np.nan, np.inf):
        with pytest.raises(ValueError, match="the slope of 'leaky_relu' is not finite"):
            rectified(X, slope)
    with pytest.raises(numba.core.errors.TypingError, match=r"activation is .*; expected None, .'leaky_relu', slope."):
        rectified(X, 0.1j)


M = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("x", lambda x, m, given: (fastbn.group_norm(x if given else None, 2), x.size, x.ndim)),
        ("out", lambda x, m, given: (fastbn.group_norm(x, 2, out=x if given else None), x.size, x.ndim)),
        ("dy", lambda x, m, given: (fastbn.group_norm_backward(x if given else None, x, m, m), x.size, x.ndim)),
        ("mean", lambda x, m, given: (fastbn.group_norm_backward(x, x, m if given else None, m), x.size, x.ndim)),
        ("eps", lambda x, m, given: (fastbn.rms_norm(x, 5, eps=1e-5 if given else None), x.size, x.ndim)),
        ("axis", lambda x, m, given: (fastbn.group_norm(x, 2, axis=1 if given else None), x.size, x.ndim)),
        (
            "activation",
            lambda x, m, given: (fastbn.group_norm(x, 2, activation="relu" if given else None), x.size, x.ndim),
        ),
    ],
)
def test_what_may_be_none_is_to_be_one_of_both(name, call):
    """As something follows the call: where nothing does, Python 3.13 makes two calls of it."""
    with pytest.raises(numba.core.errors.TypingError, match=rf"{name} may be None.*: write two calls"):
        numba.njit(call)(X, M, True)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda x: fastbn.batch_norm(x, training=None), "none"),
        (lambda x: fastbn.batch_norm(x, training="yes"), "'yes'"),
        (lambda x: fastbn.batch_norm(x, training=0.5), "float64"),
        (lambda x: fastbn.batch_norm(x, training=2), "2"),
    ],
)
def test_what_is_no_flag_is_not_called_a_variable(call, what):
    with pytest.raises(numba.core.errors.TypingError, match=f"training is {what}; expected True or False in the sou"):
        numba.njit(call)(X)


@numba.njit
def differentiated(mean, rstd):
    return fastbn.group_norm_backward(X, X, mean, rstd)


@pytest.mark.full
@pytest.mark.parametrize("groups", [0, 4, 7])
def test_statistics_of_groups_that_cannot_be_are_what_is_named(groups):
    for mean in (np.zeros((4, 1)), np.zeros((4, groups))):
        with pytest.raises(ValueError, match="mean or rstd has another shape; expected what the forward returned"):
            differentiated(mean, np.ones((4, groups)))
