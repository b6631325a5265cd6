"""A new process: the import, and the first result with a full and with an empty cache of compiled code.

    python benchmarks/bench_start.py      # the same beside Numba and, where it is installed, PyTorch

Processes take turns; medians of the time to the result and of peak memory, and how these compare.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from statistics import median

ARRAYS = """
import numpy
rng = numpy.random.default_rng(0)
x, weight, bias = (rng.random(shape, "float32") for shape in ((32, 768), 768, 768))
"""

FIRST_RESULT = f"{ARRAYS}import fastbn; fastbn.layer_norm(x, 768, weight, bias)"

FIRST_RESULT_TORCH = f"""{ARRAYS}
import torch
torch.nn.functional.layer_norm(torch.from_numpy(x), (768,), torch.from_numpy(weight), torch.from_numpy(bias))
"""

EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""

ONE_MORE = "fastbn.batch_norm(x, None, None, weight, bias, training=True)"


class Start:
    number = 1
    repeat = 5

    def timeraw_import_numba(self):
        return "import numba"

    def timeraw_import(self):
        return "import fastbn"

    def timeraw_first_result_from_cache(self):
        return FIRST_RESULT

    def timeraw_first_result_compiled(self):
        return FIRST_RESULT, EMPTY_CACHE


def peakmem_first_result():
    exec(FIRST_RESULT, {})


PROGRAMS = {
    "import numba": "import numba",
    "import fastbn": "import fastbn",
    "fastbn, first result": FIRST_RESULT,
    "torch, first result": FIRST_RESULT_TORCH,
    "fastbn, compiled": f"{EMPTY_CACHE}{FIRST_RESULT}",
    "fastbn, one more": f"{EMPTY_CACHE}{FIRST_RESULT}; {ONE_MORE}",
}
RATIOS = (
    ("import fastbn", "import numba"),
    ("fastbn, first result", "torch, first result"),
)


def cost(program):
    """Seconds until a new process is done, without its end, and its peak memory in MB.

    This process must stay small: what it holds when it starts another one counts as that one's.
    """
    # an installed package has its byte code, too
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", f"{program}\nprint(flush=True)"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    seconds = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    process.stdout.close()
    if status:
        raise RuntimeError(f"status {status} of {program}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="processes of a kind (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, metavar="KIND", help=f"of {', '.join(PROGRAMS)}")
    args = parser.parse_args()
    kinds = [kind for kind in args.only or PROGRAMS if kind[:5] != "torch" or find_spec("torch")]
    for kind in kinds:
        cost(PROGRAMS[kind])  # fills the caches, the system's as well
    costs = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind in kinds:
            costs[kind].append(cost(PROGRAMS[kind]))
    medians = {kind: [median(column) for column in zip(*values, strict=True)] for kind, values in costs.items()}
    print(f"{'':24}{'ms':>8}{'peak MB':>10}")
    for kind, (seconds, megabytes) in medians.items():
        print(f"{kind:24}{seconds * 1e3:8.0f}{megabytes:10.0f}")
    for kind, other in RATIOS:
        if kind in medians and other in medians:
            seconds, megabytes = (a / b for a, b in zip(medians[kind], medians[other], strict=True))
            print(f"{kind} / {other}: {seconds:.2f} of the time, {megabytes:.2f} of the memory")


if __name__ == "__main__":
    main()
