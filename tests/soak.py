"""Random calls against the definitions for as long as is wanted; memory must be flat at the end.

python tests/soak.py --seconds 600
"""

import argparse
import ctypes
import gc
import platform
import resource
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np

import fastbn
from fastbn import _runtime, reference

OPERATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
TOLERANCES = {  # some roundings of the dtype
    np.dtype(ml_dtypes.bfloat16): 1.6e-2,
    np.dtype(np.float16): 2e-3,
    np.dtype(np.float32): 2e-5,
    np.dtype(np.float64): 1e-11,
}
ALLOWED_GROWTH = 16 << 20  # bytes, over the second half: the allocator's own unrest is some MB
PAUSES = 10


def some_array(rng, shape, dtype, mean=0.0):
    """Unit spread about the mean, in some memory order, with some steps."""
    order = rng.permutation(len(shape)) if rng.random() < 0.5 else np.arange(len(shape))
    steps = [int(rng.choice((1, 1, 1, 2, -1))) for _ in shape]
    memory = np.empty([shape[a] * abs(steps[a]) for a in order], dtype)
    view = memory[tuple(slice(None, None, steps[a]) for a in order)].transpose(np.argsort(order))
    view[...] = rng.standard_normal(shape) + mean
    return view


def some_call(rng):
    """An operation both ways on some array: what it was, and its error as a share of what is allowed."""
    op = str(rng.choice(OPERATIONS))
    rank = int(rng.integers(3 if op == "instance_norm" else 2, 6))  # which wants more than one element a channel
    most = 12 if rng.random() < 0.9 else 20  # of bits of the size
    shape = tuple(max(2, int(2**bits)) for bits in rng.dirichlet(np.ones(rank)) * rng.uniform(2, most))
    dtype = list(TOLERANCES)[rng.integers(len(TOLERANCES))]
    x = some_array(rng, shape, dtype, mean=rng.choice((0.0, 0.0, 3.0)))
    dy = some_array(rng, shape, dtype)  # about 0, or the sums of many would be too large for float16
    if op in ("layer_norm", "rms_norm"):
        args, keywords = (shape[int(rng.integers(1, rank)) :],), {}
        parameters = args[0]
    else:
        axis = int(rng.integers(1, rank))
        divisors = [g for g in range(1, shape[axis] + 1) if shape[axis] % g == 0]
        args = (int(rng.choice(divisors)),) if op == "group_norm" else ()
        keywords, parameters = {"axis": axis}, (shape[axis],)
    affine = [rng.uniform(0.5, 1.5, parameters).astype(dtype) for _ in range(1 if op == "rms_norm" else 2)]
    if rng.random() < 0.2:
        affine = [None]
    threads = int(rng.integers(1, fastbn.get_num_threads() + 1))

    def both(library, **out):
        y, *statistics = getattr(library, f"{op}_forward")(x, *args, *affine, **keywords, **out)
        gradients = getattr(library, f"{op}_backward")(dy, x, *statistics, affine[0], **keywords)
        return (y, *gradients), statistics[-1]

    with fastbn.num_threads(threads):
        actual, _ = both(fastbn, **({"out": some_array(rng, shape, dtype)} if rng.random() < 0.3 else {}))
    expected, rstd = both(reference)
    terms = np.sqrt(x.size / np.prod(parameters))
    scales = (1.0, rstd.max(), terms, terms)  # of the terms, which may cancel in the result
    errors = [
        np.abs(a.astype(np.float64) - b).max() / max(scale, np.abs(b).max()) / TOLERANCES[dtype]
        for a, b, scale in zip(actual, expected, scales, strict=False)
    ]
    worst = float(np.max(errors))  # NaN if any is
    if not worst <= 1:
        raise AssertionError(f"{op} {shape} {dtype} {args} {keywords}: {worst:.3g} times the error that is allowed")
    return (op, str(dtype), f"{threads} of the threads"), worst


def wrong_call(rng):
    """A call that must be refused."""
    x = np.ones((2, 4, 3), np.float32)
    wrong = (
        lambda: fastbn.batch_norm(x.astype(int), training=True),
        lambda: fastbn.layer_norm(x, 4),
        lambda: fastbn.group_norm(x, 3),
        lambda: fastbn.instance_norm(x, axis=7),
        lambda: fastbn.rms_norm(x, 3, weight=np.ones(2)),
        lambda: fastbn.batch_norm_forward(x, eps=-1.0),
        lambda: fastbn.layer_norm(x, 3, out=x[:1]),
    )
    try:
        wrong[rng.integers(len(wrong))]()
    except (TypeError, ValueError):
        return
    raise AssertionError("a wrong call was not refused")


def memory():
    """Bytes that the process holds now, what its allocator keeps for later given back where it can."""
    gc.collect()
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Soak:
    """Random calls on several threads, the main one among them: what was called, and how it went.

    It pauses after each tenth of its time, for memory is compared where no call holds any.
    """

    def __init__(self, seconds, seed=0, threads=3):
        self.failures, self.worst = [], [0.0] * threads
        self.calls = [Counter() for _ in range(threads)]  # one a thread, so that none waits for another
        self.memory = []
        streams = [np.random.default_rng((seed, number)) for number in range(threads)]
        start = time.monotonic()
        for tenth in range(1, PAUSES + 1):
            self.until = start + seconds * tenth / PAUSES
            workers = [threading.Thread(target=self._work, args=(n, streams[n])) for n in range(1, threads)]
            for thread in workers:
                thread.start()
            self._work(0, streams[0])
            for thread in workers:
                thread.join()
            if self.failures:
                raise self.failures[0]
            self.memory.append(memory())
            print(f"{time.monotonic() - start:5.0f} s: {self}, {self.memory[-1] / 2**20:.0f} MB", flush=True)
        self.growth = self.memory[-1] - self.memory[PAUSES // 2 - 1]

    def _work(self, number, rng):
        calls = self.calls[number]
        try:
            while time.monotonic() < self.until and not self.failures:
                kinds, error = some_call(rng)
                calls.update((*kinds, "calls"))
                self.worst[number] = max(self.worst[number], error)
                if rng.random() < 0.1:
                    wrong_call(rng)
                    calls["wrong ones, refused"] += 1
        except BaseException as error:
            self.failures.append(error)

    def counts(self):
        return sum(self.calls, Counter())

    def __str__(self):
        return f"{self.counts()['calls']} calls, worst error {max(self.worst):.2f} of what is allowed"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    _runtime.SERIAL_BYTES = 1 << 14  # so that arrays too small to need threads get them, and calls are quick
    done = fastbn.warmup(dtypes=map(str, TOLERANCES))  # a kernel that is compiled stays in memory
    print(f"{done.compiled} kernels compiled, {done.found} found, in {done.seconds:.0f} s", flush=True)
    soak = Soak(args.seconds, args.seed)
    for kind, count in sorted(soak.counts().items()):
        print(f"{count:8} {kind}")
    print(f"{soak}; memory {soak.growth / 2**20:+.1f} MB over the second half")
    return soak.growth > ALLOWED_GROWTH


if __name__ == "__main__":
    sys.exit(main())
