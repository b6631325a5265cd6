"""Writes a file of PaddlePaddle with what it computes from it.

Run with paddlepaddle 3.3.1: python write_paddle.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import paddle

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)


class Net(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 1)
        self.bn = paddle.nn.BatchNorm2D(4)
        self.linear = paddle.nn.Linear(4, 6)
        self.bn1 = paddle.nn.BatchNorm1D(6)
        self.layer = paddle.nn.LayerNorm(6)


net = Net()
for name, value in net.state_dict().items():
    if name.split(".")[0] in ("bn", "bn1", "layer"):
        low, high = (0.5, 2) if name.endswith(("weight", "_variance")) else (-1, 1)
        value.set_value(rng.uniform(low, high, value.shape).astype(np.float32))
net.eval()
image = rng.normal(1, 2, (2, 3, 2, 2)).astype(np.float32)
rows = rng.normal(1, 2, (5, 4)).astype(np.float32)
seen = {"image": image, "rows": rows}
seen["bn.x"] = net.conv(paddle.to_tensor(image)).numpy()
seen["bn.y"] = net.bn(paddle.to_tensor(seen["bn.x"])).numpy()
seen["bn1.x"] = net.linear(paddle.to_tensor(rows)).numpy()
seen["bn1.y"] = net.bn1(paddle.to_tensor(seen["bn1.x"])).numpy()
seen["layer.x"], seen["layer.y"] = seen["bn1.y"], net.layer(paddle.to_tensor(seen["bn1.y"])).numpy()
paddle.save(net.state_dict(), str(folder / "paddle.pdparams"))
paddle.save(net.state_dict(), str(folder / "paddle_2.pdparams"), protocol=2)
np.savez_compressed(folder / "paddle.outputs.npz", **seen)
