"""Writes files of Flax, Haiku, NNX and orbax with what these systems compute from them.

Run with flax 0.12.8, dm-haiku 0.0.17, orbax-checkpoint 0.12.8, jax 0.10.2: python write_jax.py FOLDER
"""

import pickle
import shutil
import sys
from pathlib import Path

import flax.linen as nn
import flax.serialization
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

folder = Path(sys.argv[1])
x = np.random.default_rng(0).normal(2, 3, (4, 5, 6)).astype(np.float32)
values = {
    "scale": np.linspace(0.5, 2, 6, dtype=np.float32),
    "bias": np.linspace(-1, 1, 6, dtype=np.float32),
    "mean": np.linspace(1, 3, 6, dtype=np.float32),
    "var": np.linspace(4, 12, 6, dtype=np.float32),
}


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="stem")(x)
        x = nn.LayerNorm(name="final")(x)
        return x


variables = {
    "params": {
        "stem": {k: values[k] for k in ("scale", "bias")},
        "final": {"scale": values["scale"], "bias": values["bias"]},
    },
    "batch_stats": {"stem": {k: values[k] for k in ("mean", "var")}},
}
stem = nn.BatchNorm(use_running_average=True).apply(
    {"params": variables["params"]["stem"], "batch_stats": variables["batch_stats"]["stem"]}, x
)
final = nn.LayerNorm().apply({"params": variables["params"]["final"]}, x)
(folder / "flax.msgpack").write_bytes(flax.serialization.to_bytes(variables))
half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), variables)
(folder / "flax_bfloat16.msgpack").write_bytes(flax.serialization.to_bytes(half))
np.savez(folder / "flax.outputs.npz", x=x, stem=stem, final=final)

bn = nnx.BatchNorm(6, use_running_average=True, rngs=nnx.Rngs(0))
for name in values:
    getattr(bn, name)[...] = jnp.asarray(values[name])


class Holder(nnx.Module):
    def __init__(self):
        self.bn = bn


state = nnx.state(Holder())
pure = nnx.to_pure_dict(state)
with (folder / "nnx.pickle").open("wb") as stream:
    pickle.dump(pure, stream)
(folder / "nnx.msgpack").write_bytes(flax.serialization.msgpack_serialize(jax.tree.map(np.asarray, pure)))
leveled = {"bn": {k: {"value": np.asarray(v)} for k, v in pure["bn"].items()}}
(folder / "nnx_value.msgpack").write_bytes(flax.serialization.msgpack_serialize(leveled))
np.savez(folder / "nnx.outputs.npz", x=x, bn=bn(x))


def network(x, is_training):
    return hk.BatchNorm(True, True, 0.9, name="stem")(x, is_training)


transformed = hk.transform_with_state(network)
params, hidden = transformed.init(jax.random.PRNGKey(0), x, True)
for step in range(3):
    _, hidden = transformed.apply(params, hidden, None, x + step, True)
params = {"stem": {"scale": values["scale"][None, None], "offset": values["bias"][None, None]}}
output, _ = transformed.apply(params, hidden, None, x, False)
with (folder / "haiku.pickle").open("wb") as stream:
    pickle.dump((params, hidden), stream)
with (folder / "haiku_dict.pickle").open("wb") as stream:
    pickle.dump({"params": params, "state": hidden}, stream)
with (folder / "haiku_numpy.pickle").open("wb") as stream:
    pickle.dump(jax.tree.map(np.asarray, (params, hidden)), stream)
np.savez(folder / "haiku.outputs.npz", x=x, stem=output)

for name, tree in (("orbax", variables), ("orbax_nnx", state)):
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target.absolute(), tree)
np.savez(folder / "orbax.outputs.npz", x=x, stem=stem, bn=bn(x))
