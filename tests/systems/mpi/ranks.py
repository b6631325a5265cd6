"""What the tests run on every rank: python ranks.py TASK FOLDER, under mpiexec."""

import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

import fastbn

comm = MPI.COMM_WORLD
CHANNELS = 5


def parts(size, shape=(CHANNELS, 7), seed=0, dtype=np.float32):
    """A batch in unequal parts, the second of which is empty."""
    counts = [6, 0, 11, 3][:size]
    whole = (np.random.default_rng(seed).normal(3, 2, (sum(counts), *shape))).astype(dtype)
    return whole, np.split(whole, np.cumsum(counts)[:-1])


def moments(folder):
    whole, each = parts(comm.size)
    results = []
    for order in (0, 1):  # the parts on other ranks the second time
        mine = fastbn.Moments(1).update(each[(comm.rank + order) % comm.size])
        results.append(fastbn.mpi.allreduce(mine, comm).to_dict())
    integers = fastbn.Moments(1).update((each[comm.rank] * 100).astype(np.int64))
    exact = fastbn.mpi.allreduce(integers, comm)
    assert exact.to_dict() == fastbn.Moments(1).update((whole * 100).astype(np.int64)).to_dict()
    mixed = fastbn.Moments(1).update(each[comm.rank].astype(np.int64 if comm.rank == 0 else np.float32))
    results.append(fastbn.mpi.allreduce(mixed, comm).to_dict())
    nothing = fastbn.mpi.allreduce(fastbn.Moments(1), comm)
    assert nothing.count == 0
    return results


def layer(folder, dtype="float32"):
    size, rank = comm.size, comm.rank
    out = {}
    for name, options, call in (
        ("plain", {}, {}),
        ("activated", {"activation": "relu"}, {"residual": True}),
        ("no affine", {"affine": False}, {}),
        ("cumulative", {"momentum": None}, {}),
        ("untracked", {"track_running_stats": False}, {}),
    ):
        _, x = parts(size, dtype=dtype)
        _, dy = parts(size, seed=1, dtype=dtype)
        _, residual = parts(size, seed=2, dtype=dtype)
        norm = fastbn.SyncBatchNorm1d(CHANNELS, comm=comm, **options)
        if norm.weight is not None:
            norm.weight, norm.bias = np.linspace(-1, 2, CHANNELS), np.linspace(0, 1, CHANNELS)
        more = {"residual": residual[rank]} if call else {}
        y = norm(x[rank], **more)
        gradients = norm.backward(dy[rank])
        out[name] = y, gradients, dict(norm.grads), norm.state_dict()
    return out


def half(folder):
    return layer(folder, "float16")


def errors(folder):
    told = []
    of_another_shape = fastbn.Moments(1).update(np.ones((2, 3 + comm.rank)))
    for mine in (of_another_shape, "no moments" if comm.rank else fastbn.Moments(1)):
        try:
            fastbn.mpi.allreduce(mine, comm)
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    norm = fastbn.SyncBatchNorm1d(3, comm=comm)
    for x in (np.ones((1 if comm.rank else 0, 3), np.float32), np.ones((4, 3), np.int64 if comm.rank else np.float32)):
        try:
            norm(x)
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    return told


def dies(folder):
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return fastbn.mpi.allreduce(fastbn.Moments(1).update(np.ones((2, 3))), comm).to_dict()


if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    result = globals()[task](folder)
    (folder / f"{comm.rank}.pickle").write_bytes(pickle.dumps(result))
