"""dataset_statistics: what is no data, and what only looks like it, told in the caller's words."""

import warnings

import numpy as np
import pytest

import fastbn

X = np.random.default_rng(0).normal(3.0, 2.0, (40, 3))


class Group(dict):
    """As groups of zarr and files of HDF5 are: of arrays under names."""

    __iter__ = None


class NamesOnly:
    """As groups of zarr: iterable, and no mapping to Python."""

    def __iter__(self):
        return iter(())

    def keys(self):
        return ()


@pytest.mark.parametrize("data", [{"x": X}, Group(), NamesOnly(), "x.npy", b"x", 3, None])
def test_what_is_no_data(data):
    with pytest.raises(
        TypeError, match=f"^data is of type {type(data).__name__}; expected an array or an iterable of arrays"
    ):
        fastbn.dataset_statistics(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (["x.npy"], TypeError, r"^data has dtype <U5; expected float16.*integers or bool"),
        (X.astype(complex), TypeError, r"^data has dtype complex128; expected float16.*integers or bool"),
        (iter([X[0]]), ValueError, r"^axis is 1; expected -1 to 0, an axis of data, which has shape \(3,\)"),
        (X[:, None, None].astype(object), TypeError, r"^data has dtype object"),
    ],
)
def test_what_is_wrong_with_data(data, error, message):
    with pytest.raises(error, match=message):
        fastbn.dataset_statistics(data)


@pytest.mark.parametrize("record", [list, tuple])
@pytest.mark.parametrize("arrays", [1, 2])
def test_batches_that_look_like_inputs_and_labels(record, arrays):
    """As loaders of PyTorch yield, of inputs alone too: one array of them has an axis more."""
    batches = [record([X] * arrays) for _ in range(2)]
    with pytest.warns(
        UserWarning, match=rf"data yields a {record.__name__} of {arrays} arrays, taken as one array of shape"
    ):
        fastbn.dataset_statistics(iter(batches))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastbn.dataset_statistics(batch[0] for batch in batches).count.tolist() == [80] * 3
        fastbn.dataset_statistics([X.tolist(), list(X), [np.float64(1), 2.0]][:2])


def test_errors_of_arguments_use_the_callers_names():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"^axis is 4; expected -2 to 1, an axis of y, which has shape \(2, 3\)"):
        fastbn.denormalize(x, 0.0, 1.0, axis=4)
    with pytest.raises(TypeError, match=r"^out has dtype float64; expected float32, the dtype of the result"):
        fastbn.normalize(x, 0.0, 1.0, out=np.empty((2, 3)))
    with pytest.raises(ValueError, match=r"^out has shape \(3, 2\); expected \(2, 3\), the shape of weight"):
        fastbn.weight_standardization(x, out=np.empty((3, 2)))
    with pytest.raises(TypeError, match=r"^x has dtype complex128; expected float16.*integers or bool"):
        fastbn.normalize(x * 1j, 0.0, 1.0)
    with pytest.raises(TypeError, match=r"^mean cannot be read as an array of floats"):
        fastbn.normalize(x, [[1], [1, 2]], 1.0)
