"""Two ranks of MPI: what one refuses is told on both, labels are compared, population statistics are of both."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbn

PROGRAM = Path(__file__).with_name("two_ranks.py")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
REFUSED = {
    "channels": "ValueError",
    "axes": "ValueError",
    "nothing": "TypeError",
    "residual": "ValueError",
    "mask": "ValueError",
    "numbers as a mask": "TypeError",
    "gradient": "ValueError",
    "context": "ValueError",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [MPIEXEC, "-n", "2", sys.executable, str(PROGRAM), str(folder)]
    environment = os.environ | {"FASTBN_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_rank_refuses_is_told_before_the_other_waits(told, name):
    kind = "backward" if name in ("gradient", "context") else "allreduce"
    assert told[0][name].startswith(f"RuntimeError: {kind} was given up on rank 1")
    assert told[1][name].split(":")[0] == REFUSED[name]


def test_names_and_labels(told):
    for name in ("labels", "dimensions"):
        assert {rank[name] for rank in told} == {
            "ValueError: the ranks' moments keep other dimensions or labels; expected the same ones in the same order"
        }
    assert [rank["the same"] for rank in told] == [("channel",)] * 2
    assert [rank["one without"] for rank in told] == [("channel",), None]


def test_population_statistics_are_those_of_all_ranks(told):
    x = np.concatenate([rank["population"][0] for rank in told])
    for _, state, counted in (rank["population"] for rank in told):
        assert counted == told[0]["population"][2]
        assert fastbn.Moments.from_dict(counted).count.tolist() == [len(x)] * 3
        np.testing.assert_allclose(state["running_mean"], x.mean(0, np.float64), rtol=1e-6)
        np.testing.assert_allclose(state["running_var"], x.var(0, np.float64), rtol=1e-6)
