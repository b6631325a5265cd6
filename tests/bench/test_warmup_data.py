"""A warm-up of what is done with data before a network sees it names the kernels of such calls; nothing is compiled."""

import pytest
from processes import python

CALLS = """
import numpy as np

import fastbn
from fastbn import _warmup
from fastbn.engine import pace

one = np.ones(3)


def calls(x, axis):
    wide = x.astype(np.float32)
    if op == "moments":
        fastbn.Moments(axis).update(x)
        fastbn.Moments(axis).update(wide)
        return
    for layout in (None, "channels_first", "channels_last"):
        if op == "normalize":
            fastbn.normalize(x, one, one, axis=axis, layout=layout)
            fastbn.normalize(wide, one, one, axis=axis, layout=layout)
        else:
            fastbn.denormalize(wide, one, one, axis=axis, layout=layout)
            fastbn.denormalize(wide, one, one, axis=axis, layout=layout, dtype=np.uint8)


def asked_for(work):
    pace.clear_paces()
    with _warmup._asked_for() as kernels:
        work()
    return {(id(build), types): build.py_func.__qualname__ for build, types in kernels}


def later():
    for n, h, w in ((2, 9, 11), (3, 70, 80), (9, 250, 260)):
        last = np.ones((n, h, w, 3), np.uint8)
        for _ in range(12):  # the first alone, four serial ones and a parallel one, to find out which is faster
            calls(last, -1)
            calls(np.ascontiguousarray(last.transpose(0, 3, 1, 2)), 1)


def warm():
    for name, dtype, layout in _warmup._steps([op], ["float32"], None):
        for x, axis in _warmup._inputs(name, dtype, layout):
            _warmup._ask(name, x, axis, True, None, False, False)


named, needed = asked_for(warm), asked_for(later)
assert len({*needed.values()}) < len(needed)  # serial and parallel
assert needed.keys() <= named.keys(), [name for key, name in needed.items() if key not in named]
"""


@pytest.mark.parametrize("op", ["normalize", "denormalize", "moments"])
def test_warmup_names_the_kernels_of_later_calls(op, tmp_path):
    python(f"op = {op!r}", CALLS, NUMBA_CACHE_DIR=tmp_path)
