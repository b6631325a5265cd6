"""Programs in processes of their own, under a time limit, and what they compute there (`workload`)."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

import fastbn

SUPPORT = Path(__file__).parent
PACKAGE = Path(fastbn.__file__).parents[1]
TWO_THREADS = {"NUMBA_NUM_THREADS": "2", "FASTBN_NUM_THREADS": "2"}  # whatever the machine has
FORK_OF_A_TEAM = "ignore:This process (pid:DeprecationWarning"  # what Python says of any such fork from 3.12 on
NUMBA_ON_TBB_AND_FORK = re.compile("(Unable to join threads|Numba: Attempted to fork).*\n+")  # not fastbn's own words


def python(*parts, seconds=300, package=PACKAGE, before=None, status=0, **environment):
    """Run a program, told in parts, which must end by itself, in time and with this status; its output and warnings.

    environment: further variables, None to leave one out.  before: what its process does before Python starts.
    """
    path = os.pathsep.join(map(str, (package, SUPPORT)))
    variables = {**os.environ, **TWO_THREADS, "PYTHONPATH": path, **environment}
    told = "-W", "default::RuntimeWarning:fastbn", "-W", FORK_OF_A_TEAM
    process = subprocess.Popen(
        [sys.executable, "-P", *told, "-c", "\n".join(map(textwrap.dedent, parts))],
        env={name: str(value) for name, value in variables.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it started ends with it
        preexec_fn=before,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"still running after {seconds} s; until then it printed:\n{out}{err}")
    assert process.returncode == status, f"status {process.returncode}\n{out}{err}"
    return NUMBA_ON_TBB_AND_FORK.sub("", out), NUMBA_ON_TBB_AND_FORK.sub("", err)


def on_layer(layer):
    """The environment in which Numba starts this threading layer."""
    environment = {"NUMBA_THREADING_LAYER": layer}
    if layer == "tbb":
        folder = tbb_folder()
        if folder is None:
            pytest.skip("the tbb package is not installed")
        if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1:
            # any program of Numba's alone does the same, where more threads are asked for than there are CPUs
            pytest.skip("on a single CPU, processes with TWO_THREADS of TBB do not end")
        environment["LD_LIBRARY_PATH"] = folder
    return environment


def tbb_folder():
    """Where pip put TBB: not where the loader looks."""
    try:
        libraries = [file.locate() for file in files("tbb") or () if file.name.startswith("libtbb.so")]
    except PackageNotFoundError:
        return None
    return os.path.dirname(os.path.realpath(libraries[0])) if libraries else None
