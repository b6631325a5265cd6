"""A program that prints digests of integers normalized and summed: run by test_integers_everywhere.py."""

import hashlib

import numpy as np

import fastbn

MEAN, STD = [1.1, 2.2, 3.3], [10, 20, 30.7]


def results():
    x = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3)).astype(np.uint8)
    for layout, axis in ((None, -1), ("channels_first", 1)):
        for data in (x, x.astype(np.int16), x.astype(np.float32) / 7, x.astype(np.float16)):
            for dtype in (np.float32, np.float16):
                y = fastbn.normalize(data, MEAN, STD, axis=-1, layout=layout, dtype=dtype)
                yield y
                yield fastbn.denormalize(y, MEAN, STD, axis=axis, dtype=np.uint8, layout="channels_last")
    b = np.random.default_rng(1).integers(0, 256, (30, 20, 20, 3)).astype(np.uint8)
    for data, axis in ((b, -1), (b.view(np.int8).reshape(1, 30, 1200), 1), (b.reshape(2, -1).astype(np.int16), 0)):
        yield from map(np.array, fastbn.Moments(axis).update(data).to_dict()["exact"].values())


if __name__ == "__main__":
    for value in results():
        print(value.dtype, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
