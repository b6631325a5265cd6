"""The C library that `fastbn export` makes: how large and how quickly made, and its calls beside Python's and njit's.

    python benchmarks/export.py                     # five minutes, most of it for the compiler
    python benchmarks/export.py --target host       # all instructions that this machine has
    python benchmarks/export.py --sizes             # the first table alone
    python benchmarks/export.py layer_norm          # of some operations

Two tables: an operation in one order of memory, float32, forward, as a library of its own; and arrays of 6 to 26 MB by
C and by Python on one thread, compiled for the same processor, in one process and the same memory.  Below them a row of
768 elements by C, by Python and inside njit.  Contenders take turns; times are minima of the rounds, and of some arrays
that lie in different places.  Needs a linker such as gcc.
"""

import argparse
import ctypes
import os
import sys
import tempfile
from pathlib import Path

IMAGES = "batch_norm", "group_norm", "instance_norm"
OPERATIONS = "layer_norm", "rms_norm", *IMAGES
LAYOUTS = {"channels_first": "nchw", "channels_last": "nhwc"}
# (batch, channels, plane) of images, and (rows, columns)
SHAPES = {
    "layer_norm": ((2048, 768), (8192, 768)),
    "rms_norm": ((2048, 768), (8192, 768)),
    "images": ((8, 64, 3136), (32, 64, 3136), (64, 512, 49)),
}
IMAGE = "batch", "channels", "plane", "groups"
RUNNING = "running_mean", "running_var"
GROUPS, EPS, MOMENTUM = 32, 1e-5, 0.1
ROUNDS, PLACES, CALLS = 15, 3, 2000


