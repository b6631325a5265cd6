"""What one rank of two refuses, and more: python two_ranks.py FOLDER, under mpiexec."""

import pickle
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

import fastbn

comm = MPI.COMM_WORLD
x = np.random.default_rng(comm.rank).normal(3, 2, (6, 3)).astype(np.float32)


def layer():
    return fastbn.SyncBatchNorm1d(3, comm=comm)


def backward(dy):
    norm = layer()
    norm(x)
    return norm.backward(dy)


def twice():
    """With a context of its own, which can be used as often as wanted."""
    norm = layer()
    context = norm.forward(x)[1]
    return [norm.backward(x, context) for _ in range(2)]


def without_context():
    norm = layer()
    norm(x)
    norm.backward(x)
    return norm.backward(x)


REFUSED = {
    "channels": lambda: layer()(x[:, :2]),
    "axes": lambda: layer()(x[0]),
    "nothing": lambda: layer()(None),
    "residual": lambda: layer()(x, residual=x[:, :2]),
    "mask": lambda: layer()(x, where=np.ones(9, bool)),
    "numbers as a mask": lambda: layer()(x, where=np.ones(3)),
    "gradient": lambda: backward(x[:2]),
    "context": without_context,
}
FINE = {
    "residual": lambda: layer()(x, residual=x),
    "mask": lambda: layer()(x, where=np.ones(3, bool)),
    "numbers as a mask": lambda: layer()(x, where=np.ones(3, bool)),
    "gradient": lambda: backward(x),
    "context": twice,
}

told = {}
for name, refused in REFUSED.items():
    try:
        refused() if comm.rank else FINE.get(name, lambda: layer()(x))()
        told[name] = "nothing"
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
names = "first", "second", "third"


def labelled(*dims, labels=names):
    """Moments as fastbn.xarray.moments makes them, whose labels are pandas' indexes."""
    moments = fastbn.Moments(1).update(x)
    moments._names, moments._labels = dims, (np.array(labels),)
    return moments


for name, mine in (
    ("labels", lambda: labelled("channel", labels=names[:: 1 - 2 * comm.rank])),
    ("dimensions", lambda: labelled(("channel", "level")[comm.rank])),
    ("the same", lambda: labelled("channel")),
    ("one without", lambda: fastbn.Moments(1).update(x) if comm.rank else labelled("channel")),
):
    try:
        told[name] = fastbn.mpi.allreduce(mine(), comm)._names
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"

norm = layer()
(counted,) = fastbn.population_statistics([norm], np.split(x, 2), norm)
told["population"] = x, norm.state_dict(), counted.to_dict()
(Path(sys.argv[1]) / f"{comm.rank}.pickle").write_bytes(pickle.dumps(told))
