#!/usr/bin/env bash
# jax 0.10.2, numpy 2.4.6.  jax.nn.standardize takes its variance as a difference of mean squares, the squares in the type of the input: pixels
# of 200 and 250 in uint8, whose squares wrap around, become -7,906 and 7,906, and 10,000 and 10,001 in float32, whose variance
# rounds to 0, -158 and 158.  -1 and 1 were expected of each, as jnp.mean and jnp.var give them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install jax==0.10.2 numpy==2.4.6
export JAX_PLATFORMS=cpu
expect 'uint8 [200, 250]: [-7905.7, 7905.7], by mean and variance [-1.0, 1.0]
float32 [10000, 10001]: [-158.1, 158.1], by mean and variance [-1.0, 1.0]' <<'PY'
import jax
import jax.numpy as jnp
import numpy as np


def told(result):
    return (np.asarray(result, np.float64).round(1) + 0.0).tolist()


for kind, values in (("uint8", [200, 250]), ("float32", [10_000, 10_001])):
    x = jnp.array(values, kind)
    expected = (x - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + 1e-5)
    print(f"{kind} {values}: {told(jax.nn.standardize(x))}, by mean and variance {told(expected)}")
PY
