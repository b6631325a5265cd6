"""Many Python threads that call at once, as a service's do: throughput, waiting times, fairness.

    python benchmarks/service.py                 # 1, 2, 8 and 32 threads; beside PyTorch where it is installed
    python benchmarks/service.py --threads 1,8 --seconds 0.5 --json service.json

Every thread calls in a loop, and one more does nothing but sleep for a millisecond at a time.  Contenders take turns,
each being the first in turn, with a rest between them.  A figure is the median of the rounds; waiting times are
those of all calls of a round.
"""

import argparse
import json
import threading
import time
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from statistics import median

import numpy as np

REST = 0.05  # seconds between contenders, so that no one's threads still spin while another is measured
SLEEP = 1e-3
WORK = {"batch norm, evaluation (1, 64, 56, 56)": (1, 64, 56, 56), "layer norm (16, 768)": (16, 768)}
COLUMNS = {  # of a round: title, format
    "throughput": ("calls/s", "{:.0f}"),
    "p50": ("p50 us", "{:.0f}"),
    "p99": ("p99 us", "{:.0f}"),
    "p999": ("p99.9 us", "{:.0f}"),
    "slowest": ("slowest thread / mean", "{:.2f}"),
    "wakes": ("sleeper wakes, worst ms", "{:.1f}"),
}


def calls_of_fastbn(shape):
    import fastbn

    x, weight, bias, mean, var = arrays(shape)
    if len(shape) == 2:
        return partial(fastbn.layer_norm, x, shape[1], weight, bias)
    return partial(fastbn.batch_norm, x, mean, var, weight, bias)


def calls_of_torch(shape):
    import torch

    x, weight, bias, mean, var = map(torch.from_numpy, arrays(shape))
    if len(shape) == 2:
        return partial(torch.nn.functional.layer_norm, x, shape[1:], weight, bias)
    return partial(torch.nn.functional.batch_norm, x, mean, var, weight, bias)


def arrays(shape):
    rng = np.random.default_rng(0)
    c = shape[1]
    x, weight, bias, mean = (rng.standard_normal(s, np.float32) for s in (shape, c, c, c))
    return x, weight, bias, mean, rng.uniform(0.5, 2, c).astype(np.float32)


class Crowd:
    """Threads that begin together, call until they are told to stop, and write down how long each call took."""

    def __init__(self, calls, context):
        self.times = [[] for _ in calls]
        self.woken = []
        self.start, self.stop = threading.Barrier(len(calls) + 2), threading.Event()
        each = (
            threading.Thread(target=self._work, args=(*pair, context)) for pair in zip(calls, self.times, strict=True)
        )
        self.threads = [*each, threading.Thread(target=self._sleep)]

    def _work(self, call, times, context):
        clock, done = time.perf_counter, self.stop.is_set
        with context():
            call()
            self.start.wait()
            while not done():
                begin = clock()
                call()
                times.append(clock() - begin)

    def _sleep(self):
        self.start.wait()
        while not self.stop.is_set():
            begin = time.perf_counter()
            time.sleep(SLEEP)
            self.woken.append(time.perf_counter() - begin - SLEEP)

    def run(self, seconds):
        for thread in self.threads:
            thread.start()
        self.start.wait()
        begin = time.perf_counter()
        time.sleep(seconds)
        self.stop.set()
        taken = time.perf_counter() - begin
        for thread in self.threads:
            thread.join()
        return self.figures(taken)

    def figures(self, taken):
        counts = [len(times) for times in self.times]
        every = np.concatenate([np.array(times) for times in self.times]) * 1e6
        if not every.size:
            raise RuntimeError("no call came to its end: give it more seconds")
        p50, p99, p999 = np.percentile(every, (50, 99, 99.9)).tolist()
        return {
            "throughput": sum(counts) / taken,
            "p50": p50,
            "p99": p99,
            "p999": p999,
            "slowest": min(counts) / (sum(counts) / len(counts)),
            "wakes": max(self.woken, default=taken) * 1e3,  # if it never did
        }


def contenders():
    found = {"fastbn": (calls_of_fastbn, nullcontext)}
    if find_spec("torch"):
        import torch

        found["torch"] = (calls_of_torch, torch.inference_mode)
    return found


def measure(threads, seconds, rounds):
    """Figures by (work, contender, number of threads)."""
    everyone = contenders()
    cells = [(work, count) for work in WORK for count in threads]
    for shape in WORK.values():  # compiles, and finds out whether threads help
        for make, context in everyone.values():
            with context():
                call = make(shape)
                for _ in range(200):
                    call()
    seen = {}
    for turn in range(rounds):
        for i, (work, count) in enumerate(cells):
            names = list(everyone)
            first = (turn + i) % len(names)
            for name in names[first:] + names[:first]:
                make, context = everyone[name]
                time.sleep(REST)
                figures = Crowd([make(WORK[work]) for _ in range(count)], context).run(seconds)
                seen.setdefault((work, name, count), []).append(figures)
    return {key: {name: median(f[name] for f in figures) for name in COLUMNS} for key, figures in seen.items()}


def lines(results):
    """Tables as Markdown, then what many threads keep of the throughput of few."""
    for work in WORK:
        yield f"\n{work}\n"
        head = ["threads", "", *(title for title, _ in COLUMNS.values()), "of the best of 1 and 2"]
        yield f"| {' | '.join(head)} |"
        yield f"| ---: | --- |{' ---: |' * (len(head) - 2)}"
        rows = {key: figures for key, figures in results.items() if key[0] == work}
        for (_, name, count), figures in sorted(rows.items(), key=lambda row: (row[0][2], row[0][1])):
            few = [rows[work, name, n]["throughput"] for n in (1, 2) if (work, name, n) in rows]
            kept = f"{figures['throughput'] / max(few):.2f}" if few else "-"
            cells = [form.format(figures[column]) for column, (_, form) in COLUMNS.items()]
            yield f"| {count} | {name} | {' | '.join(cells)} | {kept} |"


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=numbers, default=[1, 2, 8, 32], help="numbers of threads (1,2,8,32)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a contender's turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    results = measure(args.threads, args.seconds, args.rounds)
    print(*lines(results), sep="\n")
    if args.json:
        rows = [{"work": w, "contender": n, "threads": c, **figures} for (w, n, c), figures in results.items()]
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
