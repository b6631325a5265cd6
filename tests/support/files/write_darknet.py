"""Writes a network in Darknet's layout, with what OpenCV computes from it.

Run with opencv-python-headless 4 (5 does not read Darknet any more): python write_darknet.py FOLDER
"""

import sys
from pathlib import Path

import cv2
import numpy as np

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
(folder / "darknet.cfg").write_text("""# two convolutions, one of them with batch norm
[net]
width=6
height=6
channels=3

[convolutional]
batch_normalize=1
filters=4
size=3
stride=1
pad=1
activation=linear

[maxpool]
size=2
stride=2

[convolutional]
filters=2
size=1
stride=1
activation=linear
""")
numbers = [
    rng.normal(size=4),  # biases
    rng.uniform(0.5, 2, 4),  # scales
    rng.normal(size=4),  # rolling_mean
    rng.uniform(0.5, 2, 4),  # rolling_variance
    rng.normal(size=(4, 3, 3, 3)),
    rng.normal(size=2),
    rng.normal(size=(2, 4, 1, 1)),
]
header = np.array([0, 2, 0], np.int32).tobytes() + np.array([32013312], np.int64).tobytes()
(folder / "darknet.weights").write_bytes(header + b"".join(value.astype(np.float32).tobytes() for value in numbers))

net = cv2.dnn.readNetFromDarknet(str(folder / "darknet.cfg"), str(folder / "darknet.weights"))
x = rng.normal(1, 2, (1, 3, 6, 6)).astype(np.float32)
net.enableFusion(False)
net.setInput(x)
names = net.getLayerNames()
y = net.forward(next(name for name in names if name.startswith("bn")))
conv = net.forward(next(name for name in names if name.startswith("conv")))
last = net.forward()
np.savez_compressed(folder / "darknet.outputs.npz", **{"image": x, "bn.x": conv, "bn.y": y, "last": last})
print(cv2.__version__, names)
