"""Small calls, where what surrounds the arithmetic is most of the time."""

from functools import partial

import numpy as np

from .common import random_array

SMALL_CALLS = (
    "layer_norm (1, 768)",
    "layer_norm (2, 8)",
    "LayerNorm (1, 768)",
    "batch_norm, evaluation (1, 512, 7, 7)",
    "batch_norm, evaluation (8, 16, 8, 8)",
)


def small_call(name):
    import fastbn

    operation, shape = name.split(" (")
    x = random_array(tuple(map(int, shape.rstrip(")").split(", "))))
    if operation == "layer_norm":
        return partial(fastbn.layer_norm, x, x.shape[-1])
    if operation == "LayerNorm":
        return partial(fastbn.LayerNorm(x.shape[-1]).eval(), x)
    return partial(fastbn.batch_norm, x, np.zeros(x.shape[1], "float32"), np.ones(x.shape[1], "float32"))


class SmallCalls:
    params = (SMALL_CALLS,)
    param_names = ("call",)
    warmup_time = 0.1

    def setup(self, call):
        self.call = small_call(call)
        self.call()

    def time_call(self, call):
        self.call()
