"""fastbn, PyTorch and a streaming copy on 1, 2, 4, 8 and 16 threads, as far as the machine has them.

    python benchmarks/threads.py                                  # five minutes; prints a table in Markdown
    python benchmarks/threads.py --threads 1,2,4 --json threads.json
    python benchmarks/threads.py --page docs/speed.md             # writes it between the marks of that page

Needs NumPy and Numba, and compares with PyTorch where it is installed.  Contenders take turns, each being the first in
turn, after a rest in which the threads of the one before stop spinning; figures are medians of the rounds.
"""

import argparse
import json
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numba
import numpy as np

REST, WARM = 4e-3, 2e-2  # seconds before a turn, and of untimed calls in it
CELLS = {  # title: (operation, shape, axis)
    "batch norm, training, forward": ("batch_norm_forward", (32, 256, 56, 56), 1),
    "batch norm, training, forward, channels last": ("batch_norm_forward", (32, 56, 56, 256), -1),
    "batch norm, training, backward": ("batch_norm_backward", (32, 256, 56, 56), 1),
    "batch norm, inference": ("batch_norm", (32, 256, 56, 56), 1),
    "batch norm, inference, 6 MB": ("batch_norm", (8, 64, 56, 56), 1),
    "layer norm, forward": ("layer_norm", (16384, 1024), -1),
    "layer norm, backward": ("layer_norm_backward", (16384, 1024), -1),
    "layer norm, forward, 13 MB": ("layer_norm", (4096, 768), -1),
    "group norm, forward": ("group_norm", (32, 256, 56, 56), 1),
}
GROUPS = 32


def arrays(shape, axis):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
    weight, bias = (rng.standard_normal(shape[axis], np.float32) for _ in range(2))
    return x, dy, weight, bias


def call_of_fastbn(operation, x, dy, weight, bias, axis):
    import fastbn

    out, c = np.empty_like(x), x.shape[axis]
    if operation == "batch_norm_backward":
        _, mean, rstd = fastbn.batch_norm_forward(x, axis=axis)
        return partial(fastbn.batch_norm_backward, dy, x, mean, rstd, weight, axis=axis, out=out)
    if operation == "layer_norm_backward":
        _, mean, rstd = fastbn.layer_norm_forward(x, c)
        return partial(fastbn.layer_norm_backward, dy, x, mean, rstd, weight, out=out)
    if operation == "layer_norm":
        return partial(fastbn.layer_norm, x, c, weight, bias, out=out)
    if operation == "group_norm":
        return partial(fastbn.group_norm, x, GROUPS, weight, bias, axis=axis, out=out)
    if operation == "batch_norm":
        mean, var = np.zeros(c, np.float32), np.ones(c, np.float32)
        return partial(fastbn.batch_norm, x, mean, var, weight, bias, axis=axis, out=out)
    return partial(fastbn.batch_norm_forward, x, weight, bias, axis=axis, out=out)


def call_of_torch(operation, x, dy, weight, bias, axis):
    """By the operators that write into existing tensors, as fastbn does here."""
    import torch

    aten, eps, every = torch.ops.aten, 1e-5, [True, True, True]
    view = (lambda a: torch.from_numpy(a).movedim(axis, 1)) if x.ndim > 2 else torch.from_numpy
    x, dy, out, w, b = view(x), view(dy), view(np.empty_like(x)), torch.from_numpy(weight), torch.from_numpy(bias)
    saved = torch.empty_like(w), torch.empty_like(w)
    gradients = {"out0": out, "out1": saved[0], "out2": saved[1]}
    if operation == "batch_norm_backward":
        _, mean, rstd = torch.native_batch_norm(x, w, b, None, None, True, 0.1, eps)
        arguments = (dy, x, w, None, None, mean, rstd, True, eps, every)
        return partial(aten.native_batch_norm_backward.out, *arguments, **gradients)
    if operation == "layer_norm_backward":
        _, mean, rstd = torch.native_layer_norm(x, w.shape, w, b, eps)
        arguments = (dy, x, w.shape, mean, rstd, w, b, every)
        return partial(aten.native_layer_norm_backward.out, *arguments, **gradients)
    if operation == "layer_norm":
        rows = {name: torch.empty(x.shape[0], 1) for name in ("out1", "out2")}
        return partial(aten.native_layer_norm.out, x, w.shape, w, b, eps, out0=out, **rows)
    if operation == "group_norm":
        n, c = x.shape[:2]
        groups = {name: torch.empty(n, GROUPS) for name in ("out1", "out2")}
        arguments = (x, w, b, n, c, x[0, 0].numel(), GROUPS, eps)
        return partial(aten.native_group_norm.out, *arguments, out0=out, **groups)
    given = (torch.zeros_like(w), torch.ones_like(w), False) if operation == "batch_norm" else (None, None, True)
    return partial(torch.native_batch_norm, x, w, b, *given, 0.1, eps, out=(out, *saved))


