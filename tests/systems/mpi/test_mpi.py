"""Moments and layers over the ranks of MPI, run for real by mpiexec."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbn

RANKS = Path(__file__).with_name("ranks.py")
CHANNELS = 5
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def run(task, size, folder):
    command = [MPIEXEC, "-n", str(size), sys.executable, str(RANKS), task, str(folder)]
    environment = os.environ | {"FASTBN_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def results(task, size, folder):
    done = run(task, size, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def joined(size, seed=0, dtype=np.float32):
    counts = [6, 0, 11, 3][:size]
    return np.random.default_rng(seed).normal(3, 2, (sum(counts), CHANNELS, 7)).astype(dtype)


@pytest.mark.parametrize("size", [2, 4])
def test_moments(size, tmp_path):
    ranks = results("moments", size, tmp_path)
    assert all(rank == ranks[0] for rank in ranks), "the same bits on every rank"
    first, moved, _ = ranks[0]
    assert first == moved, "whichever rank holds which part"
    expected = fastbn.Moments(1).update(joined(size))
    seen = fastbn.Moments.from_dict(first)
    np.testing.assert_array_equal(seen.count, expected.count)
    np.testing.assert_allclose(seen.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(seen.var(), expected.var(), rtol=1e-12)


def close(actual, expected, magnitude=None):
    """Within 2 ulp, and at least 2e-7, of the numbers that were added up."""
    scale = max(1.0, np.max(np.abs(expected))) if magnitude is None else magnitude
    unit = np.finfo(expected.dtype).eps
    assert np.max(np.abs(actual.astype(np.float64) - expected), initial=0) <= max(2 * unit, 2e-7) * scale


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("task", ["layer", "half"])
def test_layers(size, task, tmp_path):
    ranks = results(task, size, tmp_path)
    dtype = np.float16 if task == "half" else np.float32
    x, dy, residual = (joined(size, seed, dtype) for seed in range(3))
    for name, options in (
        ("plain", {}),
        ("activated", {"activation": "relu"}),
        ("no affine", {"affine": False}),
        ("cumulative", {"momentum": None}),
        ("untracked", {"track_running_stats": False}),
    ):
        norm = fastbn.BatchNorm1d(CHANNELS, **options)
        if norm.weight is not None:
            norm.weight, norm.bias = np.linspace(-1, 2, CHANNELS), np.linspace(0, 1, CHANNELS)
        expected = norm(x, **({"residual": residual} if name == "activated" else {}))
        gradients = norm.backward(dy)
        close(np.concatenate([rank[name][0] for rank in ranks]), expected)
        own = [rank[name][1] if isinstance(gradients, tuple) else (rank[name][1],) for rank in ranks]
        for i, gradient in enumerate(gradients if isinstance(gradients, tuple) else (gradients,)):
            close(np.concatenate([rank[i] for rank in own]), gradient)
        for key, gradient in norm.grads.items():
            terms = np.abs(dy.astype(np.float64)).sum() / CHANNELS
            total = sum(rank[name][2][key].astype(np.float64) for rank in ranks)
            assert np.max(np.abs(total - gradient)) <= 1e-6 * terms
        for key, value in norm.state_dict().items():
            assert all(np.array_equal(rank[name][3][key], ranks[0][name][3][key]) for rank in ranks)
            np.testing.assert_allclose(ranks[0][name][3][key], value, rtol=1e-6)


def test_errors_are_told_on_every_rank(tmp_path):
    first, second = results("errors", 2, tmp_path)
    assert first[0] == second[0]
    assert "shapes (3,) and (4,)" in first[0]
    assert first[1].startswith("RuntimeError: allreduce was given up on rank 1")
    assert second[1].startswith("TypeError: moments is of type str")
    assert first[2] == second[2]
    assert "Expected more than 1 value per channel" in first[2]
    assert first[3].startswith("RuntimeError: allreduce was given up on rank 1")
    assert second[3].startswith("TypeError: x has dtype int64")


def test_a_rank_that_dies_ends_the_program(tmp_path):
    done = run("dies", 2, tmp_path)
    assert done.returncode != 0


def test_the_communicator_is_neither_saved_nor_copied():
    class Comm:
        pass

    layer = fastbn.SyncBatchNorm2d(3, comm=Comm())
    for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert again.comm is None
        with pytest.raises(ValueError, match=r"set layer\.comm"):
            again(np.ones((2, 3, 4, 4), np.float32))
        again.eval()(np.ones((2, 3, 4, 4), np.float32))
