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


def run(program):
    variables = os.environ | {"PYTHONPATH": str(program.parent), "NUMBA_CACHE_DIR": str(program.parent / "cache")}
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
