"""What fastbn runs on, and what would make it run better."""

import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

import numba
import numpy as np
from numba.core import config as numba_config

from fastbn.engine import plans, threads
from fastbn.kernels import folders, runs, sources

PEERS = ("tbb", "scipy", "torch", "jax", "onnxruntime", "ml_dtypes")

_WAITS = {
    "omp": "quickest on a quiet machine, slow when other processes keep its CPUs busy",
    "tbb": "keeps its pace on a busy machine",
    "workqueue": "serves the main thread only: calls on other threads are serial",
}


def config() -> dict[str, str]:
    """What fastbn runs on: versions, processor, threads and cache, by name.

    Returns
    -------
    rows : dict of str to str

    Examples
    --------
    >>> from fastbn._config import config
    >>> config()["numpy"] == np.__version__
    True
    """
    import fastbn

    return {
        "fastbn": fastbn.__version__,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "vectors": vector_width(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "quota": _quota(),
        "memory": _memory(),
        "threads": _threads(),
        "plans": f"{plans.count()} kept of at most {plans.MOST}, for calls like earlier ones",
        "threading layer": _layer(),
        "cache": _cache(),
        "peers": ", ".join(f"{name} {found}" for name in PEERS if (found := _version(name))) or "none",
    }


def show_config() -> None:
    """Print what fastbn runs on, and what would make it run better.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.show_config()  # doctest: +ELLIPSIS
    fastbn   ...
    """
    print(as_text(config()), *advice(), sep="\n")


def as_text(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def advice() -> list[str]:
    """What the user can do, a line each."""
    lines = []
    layer = threads.threading_layer()
    if numba_config.DISABLE_JIT or usable_cores() == 1:
        pass  # nothing runs on several threads
    elif layer in ("workqueue", None):
        lines += ["", "A better threading layer lets calls on all threads run in parallel. Either will do:"]
        if sys.platform == "linux":
            where = "apt-get install libgomp1; dnf install libgomp; apk add libgomp"
            lines.append(f"  install GNU OpenMP from the system ({where})")
        lines.append(f"  {_tbb_advice()}")
    elif layer == "omp" and tbb_folder() is not None:
        lines += [
            "",
            "For a machine whose CPUs are kept busy by others, TBB is better than OpenMP:",
            f"  {_tbb_advice()}",
        ]
    return lines + ([] if numba_config.DISABLE_JIT else _memory_advice() + _cache_advice())


def _memory_advice() -> list[str]:
    from fastbn import _limits

    told = _limits.memory()
    if told is None or told[0] >= _limits.SMALL:
        return []
    return [
        "",
        f"Of {_megabytes(told[0])}, a process takes some 120 MB with its kernels in the cache, 200 or more to compile:",
        "  fill the cache where there is more, for this processor (fastbn warmup); set NUMBA_CACHE_DIR to its folder",
        "  or do without Numba, in 30 MB: fastbn export makes a C library",
    ]


def _cache_advice() -> list[str]:
    lines = []
    for doubt in folders.ours().refused:
        lines += ["", f"Compiled kernels in {doubt}, so they are not run:"]
        lines.append("  take that permission away, or set NUMBA_CACHE_DIR to a folder of your own")
    if not cache_folder()[1] and sources.digest() is not None:
        lines += ["", "Kernels that the cache lacks are compiled anew in every process, for it cannot be written to:"]
        lines.append("  set NUMBA_CACHE_DIR to a folder that can, or to one that fastbn warmup filled elsewhere")
    return lines


def _tbb_advice() -> str:
    folder = tbb_folder()
    if folder is None:
        return "pip install tbb, then run fastbn info again"
    return f"TBB is installed: start Python with LD_LIBRARY_PATH={folder}, where Numba does not look"


def tbb_folder() -> str | None:
    """Where pip put TBB's library."""
    try:
        found = [Path(file.locate()) for file in files("tbb") or () if file.name.startswith("libtbb.so")]
    except PackageNotFoundError:
        return None
    return str(found[0].resolve().parent) if found else None


def cpu_name() -> str:
    """The processor's name as its maker words it; platform.processor() knows it on Windows only."""
    try:
        if sys.platform == "linux":
            with open("/proc/cpuinfo") as lines:
                names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
            return names[0] if names else platform.machine()
        if sys.platform == "darwin":
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """The cores this process may run on: an affinity mask can hide some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def vector_width() -> str:
    """The widest vectors that kernels are compiled for."""
    from llvmlite import binding

    told = numba_config.CPU_FEATURES
    features = binding.get_host_cpu_features().flatten() if told is None else told
    if numba_config.CPU_NAME not in (None, "host", binding.get_host_cpu_name()):
        return f"as NUMBA_CPU_NAME={numba_config.CPU_NAME} has them"
    on = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    widths = (("avx512f", "512 bits (AVX-512)"), ("avx2", "256 bits (AVX2)"), ("sse2", "128 bits (SSE2)"))
    return next((text for feature, text in (*widths, ("neon", "128 bits (NEON)")) if feature in on), "unknown")


def cache_folder() -> tuple[str | None, bool]:
    """Where kernels are kept, if anywhere, and whether it can be written to."""
    folder = runs.forward.serial.stats.cache_path
    try:
        tempfile.TemporaryFile(dir=folder).close()  # the only test that counts permissions and read-only disks
    except OSError:
        return folder, False
    return folder, folder is not None


def _cache() -> str:
    if numba_config.DISABLE_JIT:
        return "none: NUMBA_DISABLE_JIT is set"
    if sources.digest() is None:
        return "none: the modules show neither sources nor byte code, which tell one release from another"
    folder, writable = cache_folder()
    if folder is None:
        return "none: no folder can be written to"
    return f"{folder} ({'writable' if writable else 'read-only'})"


def _quota() -> str:
    quota = threads.cpu_quota()
    return "none" if quota is None else f"{quota:g} CPUs, by the control group"


def _memory() -> str:
    from fastbn import _limits

    told = _limits.memory()
    if told is None:
        return "unknown"
    return f"{_megabytes(told[0])}{', by the control group' if told[1] else ''}"


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.0f} MB" if count < 4 << 30 else f"{count / 2**30:.0f} GB"


def _threads() -> str:
    try:
        count = threads.get_num_threads()
    except ValueError as error:
        return str(error)
    asked = os.environ.get("FASTBN_NUM_THREADS")
    return f"{count} of Numba's {numba_config.NUMBA_NUM_THREADS}" + (f" (FASTBN_NUM_THREADS={asked})" if asked else "")


def _layer() -> str:
    """The threading layer and why it is this one."""
    if numba_config.DISABLE_JIT:
        return "none: NUMBA_DISABLE_JIT is set"
    layer = threads.threading_layer()
    asked = numba_config.THREADING_LAYER
    if layer is None:
        return f"none: NUMBA_THREADING_LAYER={asked} cannot be loaded, so every call is serial"
    if asked == layer:
        return f"{layer} (NUMBA_THREADING_LAYER asks for it; {_WAITS[layer]})"
    order = " ".join(numba_config.THREADING_LAYER_PRIORITY)
    return f"{layer} (the first of {order} that can be loaded; {_WAITS[layer]})"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
