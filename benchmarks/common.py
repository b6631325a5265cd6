"""What the suites share: the cases, their calls made ready to time, and the streaming copy they are held against.

asv imports every suite in one process and forks each measurement from it: no kernel may run there, or its threads would
be missing in the forks, and fastbn itself is imported by ``setup``, in the fork.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np

NUM_GROUPS = 32

# name: (operation, shape, channel axis); about 25 MB each in float32, past the caches of most machines
CASES = {
    "batch_norm": ("batch_norm", (32, 64, 56, 56), 1),
    "batch_norm, channels last": ("batch_norm", (32, 56, 56, 64), -1),
    "group_norm": ("group_norm", (32, 64, 56, 56), 1),
    "group_norm, channels last": ("group_norm", (32, 56, 56, 64), -1),
    "instance_norm": ("instance_norm", (32, 64, 56, 56), 1),
    "instance_norm, channels last": ("instance_norm", (32, 56, 56, 64), -1),
    "layer_norm": ("layer_norm", (8192, 768), -1),
    "rms_norm": ("rms_norm", (8192, 768), -1),
}


def random_array(shape, dtype="float32", seed=0):
    """Values from 0 to 1, never all zero: the system keeps untouched zeros in one page, which reads too fast."""
    return np.random.default_rng(seed).random(shape, dtype=dtype)


def ready_calls(operation, shape, axis, dtype="float32", out=None):
    """Forward and backward of one operation as functions of no arguments, compiled by a first call."""
    import fastbn

    x, dy = random_array(shape, dtype), random_array(shape, dtype, seed=1)
    weight, bias = random_array(shape[axis], dtype, seed=2), random_array(shape[axis], dtype, seed=3)
    affine = (weight,) if operation == "rms_norm" else (weight, bias)
    extra = {"layer_norm": (shape[axis],), "rms_norm": (shape[axis],), "group_norm": (NUM_GROUPS,)}.get(operation, ())
    keywords = {"out": out} if operation in ("layer_norm", "rms_norm") else {"out": out, "axis": axis}

    forward = partial(getattr(fastbn, f"{operation}_forward"), x, *extra, *affine, **keywords)
    _, *statistics = forward()
    backward = partial(getattr(fastbn, f"{operation}_backward"), dy, x, *statistics, weight, **keywords)
    backward()
    return forward, backward


def streaming_copy(source, target):
    """Copy `source` to `target` with as many threads as Numba has; NumPy lets go of the GIL while it copies."""
    num_threads = numba.get_num_threads()
    pool = ThreadPoolExecutor(num_threads)
    sources, targets = (np.array_split(a.reshape(-1), num_threads) for a in (source, target))
    return lambda: list(pool.map(np.copyto, targets, sources))


def fraction_of_copy(call, copy, num_copies, rounds=15):
    """Time of `num_copies` copies over the time of `call`: medians of runs that alternate, so that noise hits both."""
    seconds = np.array([(_seconds(copy), _seconds(call)) for _ in range(rounds)])
    copy_seconds, call_seconds = np.median(seconds, axis=0)
    return num_copies * copy_seconds / call_seconds


def _seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
