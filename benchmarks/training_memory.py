"""Memory of training steps through many layers, whose results live until backward, beside NumPy's own arrays.

    python benchmarks/training_memory.py                     # 20 batch norms of 8 MB; Linux
    python benchmarks/training_memory.py --layers 20 --shape 16,256,56,56 --steps 10

Both kinds do the same work, each in a process of its own: fastbn makes the results, or they are written into arrays
that NumPy makes (`out=numpy.empty(...)`).  Peak memory is what the steps add to the process as it was before them, with
its kernels compiled; page faults are the minor ones of each step.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from math import prod
from pathlib import Path
from statistics import median

KINDS = ("fastbn", "numpy")


def status(name):
    """A line of the process's own in megabytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) / 1024


def one_step(fastbn, x, weight, bias, layers, new):
    """Forward through all layers, and backward: x of each lives until its gradient is there."""
    kept = []
    for _ in range(layers):
        y, mean, rstd = fastbn.batch_norm_forward(x, weight, bias, out=new())
        kept.append((x, mean, rstd))
        x = y
    dy = x
    while kept:
        x, mean, rstd = kept.pop()
        dy, _, _ = fastbn.batch_norm_backward(dy, x, mean, rstd, weight, out=new())
    return dy


def measure(kind, shape, layers, steps):
    import numpy

    import fastbn

    rng = numpy.random.default_rng(0)
    x = rng.standard_normal(shape, numpy.float32)
    weight, bias = numpy.ones(shape[1], numpy.float32), numpy.zeros(shape[1], numpy.float32)
    new = (lambda: numpy.empty(shape, numpy.float32)) if kind == "numpy" else (lambda: None)
    scratch = numpy.empty_like(x)
    for _ in range(12):
        one_step(fastbn, x, weight, bias, 1, lambda: scratch)  # compiles, for one thread and for all
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, faults, seconds = status("VmRSS"), [], []
    for _ in range(steps):
        count, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        one_step(fastbn, x, weight, bias, layers, new)
        seconds.append(time.perf_counter() - begin)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - count)
    return {"peak": status("VmHWM") - before, "faults": faults, "seconds": seconds}


def in_a_process(kind, args):
    command = [sys.executable, __file__, "--kind", kind, "--shape", args.shape]
    command += ["--layers", str(args.layers), "--steps", str(args.steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8,256,32,32", help="of every layer's x (%(default)s)")
    parser.add_argument("--layers", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--kind", choices=KINDS, help="measure this one in this process, and print JSON")
    args = parser.parse_args()
    shape = tuple(map(int, args.shape.split(",")))
    if args.kind:
        print(json.dumps(measure(args.kind, shape, args.layers, args.steps)))
        return
    results = {kind: in_a_process(kind, args) for kind in KINDS}
    print(f"{args.layers} layers of {args.shape}: {4e-6 * prod(shape):.1f} MB a result")
    print(f"{'':10}{'peak MB':>10}{'ms a step':>12}  minor page faults of each step")
    for kind, figures in results.items():
        later = median(figures["seconds"][2:] or figures["seconds"]) * 1e3
        print(f"{kind:10}{figures['peak']:10.0f}{later:12.1f}  {' '.join(map(str, figures['faults']))}")
    fastbn, numpy = (results[kind] for kind in KINDS)
    print(f"peak of fastbn / numpy: {fastbn['peak'] / numpy['peak']:.3f}")
    if len(fastbn["faults"]) > 2:
        worst = max(fastbn["faults"][2:]) / max(fastbn["faults"][0], 1)
        print(f"most faults of a step from the third on / those of the first: {worst:.4f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"shape": shape, "layers": args.layers, **results}, indent=1))


if __name__ == "__main__":
    main()
