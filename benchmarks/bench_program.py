"""One call after other work, as in a program: a matrix product on all cores and a copy of 64 MB come before each.

Cells are those of ``fastbn bench --suite program``; times are of the call alone, and its result is a new array.
"""

import time
from statistics import median

import numpy as np

from .common import ready_calls

CASES = {
    "batch_norm (8, 512, 28, 28)": ("batch_norm", (8, 512, 28, 28), 1),
    "batch_norm (8, 28, 28, 512), channels last": ("batch_norm", (8, 28, 28, 512), -1),
    "batch_norm (16, 64, 56, 56)": ("batch_norm", (16, 64, 56, 56), 1),
    "group_norm (1, 320, 64, 64)": ("group_norm", (1, 320, 64, 64), 1),
    "instance_norm (8, 256, 64, 64)": ("instance_norm", (8, 256, 64, 64), 1),
    "layer_norm (1, 197, 768)": ("layer_norm", (1, 197, 768), -1),
    "layer_norm (16, 197, 768)": ("layer_norm", (16, 197, 768), -1),
    "rms_norm (1, 128, 4096)": ("rms_norm", (1, 128, 4096), -1),
}
CALLS = 25


class AfterOtherWork:
    params = (list(CASES),)
    param_names = ("case",)
    unit = "microseconds"

    def setup(self, case):
        self.forward, self.backward = ready_calls(*CASES[case])
        rng = np.random.default_rng(0)
        self.a, self.b = rng.standard_normal((2, 640, 640), dtype="float32")
        self.source = rng.random(8_000_000)
        self.target = np.empty_like(self.source)

    def track_forward(self, case):
        return self.after_work(self.forward)

    def track_backward(self, case):
        return self.after_work(self.backward)

    def after_work(self, call):
        seconds = []
        for _ in range(CALLS):
            self.a @ self.b
            np.copyto(self.target, self.source)
            start = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - start)
            del result
        return median(seconds) * 1e6
