"""The first result of a process that finds its kernels in the cache: nothing gets ready to compile for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import python

FIRST = """
import numpy as np
import fastbn
from numba import njit
from numba.core.runtime import rtsys

x = np.arange(48, dtype=np.float32).reshape(6, 8)
weight = np.linspace(1, 2, 8, dtype=np.float32)
y = fastbn.batch_norm(x, None, None, weight, weight, training=True)  # by a kernel that takes memory for its sums
ready = rtsys._init
"""

THEN = """
@njit
def doubled(a):
    b = np.empty_like(a)
    for k in range(a.size):
        b.flat[k] = 2 * a.flat[k]
    return b, [a.shape, b.shape]

b, shapes = doubled(y)
assert (b == 2 * y).all() and shapes == [y.shape, y.shape]
assert rtsys._init  # Numba's own part of it, whose absence nobody may notice
assert fastbn.batch_norm(x, None, None, weight, weight, training=True).tobytes() == y.tobytes()
assert fastbn.rms_norm(x, 8).shape == x.shape  # which has to be compiled
print(ready, y.tobytes().hex())
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache, and what the process told that found it empty and filled it."""
    cache = tmp_path_factory.mktemp("kernels")
    return cache, python(FIRST, THEN, NUMBA_CACHE_DIR=cache)[0].split()


def test_kernels_from_the_cache_need_no_compiler(filled):
    """Getting it ready takes 15 ms and 30 MB; a function of the user's that is compiled then finds all it needs."""
    cache, first = filled
    second = python(FIRST, THEN, NUMBA_CACHE_DIR=cache)[0].split()
    assert (first[0], second[0]) == ("True", "False")
    assert first[1] == second[1]


def test_memory_is_counted_where_numba_is_asked_to(filled):
    """NUMBA_NRT_STATS: what kernels take and give back shows, as it did before."""
    program = """
    a = rtsys.get_allocation_stats()
    fastbn.batch_norm(x, None, None, weight, weight, training=True)
    b = rtsys.get_allocation_stats()
    print(ready, b.alloc > a.alloc, b.alloc - a.alloc == b.free - a.free)
    """
    assert python(FIRST, program, NUMBA_CACHE_DIR=filled[0], NUMBA_NRT_STATS="1")[0].split() == ["True", "True", "True"]


@pytest.mark.full
def test_the_table_of_first_results(tmp_path):
    """What docs/edge.md shows: every way that is installed gives the same, and the columns are there."""
    script = Path(__file__).parents[2] / "benchmarks" / "first_result.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1]), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(script), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    for kind in ("NumPy's arrays alone", "fastbn, kernels in the cache", "fastbn, an empty cache"):
        assert f"| {kind} | " in done.stdout
