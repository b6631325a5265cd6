"""``fastbn info``: versions, processor, threads."""

import argparse
import os
import platform
import subprocess
import sys
from importlib import import_module
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info", help="say what fastbn runs on", description="Say what fastbn runs on: versions, processor, threads."
    )
    return parser


def run(args: argparse.Namespace) -> int:
    print(as_text(config()))
    return 0


def config() -> dict[str, str]:
    """What fastbn runs on, by name."""
    import numpy as np

    import fastbn

    numba: Any = import_module("numba")  # its type hints leave out names of its public face

    return {
        "fastbn": fastbn.__version__,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "threads": str(numba.get_num_threads()),
        "threading layer": threading_layer(numba),
    }


def as_text(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


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


def threading_layer(numba: Any) -> str:
    """Numba's threading layer, which it picks when the first parallel kernel runs."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return f"{numba.config.THREADING_LAYER} (picked at the first parallel call)"
