"""Arrays of several processes, over a communicator like mpi4py's: gathered as raw words, the same list everywhere."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]


def _size(comm: Any) -> int:
    if not hasattr(comm, "Allgatherv"):
        raise TypeError(f"comm is of type {type(comm).__name__}; expected a communicator of mpi4py")
    return int(comm.Get_size())


def give_up(comm: Any) -> None:
    """Tell the ranks that wait in `gathered` that this one has failed; the caller raises its own error then."""
    comm.Allgather(np.array([-1], np.int64), np.empty(_size(comm), np.int64))


def gathered(words: Words, comm: Any, what: str) -> list[Words]:
    """The words of every rank, in the order of their bytes: whoever adds them up in this order gets the same bits."""
    lengths = np.empty(_size(comm), np.int64)
    comm.Allgather(np.array([words.size], np.int64), lengths)
    failed = np.flatnonzero(lengths < 0)
    if failed.size:
        ranks = ", ".join(map(str, failed))
        raise RuntimeError(f"{what} was given up on rank {ranks}, whose own error says why; no rank goes on")
    everything = np.empty(int(lengths.sum()), np.uint64)
    starts = np.cumsum(lengths) - lengths
    comm.Allgatherv(words, [everything, lengths, starts, None])
    return sorted(np.split(everything, starts[1:]), key=lambda part: part.tobytes())


def total(values: NDArray[np.float64], comm: Any, what: str) -> NDArray[np.float64]:
    """The sum over the ranks of an array that has the same shape on each: the same bits on every rank."""
    result = np.zeros(values.size)
    for part in gathered(values.ravel().view(np.uint64), comm, what):
        result += part.view(np.float64)
    return result.reshape(values.shape)
