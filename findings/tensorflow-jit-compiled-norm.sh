#!/usr/bin/env bash
# tensorflow-cpu 2.21.0.  One and the same function, run as it is and with jit_compile=True.  fused_batch_norm takes the squares of differences
# when it is not compiled; compiled, the mean of squares less the square of the mean, in float32: about 10,000 a variance of 1 becomes negative
# and y is NaN.  tf.nn.moments of the same x is right in both.  reduce_mean of float16 is the other way round: it adds up in float16 when it is not
# compiled, and is infinite once the sum passes 65,504; compiled, it is right.  The same numbers, but for their last digits, were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install tensorflow-cpu==2.21.0 numpy==2.4.6
expect 'about 0, as it is: fused near True, NaN in y False, moments near True
about 0, compiled: fused near True, NaN in y False, moments near True
about 10000, as it is: fused near True, NaN in y False, moments near True
about 10000, compiled: fused near False, NaN in y True, moments near True
mean of float16, as it is: inf
mean of float16, compiled: 100.0' <<'PY'
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf


def fused(x):
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    y, _, variance, *_ = tf.compat.v1.nn.fused_batch_norm(x, one, zero, is_training=True)
    return y, variance


def moments(x):
    return tf.nn.moments(x, [0, 1, 2])


def mean_of(x):
    return tf.reduce_mean(x)


def both(function):
    return ("as it is", function), ("compiled", tf.function(function, jit_compile=True))


noise = np.random.default_rng(0).standard_normal((8, 16, 16, 4))
for about in (0, 10_000):
    x = (noise + about).astype(np.float32)
    for (way, normalize), (_, measure) in zip(both(fused), both(moments), strict=True):
        (y, variance), (_, own) = normalize(x), measure(x)
        near, right = (bool((np.abs(v.numpy() - 1) < 0.1).all()) for v in (variance, own))
        print(f"about {about}, {way}: fused near {near}, NaN in y {bool(np.isnan(y).any())}, moments near {right}")
for way, mean in both(mean_of):
    print(f"mean of float16, {way}: {mean(np.full(10_000, 100, np.float16)).numpy()}")
PY
