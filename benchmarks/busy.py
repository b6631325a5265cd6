"""How calls slow down when other processes keep every core busy.

    python benchmarks/busy.py             # fastbn, and PyTorch where it is installed

One spinning process a core.  Quiet and busy spells take turns; medians and 99th percentiles of all calls of a kind.
"""

import argparse
import multiprocessing
import time
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import numpy as np

import fastbn

SHAPES = {  # from a few microseconds to tens of milliseconds
    "1x64x7x7": (1, 64, 7, 7),
    "8x64x14x14": (8, 64, 14, 14),
    "1x64x112x112": (1, 64, 112, 112),
    "8x64x56x56": (8, 64, 56, 56),
    "32x64x56x56": (32, 64, 56, 56),
    "32x256x56x56": (32, 256, 56, 56),
    "64x256x64x64": (64, 256, 64, 64),
}
CLASSES = {"up to 200 us": (0, 200), "200 us to 10 ms": (200, 1e4), "over 10 ms": (1e4, np.inf)}  # of a call when quiet


def spin(stop):
    while not stop.is_set():
        for _ in range(100_000):
            pass


@contextmanager
def busy_cores(count):
    context = multiprocessing.get_context("spawn")  # a fork would have none of the threads
    stop = context.Event()
    spinners = [context.Process(target=spin, args=(stop,), daemon=True) for _ in range(count)]
    for spinner in spinners:
        spinner.start()
    time.sleep(1.0)  # until they spin
    try:
        yield
    finally:
        stop.set()
        for spinner in spinners:
            spinner.join()


def calls(shape):
    """The contenders' calls, each into an array of its own that it writes again and again."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    weight, bias, out = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32), np.empty_like(x)
    contenders = {"fastbn": partial(fastbn.batch_norm_forward, x, weight, bias, out=out)}
    if find_spec("torch"):
        import torch

        torch_x, torch_weight, torch_bias = (torch.from_numpy(a) for a in (x, weight, bias))
        contenders["torch"] = partial(
            torch.nn.functional.batch_norm, torch_x, None, None, torch_weight, torch_bias, training=True
        )
    return contenders


def times(call, seconds):
    """Of calls one after the other, in seconds."""
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="quiet and busy spells (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each call in each spell (%(default)s)")
    args = parser.parse_args()
    count = multiprocessing.cpu_count()
    contenders = {name: calls(shape) for name, shape in SHAPES.items()}
    for group in contenders.values():
        for call in group.values():
            times(call, 0.3)  # compiles, and finds out whether threads help
    taken = {(shape, name, spell): [] for shape, group in contenders.items() for name in group for spell in (0, 1)}

    def spell(kind):
        for shape, group in contenders.items():
            for name, call in group.items():
                taken[shape, name, kind] += times(call, args.seconds)

    for _ in range(args.rounds):
        spell(0)
        with busy_cores(count):
            spell(1)
    print(f"batch norm forward, float32, microseconds; {count} spinning processes when busy")
    print(f"{'':14}{'':8}{'quiet':>10}{'p99':>10}{'busy':>10}{'p99':>10}{'busy/quiet':>12}")
    slowdowns = {}
    for shape, group in contenders.items():
        for name in group:
            quiet, busy = (np.array(taken[shape, name, kind]) * 1e6 for kind in (0, 1))
            cells = [f(a) for a in (quiet, busy) for f in (np.median, lambda a: np.percentile(a, 99))]
            numbers = "".join(f"{cell:10.1f}" for cell in cells)
            print(f"{shape:14}{name:8}{numbers}{cells[2] / cells[0]:12.1f}")
            slowdowns.setdefault(name, []).append((cells[0], cells[2] / cells[0]))
    print("\nbusy/quiet by the time that a call takes when quiet")
    for title, (least, most) in CLASSES.items():
        for name, pairs in slowdowns.items():
            ratios = sorted(ratio for quiet, ratio in pairs if least < quiet <= most)
            print(f"{title:18}{name:8}" + "".join(f"{ratio:8.1f}" for ratio in ratios))


if __name__ == "__main__":
    main()
