"""A shared library, or a module of WebAssembly, from an object, where this machine has a linker that can."""

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fastbn._export.errors import ExportError
from fastbn._export.targets import Target

_NEWEST_FIRST = ("", *(f"-{k}" for k in range(25, 13, -1)))  # as Debian names what LLVM's releases bring


def find(target: Target, named: str | None = None) -> str | None:
    """A linker's path: the one that is named, or one of the usual names; None: there is none."""
    if named is not None:
        path = shutil.which(named)
        if path is None:
            raise ExportError(f"--linker is {named!r}, which is no program here; leave it out, or name another")
        return path
    return next((path for name in _names(target) if (path := shutil.which(name))), None)


def _names(target: Target) -> list[str]:
    if target.is_wasm:
        return [f"wasm-ld{version}" for version in _NEWEST_FIRST]
    machine = target.triple.split("-")[0]
    own = ["cc", "gcc", "clang"] if machine == platform.machine() else []
    return [
        *own,
        f"{machine}-linux-gnu-gcc",
        *(f"ld.lld{version}" for version in _NEWEST_FIRST),
        f"{machine}-linux-gnu-ld",
    ]


def link(linker: str, target: Target, source: Path, result: Path, names: Sequence[str]) -> None:
    """Make the library that has these functions."""
    if target.is_wasm:
        options = ["--no-entry", "--gc-sections", "--export=__heap_base", *(f"--export={name}" for name in names)]
    elif re.search(r"ld(\.\w+)?(-\d+)?$", Path(linker).name):
        options = ["-shared", "-z", "defs", "-z", "noexecstack", "-soname", result.name]
    else:
        options = ["-shared", "-nostdlib", "-Wl,-z,defs,-z,noexecstack", f"-Wl,-soname,{result.name}"]
    done = subprocess.run(
        [linker, *options, "-o", str(result), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise ExportError(f"{linker} cannot link for {target.name}: {told}")
    if not result.exists():
        raise ExportError(f"{linker} has made no {result.name}; expected a linker, or a compiler that calls one")