def copy_of(x, threads):
    target, pool = np.empty_like(x), ThreadPoolExecutor(threads)
    pieces = [np.array_split(a.reshape(-1), threads) for a in (target, x)]
    return lambda: list(pool.map(np.copyto, *pieces))


def turn(call):
    time.sleep(REST)
    begin = time.perf_counter()
    call()
    while time.perf_counter() - begin < WARM:
        call()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(cell, counts, rounds):
    """Seconds by (contender, number of threads)."""
    import fastbn

    operation, shape, axis = CELLS[cell]
    made = arrays(shape, axis)
    ours = call_of_fastbn(operation, *made, axis)
    theirs = None
    if find_spec("torch"):
        import torch

        with torch.inference_mode():
            theirs = call_of_torch(operation, *made, axis)
    seconds = {}
    for threads in counts:
        calls = {"fastbn": ours, "copy": copy_of(made[0], threads)}
        if theirs:
            torch.set_num_threads(threads)
            calls["torch"] = partial(_inferring, theirs)
        taken = {name: [] for name in calls}
        with fastbn.num_threads(threads):
            for done in range(rounds):
                names = list(calls)
                first = done % len(names)
                for name in names[first:] + names[:first]:
                    taken[name].append(turn(calls[name]))
        seconds |= {(name, threads): median(values) for name, values in taken.items()}
    return seconds


def _inferring(call):
    import torch

    with torch.inference_mode():
        return call()


def lines(results, counts, where):
    """A table: fastbn's milliseconds, how many times as fast as on one thread, and as torch on as many."""
    yield f"| fastbn, ms | {' | '.join(f'{n} thread' + 's' * (n > 1) for n in counts)} |"
    yield f"| --- |{' --- |' * len(counts)}"
    for cell, seconds in results.items():
        row = []
        for n in counts:
            text = f"{seconds['fastbn', n] * 1e3:#.3g}".rstrip(".")
            if n > counts[0]:
                text += f", {seconds['fastbn', counts[0]] / seconds['fastbn', n]:.1f} x"
            if ("torch", n) in seconds:
                text += f" ({seconds['torch', n] / seconds['fastbn', n]:.1f} x torch)"
            row.append(text)
        yield f"| {cell} | {' | '.join(row)} |"
    first = next(iter(results.values()))
    copies = [f"{first['copy', n] * 1e3:#.3g}".rstrip(".") for n in counts]
    yield f"| a copy of the first one's x | {' | '.join(copies)} |"
    yield ""
    yield where


def where(counts):
    import fastbn
    from fastbn._config import cpu_name, usable_cores

    versions = f"fastbn {fastbn.__version__}, numpy {np.__version__}, numba {numba.__version__}"
    if find_spec("torch"):
        import torch

        versions += f", torch {torch.__version__}"
    one = "one thread" if counts[0] == 1 else f"{counts[0]} threads"
    return (
        f"After the milliseconds: how many times as fast as on {one}, and as PyTorch on as many. Everyone writes into "
        "an existing array, float32, of 67 to 103 MB where nothing else is said. Measured by `python "
        f"benchmarks/threads.py`, {time.strftime('%Y-%m-%d')}: {cpu_name()}, {usable_cores()} usable cores, "
        f"{platform.system()}, {versions}."
    )


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=numbers, default=[1, 2, 4, 8, 16], help="numbers of threads (1,2,4,8,16)")
    parser.add_argument("--rounds", type=int, default=9, help="(%(default)s)")
    parser.add_argument("--only", default="", help="only cells whose title has this text")
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    parser.add_argument("--page", type=Path, help="write the table between the marks of this page")
    args = parser.parse_args()
    most = numba.config.NUMBA_NUM_THREADS
    counts = [n for n in args.threads if n <= most]
    if not counts:
        parser.error(f"--threads: Numba has at most {most} here")
    results = {}
    for cell in CELLS:
        if args.only in cell:
            print(f"{len(results) + 1}: {cell}", flush=True)
            results[cell] = measure(cell, counts, args.rounds)
    text = "\n".join(lines(results, counts, where(counts)))
    print(text)
    if most < max(args.threads):
        print(f"Measured up to {counts[-1]} threads, which is what this machine has.")
    if args.json:
        rows = [
            {"cell": c, "contender": k[0], "threads": k[1], "seconds": s}
            for c in results
            for k, s in results[c].items()
        ]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.page:
        from render_table import insert

        args.page.write_text(insert(args.page.read_text(encoding="utf-8"), text, "threads"), encoding="utf-8")


if __name__ == "__main__":
    main()
