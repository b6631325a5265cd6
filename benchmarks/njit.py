"""Operations called inside a user's own compiled function, beside calls from Python.

    python benchmarks/njit.py                      # a minute, most of it for the compiler
    python benchmarks/njit.py --against ../before  # the Python call of the fastbn in that folder

Needs NumPy and Numba.  Contenders take turns; figures are minima of the rounds.
"""

import argparse
import os
import subprocess
import sys
import time

import numba
import numpy as np

import fastbn

ROUNDS, CALLS = 40, 2000
WINDOWS, LENGTH = 100_000, 64

OF_ANOTHER = """
import time, numpy as np, fastbn
rng = np.random.default_rng(0)
x, (w, b) = rng.standard_normal((1, 768), np.float32), rng.standard_normal((2, 768), np.float32)
best = 1.0
for _ in range({rounds}):
    start = time.perf_counter()
    for _ in range({calls}):
        fastbn.layer_norm(x, 768, w, b)
    best = min(best, (time.perf_counter() - start) / {calls})
print(best)
"""


@numba.njit
def many_rows(x, w, b, calls):
    total = 0.0
    for _ in range(calls):
        total += fastbn.layer_norm(x, 768, w, b)[0, 0]
    return total


@numba.njit
def many_rows_into(x, w, b, y, calls):
    for _ in range(calls):
        fastbn.layer_norm(x, 768, w, b, out=y)


@numba.njit(parallel=True)
def windows(x, w, b, y):
    for i in numba.prange(len(x)):
        fastbn.layer_norm(x[i], LENGTH, w, b, out=y[i])


def minima(contenders, rounds):
    """The shortest time of each, in seconds; they take turns."""
    best = [float("inf")] * len(contenders)
    for contender in contenders:
        contender()
    for _ in range(rounds):
        for k, contender in enumerate(contenders):
            start = time.perf_counter()
            contender()
            best[k] = min(best[k], time.perf_counter() - start)
    return best


def of_another(folder):
    code = OF_ANOTHER.format(rounds=ROUNDS, calls=CALLS)
    environment = os.environ | {"PYTHONPATH": folder}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="FOLDER", help="whose fastbn's Python call is taken instead")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x, (w, b) = rng.standard_normal((1, 768), np.float32), rng.standard_normal((2, 768), np.float32)
    y = np.empty_like(x)

    def python():
        for _ in range(CALLS):
            fastbn.layer_norm(x, 768, w, b)

    inside, into, outside = minima(
        [lambda: many_rows(x, w, b, CALLS), lambda: many_rows_into(x, w, b, y, CALLS), python], ROUNDS
    )
    inside, into, outside = inside / CALLS, into / CALLS, outside / CALLS
    if arguments.against:
        outside = of_another(arguments.against)
    print(f"layer norm of (1, 768): {inside * 1e6:.3f} us inside njit, {into * 1e6:.3f} us with out=", end="")
    print(f", {outside * 1e6:.3f} us from Python: {outside / inside:.1f} and {outside / into:.1f} times as fast")

    stack, (w, b) = rng.standard_normal((WINDOWS, LENGTH), np.float32), rng.standard_normal((2, LENGTH), np.float32)
    first, second = np.empty_like(stack), np.empty_like(stack)
    own, whole = minima(
        [lambda: windows(stack, w, b, first), lambda: fastbn.layer_norm(stack, LENGTH, w, b, out=second)], ROUNDS
    )
    assert first.tobytes() == second.tobytes()
    print(f"{WINDOWS:,} windows of {LENGTH}: {own * 1e3:.2f} ms in a prange, ", end="")
    print(f"{whole * 1e3:.2f} ms in one call: {own / whole:.2f} times its time")


if __name__ == "__main__":
    main()
