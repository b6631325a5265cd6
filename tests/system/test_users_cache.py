"""What docs/numba.md warns of: a user's function compiled with `cache=True` keeps the kernels it was compiled with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastbn

PROGRAM = """
import numba
import numpy as np

import fastbn


@numba.njit(cache=True)
def normalized(x):
    return fastbn.layer_norm(x, 8)


if __name__ == "__main__":
    x = np.arange(8.0)
    print(normalized(x).tobytes().hex(), fastbn.layer_norm(x, 8).tobytes().hex())
    print(sum(normalized.stats.cache_hits.values()))
"""

IN_PARALLEL = """
import numba
import numpy as np

import fastbn


@numba.njit(cache=True, parallel=True)
def normalized(x):
    y = np.empty_like(x)
    for i in numba.prange(len(x)):
        y[i] = fastbn.group_norm(x[i], 2, axis=-1)
        y[i] += fastbn.batch_norm(x[i], np.zeros(4), np.ones(4), axis=-1)
    return y


def from_python(x):
    return fastbn.group_norm(x, 2, axis=-1) + fastbn.batch_norm(x, np.zeros(4), np.ones(4), axis=-1)


if __name__ == "__main__":
    x = np.arange(240.0).reshape(5, 2, 6, 4) % 7
    print(normalized(x).tobytes().hex(), np.stack([from_python(some) for some in x]).tobytes().hex())
    print(sum(normalized.stats.cache_hits.values()))
"""


def run(program, **more):
    variables = (
        os.environ | {"PYTHONPATH": str(program.parent), "NUMBA_CACHE_DIR": str(program.parent / "cache")} | more
    )
    done = subprocess.run([sys.executable, program], env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    inside, from_python, hits = done.stdout.split()
    return inside, from_python, int(hits)


@pytest.mark.full
def test_a_users_cache_outlives_an_upgrade_until_its_file_changes(tmp_path):
    package, program = tmp_path / "fastbn", tmp_path / "program.py"
    shutil.copytree(Path(fastbn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    program.write_text(PROGRAM, encoding="utf-8")
    first, same, hits = run(program)
    assert (first, hits) == (same, 0)
    assert run(program) == (first, first, 1)
    module = package / "kernels" / "runs.py"
    source = module.read_text(encoding="utf-8")
    assert source.count("return shift + d, var\n") == 1
    module.write_text(source.replace("return shift + d, var\n", "return shift + d, var + 1.0\n"), encoding="utf-8")
    kept, upgraded, hits = run(program)
    assert upgraded != first
    assert (kept, hits) == (first, 1)
    program.write_text(PROGRAM + "# changed\n", encoding="utf-8")
    assert run(program) == (upgraded, upgraded, 0)


@pytest.mark.full
def test_a_users_cache_needs_no_kernel_that_python_calls(tmp_path):
    """Kernels call functions that fastbn has to give to LLVM first, which in the second process nothing has it do."""
    program = tmp_path / "program.py"
    program.write_text(IN_PARALLEL, encoding="utf-8")
    variables = {"PYTHONPATH": str(Path(fastbn.__file__).parents[1])}
    first, same, hits = run(program, **variables)
    assert (first, hits) == (same, 0)
    assert run(program, **variables) == (first, first, 1)
