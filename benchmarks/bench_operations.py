"""Time of every operation, forward and backward, in both memory orders and both dtypes, each call making its result."""

from .common import CASES, ready_calls


class Operations:
    params = (list(CASES), ["float32", "float64"])
    param_names = ("case", "dtype")
    warmup_time = 0.1

    def setup(self, case, dtype):
        self.forward, self.backward = ready_calls(*CASES[case], dtype)

    def time_forward(self, case, dtype):
        self.forward()

    def time_backward(self, case, dtype):
        self.backward()
