"""What a run of the tests chooses, and that it names what it left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ("tests/values/test_masks.py", "tests/values/test_folding.py")


def collected(*options, status=0, cases=False, tests=TESTS):
    """The names of the tests of some files that are chosen, or all their cases, and the last line."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {line if cases else line.split("[")[0].split("::")[-1] for line in lines if "::" in line}, lines[-1]


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


def test_shares_of_the_longer_tests_are_all_of_them():
    core, everything = (collected(*options, cases=True)[0] for options in ((), ("--all",)))
    shares = [collected("--all", f"--share={part}/3", cases=True) for part in (1, 2, 3)]
    longer = [share - core for share, _ in shares]
    assert all(share > core for share, _ in shares)
    assert sum(map(len, longer)) == len(everything - core)
    assert set().union(*longer) == everything - core
    assert min(map(len, longer)) > len(everything - core) / 6
    number = int(
        re.match(r"left out: (\d+) longer tests \(pytest --all, of which this is --share=3/3\)", shares[2][1])[1]
    )
    assert number == len(longer[0]) + len(longer[1])


def test_a_share_without_a_test_is_no_failure():
    few = {"tests": ["tests/system/test_runtime.py"]}
    everything, _ = collected("--systems=jax", cases=True, **few)
    assert everything
    shares = [collected("--systems=jax", f"--share={part}/9", cases=True, **few) for part in range(1, 10)]
    found = [share for share, _ in shares if share]
    assert len(found) < 9
    assert set().union(*found) == everything
    empty = next(told for share, told in shares if not share)
    assert empty.startswith(f"left out: {len(everything)} longer tests (pytest --all, of which this is --share=")
    collected("--systems=jax", "-k", "no_such_name", status=5, **few)


@pytest.mark.parametrize("share", ["0/3", "4/3", "a"])
def test_a_wrong_share_is_refused(share):
    _, told = collected(f"--share={share}", status=4)
    assert told == f"ERROR: --share={share}: expected K/N, as 1/3 for the first of three parts"


def test_an_unknown_system_is_refused_with_those_that_there_are():
    _, told = collected("--systems=abacus", status=4)
    assert re.search(r"--systems=abacus: .*\btorch\b", told)


def test_the_seed_is_printed():
    _, told = collected("--seed=random")
    assert re.match(r"inputs drawn by --seed=\d+; left out", told)
