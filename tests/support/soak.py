"""Random calls against the definitions for as long as is wanted; memory must be flat at the end.

python tests/support/soak.py --seconds 600
"""

import argparse
import ctypes
import gc
import sys
import threading
import time
import warnings
from collections import Counter

import draws
import ml_dtypes
import numpy as np
import remembered
from internals import memory, pace, views

import fastbn
from fastbn import reference

OPERATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
LAYOUTS = ("channels_first", "channels_last")  # layer norm over an axis before others, too
TOLERANCES = {  # some roundings of the dtype
    np.dtype(ml_dtypes.bfloat16): 1.6e-2,
    np.dtype(np.float16): 2e-3,
    np.dtype(np.float32): 2e-5,
    np.dtype(np.float64): 1e-11,
}
DTYPES = tuple(TOLERANCES)
MOST_GROWTH = 0.5, 75  # objects of Python's and bytes of C's, a call; its allocator keeps some for each thread
TENTHS = 10


def some_array(rng, shape, dtype, mean=0.0):
    """Unit spread about the mean, in some memory order, with some steps."""
    order = rng.permutation(len(shape)) if rng.random() < 0.5 else np.arange(len(shape))
    steps = [int(rng.choice((1, 1, 1, 2, -1))) for _ in shape]
    memory = np.empty([shape[a] * abs(steps[a]) for a in order], dtype)
    view = memory[tuple(slice(None, None, steps[a]) for a in order)].transpose(np.argsort(order))
    view[...] = rng.standard_normal(shape) + mean
    return view


# One kind of call beside the plain ones, for these alone: every other has dozens of kernels of its own.
ACTIVATION, COMBINED = "silu", ("batch_norm", "layer_norm")
COMBINED_DTYPE = np.dtype(np.float32)


def some_more(rng, op, x, least):
    """Activation, residual and mask of a call, which leaves something of groups that have `least` elements."""
    more = {"activation": ACTIVATION, "where": rng.random(x.shape) < (0.8 if least >= 32 else 1.0)}
    if op == "batch_norm":
        more["residual"] = some_array(rng, x.shape, x.dtype)
    return more


def some_call(rng, dtypes):
    """An operation both ways on some array: what it was, and its error as a share of what is allowed."""
    op = str(rng.choice(OPERATIONS))
    rank = int(rng.integers(3 if op == "instance_norm" else 2, 6))  # which wants more than one element a channel
    most = 12 if rng.random() < 0.9 else 20  # of bits of the size
    shape = tuple(max(2, int(2**bits)) for bits in rng.dirichlet(np.ones(rank)) * rng.uniform(2, most))
    dtype = dtypes[rng.integers(len(dtypes))]
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
    more = {}
    if op in COMBINED and dtype == COMBINED_DTYPE and rng.random() < 0.7:
        least = np.prod(parameters) if op == "layer_norm" else x.size // parameters[0]
        more = some_more(rng, op, x, least)
    threads = int(rng.integers(1, fastbn.get_num_threads() + 1))

    def both(library, **out):
        weights = dict(zip(("weight", "bias"), affine, strict=False))
        y, *statistics = getattr(library, f"{op}_forward")(x, *args, **weights, **keywords, **more, **out)
        back = weights if more else {"weight": affine[0]}
        gradients = getattr(library, f"{op}_backward")(dy, x, *statistics, **back, **keywords, **more)
        return (y, *gradients), statistics[-1]

    with fastbn.num_threads(threads):
        actual, _ = both(fastbn, **({"out": some_array(rng, shape, dtype)} if rng.random() < 0.3 else {}))
    expected, rstd = both(reference)
    terms = np.sqrt(x.size / np.prod(parameters))
    scales = (1.0, rstd.max(), terms, terms, 1.0)  # of the terms, which may cancel in the result
    errors = [
        np.abs(a.astype(np.float64) - b).max() / max(scale, np.abs(b).max()) / TOLERANCES[dtype]
        for a, b, scale in zip(actual, expected, scales, strict=False)
    ]
    worst = float(np.max(errors))  # NaN if any is
    if not worst <= 1:
        told = f"{op} {shape} {dtype} {args} {keywords} {list(more)}"
        raise AssertionError(f"{told}: {worst:.3g} times the error that is allowed")
    return (op, str(dtype), f"{threads} of the threads", *more), worst


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


