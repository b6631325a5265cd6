"""What a run of the tests chooses, and that it names what it left out."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ("tests/values/test_masks.py", "tests/values/test_folding.py")


def collected(*options, status=0):
    """The names of the tests of two files that are chosen, and the last line."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {line.split("[")[0].split("::")[-1] for line in lines if "::" in line}, lines[-1]


def test_what_is_left_out_is_named():
    core, told = collected()
    assert "test_refused" in core
    assert not core & {"test_forward", "test_convolution"}
    number = int(re.match(r"left out: (\d+) longer tests \(pytest --all\); .*--systems=NAME.*\btorch\b", told)[1])
    everything, told = collected("--all")
    assert "test_forward" in everything > core
    assert "longer tests" not in told
    assert number > len(everything - core)
    torch, _ = collected("--systems=torch")
    assert "test_convolution" in torch
    assert not torch & everything


def test_an_unknown_system_is_refused_with_those_that_there_are():
    _, told = collected("--systems=abacus", status=4)
    assert re.search(r"--systems=abacus: .*\btorch\b", told)


def test_the_seed_is_printed():
    _, told = collected("--seed=random")
    assert re.match(r"inputs drawn by --seed=\d+; left out", told)
