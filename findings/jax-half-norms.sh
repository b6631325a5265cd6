#!/usr/bin/env bash
# dm-haiku 0.0.17, equinox 0.13.8, jax 0.10.2.  Of float16 with deviations of 300, whose variance is beyond float16, batch norm of both gives
# zeros, and so does Haiku's instance norm; layer norm of the same libraries is right.  And Equinox casts what its layer norm and
# RMS norm give back to the type of the input: of int8 that is -1, 0 or 1.  What float32 of the same numbers gives was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install dm-haiku==0.0.17 equinox==0.13.8 jax==0.10.2 numpy==2.4.6
export JAX_PLATFORMS=cpu
expect 'float32: Haiku'\''s batch norm [-1.0, -1.0, 1.0, 1.0], instance norm [-1.0, -1.0, 1.0, 1.0], layer norm [1.0, -1.0, -1.0, 1.0]; Equinox'\''s batch norm [-1.0, -1.0, 1.0, 1.0], layer norm [1.0, -1.0, -1.0, 1.0]
float16: Haiku'\''s batch norm [0.0, 0.0, 0.0, 0.0], instance norm [0.0, 0.0, 0.0, 0.0], layer norm [1.0, -1.0, -1.0, 1.0]; Equinox'\''s batch norm [0.0, 0.0, 0.0, 0.0], layer norm [1.0, -1.0, -1.0, 1.0]
float32: Equinox'\''s layer norm [-1.44, -0.29, 0.43, 1.29], RMS norm [-1.44, -0.29, 0.43, 1.29]
int8: Equinox'\''s layer norm [-1.0, 0.0, 0.0, 1.0], RMS norm [-1.0, 0.0, 0.0, 1.0]' <<'PY'
import warnings

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

warnings.simplefilter("ignore")
x = jnp.array([[-300.0, -420.0], [300.0, 420.0]])


def haiku(function, x):
    model = hk.transform_with_state(function)
    parameters, state = model.init(jax.random.PRNGKey(0), x)
    return model.apply(parameters, state, None, x)[0]


def equinox(x):
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, axis_name="batch", mode="batch")
    batch = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return batch(x, state)[0]


def told(result):
    return np.asarray(result, np.float64).round(2).ravel().tolist()


for kind in (jnp.float32, jnp.float16):
    given = x.astype(kind)
    print(
        f"{given.dtype}: Haiku's batch norm {told(haiku(lambda x: hk.BatchNorm(True, True, 0.9)(x, True), given))}, "
        f"instance norm {told(haiku(lambda x: hk.InstanceNorm(True, True)(x[None]), given))}, "
        f"layer norm {told(haiku(lambda x: hk.LayerNorm(-1, True, True)(x), given))}; "
        f"Equinox's batch norm {told(equinox(given))}, layer norm {told(jax.vmap(eqx.nn.LayerNorm(2))(given))}"
    )
pixels = jnp.array([-100, -20, 30, 90])
for kind in (jnp.float32, jnp.int8):
    given = pixels.astype(kind)
    print(
        f"{given.dtype}: Equinox's layer norm {told(eqx.nn.LayerNorm(4)(given))}, "
        f"RMS norm {told(eqx.nn.RMSNorm(4)(given))}"
    )
PY