def compile_all(dtypes):
    """What the calls will need."""
    kinds = [{"dtypes": list(map(str, dtypes)), "layouts": LAYOUTS}]
    if COMBINED_DTYPE in dtypes:
        more = {"activation": ACTIVATION, "residual": True, "where": True}
        kinds.append({"ops": COMBINED, "dtypes": [str(COMBINED_DTYPE)], "layouts": LAYOUTS, **more})
    for kind in kinds:
        done = fastbn.warmup(**kind)
        print(f"{done.compiled} kernels compiled, {done.found} found, in {done.seconds:.0f} s", flush=True)


class _MallocInfo(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]  # as ctypes wants it


def held():
    """What is in use once nothing is called: objects of Python's, and bytes of C's (0 where nobody tells).

    What the allocators keep for later says nothing of leaks, and how much it is depends on the machine.
    """
    pace.clear_paces()  # what fastbn remembers of calls has bounds, see test_runtime, but takes long to get there
    remembered.forget()
    for view_of in (views.batch_view, views.group_view, views.layer_view):
        view_of.cache_clear()
    gc.collect()
    memory.let_go()  # as it does by itself after some seconds
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, TypeError):
        return np.array([sys.getallocatedblocks(), 0])
    mallinfo.restype = _MallocInfo
    told = mallinfo()
    return np.array([sys.getallocatedblocks(), told.uordblks + told.hblkhd])


class Soak:
    """Random calls on several threads, the main one among them: what was called, and how it went.

    It pauses after each tenth of its time, to see what is held where nothing is called.  `growth` is that of the
    objects and of the bytes held, a call: the median of the slopes between any two pauses of the second half, for until
    then allocators fill the stores they keep for sizes that come again, and what is held at one pause has chance in it.
    """

    def __init__(self, seconds, dtypes=DTYPES, seed=None, threads=3):
        seed = (draws.seed or 0) if seed is None else seed
        self.dtypes = dtypes
        self.failures, self.worst = [], [0.0] * threads
        self.calls = [Counter() for _ in range(threads)]  # one a thread, so that none waits for another
        streams = [np.random.default_rng((seed, number)) for number in range(threads)]
        seen = []
        start = time.monotonic()
        for _ in range(TENTHS):
            self.until = time.monotonic() + seconds / TENTHS
            workers = [threading.Thread(target=self._work, args=(n, streams[n])) for n in range(1, threads)]
            for thread in workers:
                thread.start()
            self._work(0, streams[0])
            for thread in workers:
                thread.join()
            if self.failures:
                raise self.failures[0]
            seen.append((self.counts()["calls"], *held()))
            _, objects, held_bytes = seen[-1]
            told = f"{self}; {objects} objects, {held_bytes / 2**20:.2f} MB"
            print(f"{time.monotonic() - start:5.0f} s: {told}", flush=True)
        seen = np.array(seen[TENTHS // 2 - 1 :])
        earlier, later = np.triu_indices(len(seen), 1)
        calls, *both = (seen[later] - seen[earlier]).T
        self.growth = np.median(both / np.maximum(calls, 1), axis=1)

    def _work(self, number, rng):
        calls = self.calls[number]
        try:
            while time.monotonic() < self.until and not self.failures:
                kinds, error = some_call(rng, self.dtypes)
                calls.update((*kinds, "calls"))
                self.worst[number] = max(self.worst[number], error)
                if rng.random() < 0.1:
                    wrong_call(rng)
                    calls["wrong ones, refused"] += 1
        except BaseException as error:
            self.failures.append(error)

    @property
    def leaks(self):
        return bool((self.growth > MOST_GROWTH).any())

    def counts(self):
        return sum(self.calls, Counter())

    def __str__(self):
        return f"{self.counts()['calls']} calls, worst error {max(self.worst):.2f} of what is allowed"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--dtypes", nargs="+", default=list(map(str, DTYPES)), choices=list(map(str, DTYPES)))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dtypes = [dtype for dtype in DTYPES if str(dtype) in args.dtypes]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_all(dtypes)  # now: a kernel stays in memory
    # so that arrays too small to need threads get them, whatever helps, and calls are quick
    pace.SERIAL_BYTES = pace.TEAM_BYTES = 1 << 14
    soak = Soak(args.seconds, dtypes, args.seed)
    for kind, count in sorted(soak.counts().items()):
        print(f"{count:8} {kind}")
    objects, held_bytes = soak.growth
    print(f"{soak}; {objects:+.2f} objects and {held_bytes:+.1f} bytes of memory a call")
    return soak.leaks


if __name__ == "__main__":
    sys.exit(main())
