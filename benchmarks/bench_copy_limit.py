"""How near each operation comes to the time of streaming its bytes.

Forward reads x and writes y: one copy.  Backward reads x and dy and writes dx: one copy and a half.
"""

import numpy as np

from .common import CASES, fraction_of_copy, random_array, ready_calls, streaming_copy


class CopyLimit:
    params = (list(CASES),)
    param_names = ("case",)
    unit = "fraction of the copy's speed"

    def setup(self, case):
        operation, (n, *rest), axis = CASES[case]
        shape = (2 * n, *rest)  # about 50 MB: more than caches hold
        x, out = random_array(shape), np.empty(shape, "float32")
        self.copy = streaming_copy(x, out)
        self.forward, self.backward = ready_calls(operation, shape, axis, out=out)

    def track_forward(self, case):
        return fraction_of_copy(self.forward, self.copy, num_copies=1)

    def track_backward(self, case):
        return fraction_of_copy(self.backward, self.copy, num_copies=1.5)
