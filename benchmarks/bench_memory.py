"""Peak memory of a process that calls one operation: its arrays, the library, and whatever scratch the call takes."""

from .common import CASES, ready_calls


class PeakMemory:
    params = (list(CASES),)
    param_names = ("case",)

    def setup(self, case):
        self.forward, self.backward = ready_calls(*CASES[case])

    def peakmem_forward_and_backward(self, case):
        self.forward()
        self.backward()
