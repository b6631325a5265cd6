"""Writes a file of Chainer with what Chainer computes from it.

Run with chainer 7.8.1, numpy 1.23.5: python write_chainer.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np

np.bool, np.int, np.float = bool, int, float  # which Chainer 7.8.1 still asks for
import chainer  # noqa: E402
import chainer.links as L  # noqa: E402

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.normal(1, 2, (6, 4, 3, 3)).astype(np.float32)


class Net(chainer.Chain):
    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.conv = L.Convolution2D(4, 4, 1)
            self.bn = L.BatchNormalization(4)
            self.layer = L.LayerNormalization(9)


net = Net()
net.bn.gamma.array[...] = rng.uniform(0.5, 2, 4)
net.bn.beta.array[...] = rng.normal(size=4)
for _ in range(30):
    net.bn(rng.normal(1, 2, (6, 4, 3, 3)).astype(np.float32))
net.layer.gamma.array[...] = rng.uniform(0.5, 2, 9)
net.layer.beta.array[...] = rng.normal(size=9)
with chainer.using_config("train", False), chainer.using_config("enable_backprop", False):
    bn = net.bn(x).array
    rows = x.reshape(-1, 9)
    layer = net.layer(rows).array
chainer.serializers.save_npz(folder / "chainer.npz", net)
np.savez_compressed(folder / "chainer.outputs.npz", **{"bn.x": x, "bn.y": bn, "layer.x": rows, "layer.y": layer})
