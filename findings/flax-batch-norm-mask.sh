#!/usr/bin/env bash
# flax 0.12.8, jax 0.10.2.  Batch norm under a mask and an axis_name takes the mean of the devices' means, however many elements are left on
# each: two on one and four on the other have a mean of 5 and not of 6, their true one, which one device gives of the same batch.  Where
# nothing is left, here on one device of two, mean and variance are NaN, and so the running ones, for ever.  nnx and linen alike.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install flax==0.12.8 jax==0.10.2 numpy==2.4.6
export JAX_PLATFORMS=cpu
expect 'one device: mean 6.00, variance 11.67
two devices: mean 5.00, variance 12.00
two devices, nothing left on one: mean nan, variance nan
one device, nothing left: mean nan, variance nan' <<'PY'
import jax
import jax.numpy as jnp
from flax import nnx

x = jnp.array([[1.0, 3, 0, 0], [5, 7, 9, 11]])[..., None]  # device, sample, channel
mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)[..., None]


def statistics(x, mask, axis_name=None):
    norm = nnx.BatchNorm(1, momentum=0.0, axis_name=axis_name, rngs=nnx.Rngs(0))
    norm(x, mask=mask)
    return jnp.stack([norm.mean[...], norm.var[...]])


def told(result):
    mean, variance = result.ravel().tolist()
    return f"mean {mean:.2f}, variance {variance:.2f}"


synced = jax.vmap(lambda x, mask: statistics(x, mask, "devices"), axis_name="devices")
print("one device:", told(statistics(x.reshape(8, 1), mask.reshape(8, 1))))
print("two devices:", told(synced(x, mask)[0]))
print("two devices, nothing left on one:", told(synced(x, mask.at[0].set(False))[1]))
print("one device, nothing left:", told(statistics(x[0], jnp.zeros((4, 1), bool))))
PY
