"""Errors name the arguments that the caller knows, all of those that they are about."""

import numpy as np
import pytest

import fastbn

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
ONES, ZEROS = np.ones(4, np.float32), np.zeros(4, np.float32)


def one_row(a):
    """A view of the same memory, of two axes."""
    return a[None]


OVERLAPS = {
    "out overlaps x": lambda a: fastbn.layer_norm(a[None, :-1], 3, out=a[None, 1:]),
    "out overlaps weight": lambda a: fastbn.layer_norm(X[:1], 4, a, out=one_row(a)),
    "out overlaps bias": lambda a: fastbn.group_norm(X[:1], 2, ONES, a, out=one_row(a)),
    "out overlaps running_mean": lambda a: fastbn.batch_norm(X[:1], a, ONES, out=one_row(a)),
    "out overlaps running_var": lambda a: fastbn.batch_norm(X[:1], ZEROS, a, out=one_row(a)),
    "out overlaps residual": lambda a: fastbn.batch_norm(X[:1], ZEROS, ONES, residual=one_row(a), out=one_row(a)),
    "out overlaps dsum": lambda a: fastbn.add_rms_norm_backward(X[:1], one_row(a), X[:1], [1.0], out=one_row(a)),
    "running_mean overlaps weight": lambda a: fastbn.batch_norm(X, a, a.copy(), a, training=True),
    "running_mean overlaps running_var": lambda a: fastbn.batch_norm(X, a, a, training=True),
    "running_var overlaps bias": lambda a: fastbn.batch_norm(X, a.copy(), a, None, a, training=True),
}


@pytest.mark.parametrize("words", OVERLAPS)
def test_both_of_what_overlaps_are_named(words):
    memory = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=f"^{words}; expected memory of its own$"):
        OVERLAPS[words](memory)
    np.testing.assert_array_equal(memory, 1)


def test_running_statistics_within_x():
    x = X.copy()
    with pytest.raises(ValueError, match=r"^running_mean overlaps x; expected memory of its own$"):
        fastbn.batch_norm(x, x[0], ONES.copy(), training=True)
    np.testing.assert_array_equal(x, X)


def test_an_x_that_is_read_over_the_memory_of_out():
    """An array-like that is no ndarray has its memory found out while it is read."""
    memory = np.ones(8, np.float32)
    with pytest.raises(ValueError, match=r"^out overlaps x; expected memory of its own$"):
        fastbn.layer_norm(memoryview(memory[:4].reshape(1, 4)), 4, out=memory[2:6].reshape(1, 4))
    np.testing.assert_array_equal(memory, 1)


@pytest.mark.parametrize("wrong", [X[:1], X.astype(np.float64)])
def test_a_sum_and_what_is_compared_to_it(wrong):
    _, total, mean, rstd = fastbn.add_layer_norm_forward(X, X, 4)
    for dy, dsum in ((wrong, None), (X, wrong)):
        with pytest.raises((TypeError, ValueError), match=r"^d(y|sum) has .*, the (shape|dtype) of sum$"):
            fastbn.add_layer_norm_backward(dy, dsum, total, mean, rstd)
        with pytest.raises((TypeError, ValueError), match=r"^d(y|sum) has .*, the (shape|dtype) of sum$"):
            fastbn.add_rms_norm_backward(dy, dsum, total, rstd)
    with pytest.raises(TypeError, match=r"^sum has dtype int64; expected float16"):
        fastbn.add_layer_norm_backward(X, None, X.astype(np.int64), mean, rstd)
    with pytest.raises(TypeError, match=r"^sum is None; expected"):
        fastbn.add_rms_norm_backward(X, None, None, rstd)


def test_a_backward_that_starts_from_y():
    y, mean, rstd = fastbn.layer_norm_forward(X, 4)
    with pytest.raises(ValueError, match=r"^dy has shape \(1, 4\); expected \(2, 4\), the shape of y$"):
        fastbn.layer_norm_backward(X[:1], None, mean, rstd, y=y)
    with pytest.raises(TypeError, match=r"^y has dtype int64; expected float16"):
        fastbn.layer_norm_backward(X, None, mean, rstd, y=y.astype(np.int64))


def test_where_the_shape_of_a_weight_comes_from():
    """Channels that are last, without axis=-1, are the likeliest cause."""
    images = np.ones((8, 32, 32, 3), np.float32)
    words = (
        r"^weight has shape \(3,\); expected \(32,\), one number for each channel \(axis 1 of x, .*\(8, 32, 32, 3\)\)$"
    )
    for norm in (
        lambda w: fastbn.batch_norm(images, None, None, w, training=True),
        lambda w: fastbn.group_norm(images, 4, w),
        lambda w: fastbn.instance_norm(images, weight=w),
        lambda w: fastbn.group_norm_backward(images, images, np.ones((8, 4)), np.ones((8, 4)), w),
    ):
        with pytest.raises(ValueError, match=words):
            norm(np.ones(3, np.float32))
    words = (
        r"^weight has shape \(32,\); expected \(32, 3\), the normalized axes of x, which has shape \(8, 32, 32, 3\)$"
    )
    for trailing in (fastbn.layer_norm, fastbn.rms_norm):
        with pytest.raises(ValueError, match=words):
            trailing(images, (32, 3), np.ones(32, np.float32))


def test_a_masked_array_to_write_to():
    """What is written to a filled copy would be lost."""
    for give in (
        lambda a: fastbn.layer_norm(X[:1], 4, out=one_row(a)),
        lambda a: fastbn.batch_norm(X, a, ONES.copy(), training=True),
        lambda a: fastbn.batch_norm(X, ZEROS.copy(), a, training=True),
    ):
        with pytest.raises(TypeError, match=r"^(\w+) is a masked array, .*; expected \1\.data$"):
            give(np.ma.ones(4, np.float32))
    with pytest.raises(TypeError, match=r"^x is a masked array, .*; expected x\.filled\(\.\.\.\)$"):
        fastbn.layer_norm(np.ma.ones((2, 4), np.float32), 4)


def test_an_axis_that_there_is_not():
    for call, name in (
        (lambda: fastbn.normalize(X, ONES, ONES, axis=2), "x"),
        (lambda: fastbn.denormalize(X, ONES, ONES, axis=-3), "y"),
        (lambda: fastbn.dataset_statistics(X, 2, progress=False), "data"),
        (lambda: fastbn.group_norm(X, 2, axis=2), "x"),
    ):
        words = rf"^axis is (2|-3); expected -2 to 1, an axis of {name}, which has shape \(2, 4\)$"
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(ValueError, match=r"^x has shape \(\); expected at least one axis$"):
        fastbn.normalize(np.float32(1), ONES, ONES, axis=0)