def compile_for(target: str) -> None:
    """Begin anew where Numba, which reads this when it is imported, would use other instructions than the library."""
    wanted = {} if target == "host" else {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def exported(operation: str, layout: str | None, target: str, folder: Path):
    """The library of one operation in one order of memory."""
    from fastbn._export import library

    layouts = list(LAYOUTS) if layout is None else [layout]
    return library.export(library.Order([operation], ["float32"], layouts, target, folder))


def c_function(folder: Path, name: str):
    """A C function and the one of its working memory; pointers are passed as integers, as Numba can."""
    from fastbn._export import interface

    described = next(f for f in interface.functions(interface.OPERATIONS, ["float32"]) if f.name == name)
    shared = ctypes.CDLL(str(folder / "libfastbn.so"))
    function, workspace = shared[name], shared[f"{name}_workspace"]
    kinds = {"number": ctypes.c_double}
    function.argtypes = [kinds.get(p.kind, ctypes.c_int64) for p in described.parameters]
    workspace.argtypes, workspace.restype = [ctypes.c_int64] * len(described.sizes), ctypes.c_size_t
    return function, workspace, [p.name for p in described.parameters]


class Call:
    """One operation of one shape, by C and by Python, from the same x into the same y."""

    def __init__(self, folder: Path, operation: str, layout: str | None, training: bool, shape: tuple[int, ...]):
        import numpy as np

        self.name = f"{operation}_train" if training else operation
        full = self.name if layout is None else f"{self.name}_{LAYOUTS[layout]}"
        self.function, workspace, self.parameters = c_function(folder, f"fastbn_{full}_f32")
        self.operation, self.training, self.layout = operation, training, layout
        self.sizes = shape if operation != "group_norm" else (*shape, GROUPS)
        width = shape[1]
        memory_order = (shape[0], shape[2], width) if layout == "channels_last" else shape
        rng = np.random.default_rng(0)
        self.x, self.y = rng.standard_normal(memory_order, np.float32), np.empty(memory_order, np.float32)
        self.vectors = {name: rng.random(width, np.float32) + 0.5 for name in ("weight", "bias", *RUNNING)}
        self.work = np.empty(workspace(*self.sizes) + 1, np.uint8)
        self.arguments = self.as_numbers()

    def as_numbers(self) -> list[float]:
        """What C is called with: made beforehand, for making it in Python takes some microseconds."""
        named = dict(zip(("rows", "cols") if self.layout is None else IMAGE, self.sizes, strict=False))
        named |= {name: array.ctypes.data for name, array in self.vectors.items()}
        named |= {"x": self.x.ctypes.data, "y": self.y.ctypes.data, "work": self.work.ctypes.data}
        named |= {"eps": EPS, "momentum": MOMENTUM, "mean": 0, "rstd": 0}
        return [named[name] for name in self.parameters]

    def by_c(self) -> None:
        status = self.function(*self.arguments)
        assert status == 0, status

    def by_python(self) -> None:
        import fastbn

        x, y, (weight, bias, *running) = self.x, self.y, self.vectors.values()
        axis = -1 if self.layout == "channels_last" else 1
        if self.operation == "layer_norm":
            fastbn.layer_norm(x, x.shape[-1], weight, bias, EPS, out=y)
        elif self.operation == "rms_norm":
            fastbn.rms_norm(x, x.shape[-1], weight, EPS, out=y)
        elif self.operation == "group_norm":
            fastbn.group_norm(x, GROUPS, weight, bias, EPS, axis=axis, out=y)
        elif self.operation == "instance_norm":
            fastbn.instance_norm(x, weight=weight, bias=bias, eps=EPS, axis=axis, out=y)
        else:
            fastbn.batch_norm(
                x, *running, weight, bias, training=self.training, momentum=MOMENTUM, eps=EPS, axis=axis, out=y
            )


def minima(contenders, rounds: int) -> list[float]:
    """The shortest time of each, in seconds; they take turns."""
    from njit import minima

    return minima(contenders, rounds)


def told(shape: tuple[int, ...], layout: str | None) -> str:
    if layout is not None and layout.endswith("last"):
        shape = shape[0], shape[2], shape[1]
    return str(shape).replace("3136", "56, 56").replace("49", "7, 7")


def compare(folder: Path, operation: str, layout: str | None) -> list[str]:
    """Rows of the second table."""
    import numpy as np

    rows = []
    for training in (False, True) if operation == "batch_norm" else (False,):
        for shape in SHAPES.get(operation, SHAPES["images"]):
            by_c, by_python = float("inf"), float("inf")
            taken = []  # so that the next arrays lie elsewhere
            for _ in range(PLACES):
                call = Call(folder, operation, layout, training, shape)
                taken.append(np.empty(12345, np.uint8))
                call.by_python()
                result = call.y.copy()
                call.by_c()
                assert training or result.tobytes() == call.y.tobytes()
                first, second = minima([call.by_c, call.by_python], ROUNDS)
                by_c, by_python = min(by_c, first), min(by_python, second)
            rows.append(
                f"| `{call.name}`{'' if layout is None else ' ' + LAYOUTS[layout]} | {told(shape, layout)} "
                f"| {by_c * 1e3:.2f} ms | {by_python * 1e3:.2f} ms | {by_python / by_c:.2f} |"
            )
    return rows


def one_row(folder: Path) -> str:
    """A layer norm of (1, 768), called many times: by C from a compiled loop, inside njit, and from Python."""
    import numba
    import numpy as np

    import fastbn

    function = c_function(folder, "fastbn_layer_norm_f32")[0]
    x, (w, b) = np.ones((1, 768), np.float32), np.ones((2, 768), np.float32)
    x[0] = np.arange(768)
    y = np.empty_like(x)

    @numba.njit
    def by_c(x, y, w, b, calls):
        px, py, pw, pb = x.ctypes.data, y.ctypes.data, w.ctypes.data, b.ctypes.data
        for _ in range(calls):
            function(px, py, pw, pb, 1, 768, EPS, 0, 0, 0)

    @numba.njit
    def inside(x, y, w, b, calls):
        for _ in range(calls):
            fastbn.layer_norm(x, 768, w, b, out=y)

    def python():
        for _ in range(CALLS):
            fastbn.layer_norm(x, 768, w, b, out=y)

    contenders = [lambda: by_c(x, y, w, b, CALLS), lambda: inside(x, y, w, b, CALLS), python]
    c, njit, outside = (1e6 * seconds / CALLS for seconds in minima(contenders, 4 * ROUNDS))
    return (
        f"A layer norm of (1, 768) takes {c:.3f} us by C, {njit:.3f} us inside njit ({njit / c:.1f} times as long) and "
        f"{outside:.2f} us from Python ({outside / c:.1f} times)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operations", nargs="*", choices=(*OPERATIONS, []), help="all by default")
    parser.add_argument("--target", default="x86-64-v3", choices=("x86-64-v3", "host"), help="(%(default)s)")
    parser.add_argument("--sizes", action="store_true", help="no times of calls")
    args = parser.parse_args()
    compile_for(args.target)

    import fastbn

    sizes, times, row = [], [], ""
    with tempfile.TemporaryDirectory() as folder:
        for operation in args.operations or OPERATIONS:
            for layout in LAYOUTS if operation in IMAGES else (None,):
                own = Path(folder) / f"{operation}-{layout}"
                made = exported(operation, layout, args.target, own)
                order = "" if layout is None else f" --layouts {layout}"
                sizes.append(f"| `--ops {operation}{order}` | {made.nbytes / 1e3:.1f} kB | {made.seconds:.0f} s |")
                if not args.sizes:
                    with fastbn.num_threads(1):
                        times += compare(own, operation, layout)
                if operation == "layer_norm" and not args.sizes:
                    row = one_row(own)
    print(f"| {args.target}, float32, forward | libfastbn.o | exported in |\n|---|---:|---:|", *sizes, sep="\n")
    if times:
        print("\n| | x | C | Python | speed of C beside Python |\n|---|---|---:|---:|---:|", *times, sep="\n")
    if row:
        print(f"\n{row}")


if __name__ == "__main__":
    main()
