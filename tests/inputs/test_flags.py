"""Flags are true or false; text, which Python takes for true whatever it says, is neither."""

import numpy as np
import pytest

import fastbn

X = np.arange(12.0).reshape(4, 3)

CALLS = {
    "training": lambda v: fastbn.batch_norm(X, np.zeros(3), np.ones(3), training=v),
    "use_input_stats": lambda v: fastbn.instance_norm(X[None], np.zeros(4), np.ones(4), use_input_stats=v),
    "affine": lambda v: fastbn.BatchNorm1d(3, affine=v),
    "track_running_stats": lambda v: fastbn.BatchNorm1d(3, track_running_stats=v),
    "bias": lambda v: fastbn.BatchNorm1d(3, bias=v),
    "elementwise_affine": lambda v: fastbn.LayerNorm(3, elementwise_affine=v),
    "mode": lambda v: fastbn.BatchNorm1d(3).train(v),
    "strict": lambda v: fastbn.BatchNorm1d(3).load_state_dict({}, strict=v),
    "skipna": lambda v: fastbn.dataset_statistics(X, skipna=v),
    "progress": lambda v: fastbn.dataset_statistics(X, progress=v),
}


@pytest.mark.parametrize("value", ["False", "no", None, 2, [], np.array([True, False])])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_neither_is_refused(name, value):
    with pytest.raises(TypeError, match=f"^{name} is .*; expected True or False$"):
        CALLS[name](value)


@pytest.mark.parametrize("value", [True, np.True_, 1, np.array(True)])
def test_what_equals_one_of_them_is_taken(value):
    same = fastbn.batch_norm(X, None, None, training=value)
    np.testing.assert_array_equal(same, fastbn.batch_norm(X, None, None, training=True))
    assert fastbn.BatchNorm1d(3).train(value).training is True
    assert fastbn.BatchNorm1d(3, affine=value).affine is True


def test_no_dtype_is_not_taken_for_float64():
    with pytest.raises(TypeError, match=r"^dtype is None; expected a dtype$"):
        fastbn.normalize(X, 0, 1, dtype=None)


def test_a_dict_is_no_data_set():
    with pytest.raises(TypeError, match=r"^data is of type dict; expected an array or an iterable of arrays$"):
        fastbn.dataset_statistics({"x": X})
