"""Writes a file of MindSpore with what it computes from it.

Run with mindspore 2.10: python write_mindspore.py FOLDER
"""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(4)
        self.layer = nn.LayerNorm((3,))

    def construct(self, x):
        return self.layer(self.bn(x))


net = Net()
for parameter in net.get_parameters():
    low, high = (0.5, 2) if parameter.name.endswith(("gamma", "variance")) else (-1, 1)
    parameter.set_data(ms.Tensor(rng.uniform(low, high, parameter.shape).astype(np.float32)))
net.set_train(False)
x = rng.normal(1, 2, (2, 4, 3, 3)).astype(np.float32)
bn = net.bn(ms.Tensor(x)).asnumpy()
layer = net.layer(ms.Tensor(bn)).asnumpy()
ms.save_checkpoint(net, str(folder / "mindspore.ckpt"))
np.savez_compressed(folder / "mindspore.outputs.npz", **{"bn.x": x, "bn.y": bn, "layer.x": bn, "layer.y": layer})
