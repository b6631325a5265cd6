"""Writes files of MXNet with what MXNet computes from them.

Run with mxnet 1.9.1, numpy 1.23.5: python write_mxnet.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np

np.bool = bool  # which MXNet 1.9.1 still asks for
import mxnet as mx  # noqa: E402

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.normal(1, 2, (2, 4, 3, 3)).astype(np.float32)
values = {
    "gamma": rng.uniform(0.5, 2, 4),
    "beta": rng.normal(size=4),
    "mean": rng.normal(size=4),
    "var": rng.uniform(1, 3, 4),
}

data = mx.sym.Variable("data")
first = mx.sym.BatchNorm(data, name="fixed")
second = mx.sym.BatchNorm(data, fix_gamma=False, eps=2e-3, momentum=0.8, name="free")
symbol = mx.sym.Group([first, second])
symbol.save(str(folder / "mxnet-symbol.json"))
arrays = {}
for name in ("fixed", "free"):
    arrays |= {f"arg:{name}_gamma": values["gamma"], f"arg:{name}_beta": values["beta"]}
    arrays |= {f"aux:{name}_moving_mean": values["mean"], f"aux:{name}_moving_var": values["var"]}
arrays = {name: mx.nd.array(value, dtype="float32") for name, value in arrays.items()}
mx.nd.save(str(folder / "mxnet-0000.params"), arrays)
mx.nd.save(str(folder / "mxnet_alone.params"), arrays)
arguments = {name[4:]: value for name, value in arrays.items() if name.startswith("arg:")} | {"data": mx.nd.array(x)}
states = {name[4:]: value for name, value in arrays.items() if name.startswith("aux:")}
outputs = symbol.bind(mx.cpu(), arguments, aux_states=states).forward(is_train=False)

net = mx.gluon.nn.HybridSequential()
net.add(mx.gluon.nn.BatchNorm(in_channels=4))
net.initialize()
for key, name in (("gamma", "gamma"), ("beta", "beta"), ("running_mean", "mean"), ("running_var", "var")):
    getattr(net[0], key).set_data(mx.nd.array(values[name], dtype="float32"))
net.save_parameters(str(folder / "mxnet_gluon.params"))
gluon = net(mx.nd.array(x))
named = {"fixed": outputs[0], "free": outputs[1], "gluon": gluon}
np.savez_compressed(folder / "mxnet.outputs.npz", x=x, **{name: value.asnumpy() for name, value in named.items()})
