"""Random calls against the definitions for as long as is wanted; memory must be flat at the end.

python tests/soak.py --seconds 600
"""

import argparse
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np

import fastbn
from fastbn import reference

OPERATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
TOLERANCES = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-11}
ALLOWED_GROWTH = 32 << 20  # bytes, over the second half: the allocator's own unrest is some MB


def some_array(rng, shape, dtype):
    """Unit spread about some mean, in some memory order, with some steps."""
    order = rng.permutation(len(shape)) if rng.random() < 0.5 else np.arange(len(shape))
    steps = [int(rng.choice((1, 1, 1, 2, -1))) for _ in shape]
    memory = np.empty([shape[a] * abs(steps[a]) for a in order], dtype)
    view = memory[tuple(slice(None, None, steps[a]) for a in order)].transpose(np.argsort(order))
    view[...] = rng.standard_normal(shape) + rng.choice((0.0, 0.0, 3.0))
    return view


def some_call(rng):
    """An operation both ways on some array, and how far it is off beyond what is allowed (1: all of that)."""
    op = str(rng.choice(OPERATIONS))
    most = 6.0 if rng.random() < 0.9 else 13.0  # so that some calls are large enough for all threads
    rank = int(rng.integers(3 if op == "instance_norm" else 2, 6))  # which wants more than one element a channel
    shape = tuple(max(2, int(2 ** rng.uniform(0, 2 * most / rank))) for _ in range(rank))
    dtype = list(TOLERANCES)[rng.integers(3)]
    x, dy = some_array(rng, shape, dtype), some_array(rng, shape, dtype)
    if op in ("layer_norm", "rms_norm"):
        args, keywords, parameters = (shape[int(rng.integers(1, rank)) :],), {}, None
    else:
        axis = int(rng.integers(1, rank))
        divisors = [g for g in range(1, shape[axis] + 1) if shape[axis] % g == 0]
        args = (int(rng.choice(divisors)),) if op == "group_norm" else ()
        keywords, parameters = {"axis": axis}, (shape[axis],)
    parameters = parameters or args[0]
    weight = rng.uniform(0.5, 1.5, parameters).astype(dtype) if rng.random() < 0.8 else None

    def both(library):
        y, *statistics = getattr(library, f"{op}_forward")(x, *args, weight, **keywords)
        gradients = getattr(library, f"{op}_backward")(dy, x, *statistics, weight, **keywords)
        return (y, *gradients), statistics[-1]

    with fastbn.num_threads(int(rng.integers(1, fastbn.get_num_threads() + 1))):
        actual, _ = both(fastbn)
    expected, rstd = both(reference)
    tolerance = TOLERANCES[dtype]
    worst = 0.0
    terms = np.sqrt(x.size / np.prod(parameters))
    scales = (1.0, rstd.max(), terms, terms)  # of the terms, which may cancel in the result
    for a, b, scale in zip(actual, expected, scales, strict=False):
        scale = max(float(scale), float(np.abs(b).max()))
        worst = max(worst, float(np.abs(a.astype(np.float64) - b).max()) / scale / tolerance)
    return f"{op} {shape} {dtype} {args} {keywords}", worst


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
    """Bytes that the process holds now."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def soak(seconds, seed=0, threads=3):
    """Random calls on several threads; the number of calls, the worst error, and the growth over the second half."""
    start, failures, counts, worst = time.monotonic(), [], [0] * threads, [0.0] * threads

    def work(number):
        rng = np.random.default_rng((seed, number))
        try:
            while time.monotonic() < start + seconds and not failures:
                told, error = some_call(rng)
                if not error <= 1:
                    raise AssertionError(f"{told}: {error:.3g} times the error that is allowed")
                worst[number] = max(worst[number], error)
                if rng.random() < 0.1:
                    wrong_call(rng)
                counts[number] += 1
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    half = []
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.2)
        if time.monotonic() > start + seconds / 2:
            half.append(memory())
    if failures:
        raise failures[0]
    tenth = max(1, len(half) // 10)  # what calls hold for a moment comes and goes: the least is what stays
    return sum(counts), max(worst), min(half[-tenth:]) - min(half[:tenth])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    calls, worst, growth = soak(args.seconds, args.seed)
    print(f"{calls} calls, worst error {worst:.2f} of what is allowed, memory {growth / 2**20:+.1f} MB")
    return growth > ALLOWED_GROWTH


if __name__ == "__main__":
    sys.exit(main())
