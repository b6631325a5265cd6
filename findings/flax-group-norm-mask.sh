#!/usr/bin/env bash
# flax 0.12.8, jax 0.10.2.  GroupNorm documents a mask that can be broadcast to its input.  One of time steps, with a last axis of 1, is taken by
# the other norms of Flax, and by nnx.GroupNorm and linen.GroupNorm only once it has been broadcast by hand.  The same result was
# expected of both masks.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install flax==0.12.8 jax==0.10.2 numpy==2.4.6
export JAX_PLATFORMS=cpu
expect 'LayerNorm: alike
RMSNorm: alike
BatchNorm: alike
InstanceNorm: alike
GroupNorm: TypeError
linen.GroupNorm: TypeError' <<'PY'
import jax
import jax.numpy as jnp
from flax import linen, nnx

x = jax.random.normal(jax.random.PRNGKey(0), (2, 3, 4))  # sample, step, channel
steps = jnp.array([[1, 1, 0], [1, 1, 1]], bool)[..., None]
norms = {
    "LayerNorm": nnx.LayerNorm(4, rngs=nnx.Rngs(0)),
    "RMSNorm": nnx.RMSNorm(4, rngs=nnx.Rngs(0)),
    "BatchNorm": nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
    "InstanceNorm": nnx.InstanceNorm(4, rngs=nnx.Rngs(0)),
    "GroupNorm": nnx.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0)),
    "linen.GroupNorm": lambda x, mask: linen.GroupNorm(2).init_with_output(jax.random.PRNGKey(0), x, mask=mask)[0],
}
for name, norm in norms.items():
    full = norm(x, mask=jnp.broadcast_to(steps, x.shape))
    try:
        print(f"{name}: {'alike' if jnp.allclose(norm(x, mask=steps), full, equal_nan=True) else 'other'}")
    except TypeError as error:
        print(f"{name}: {type(error).__name__}")
PY
