"""Statistics of data that many processes hold; for mpi4py, ``pip install "fastbn[mpi]"``."""

from copy import copy
from hashlib import blake2b
from typing import Any

import numpy as np

from fastbn import _exchange
from fastbn._quiet import quietly
from fastbn.moments import Moments
from fastbn.moments._states import NOTHING, merged, packed, unpacked

__all__ = ["allreduce"]


@quietly
def allreduce(moments: Moments, comm: Any) -> Moments:
    """The moments of all ranks together, on every rank.

    Parameters
    ----------
    moments : Moments
        What this rank has counted, which may be nothing; it stays as it is.
    comm : mpi4py.MPI.Comm
        The processes.  All of them must call.

    Returns
    -------
    Moments
        Of what all ranks have counted: the same bits on every rank, whichever rank holds which part.

    Raises
    ------
    TypeError
        If `moments` is not Moments, or `comm` no communicator.
    ValueError
        On every rank, if the kept axes are not equally many, or their lengths differ between ranks, or the dimensions
        or labels of xarray do.
    RuntimeError
        If another rank could not take part.

    Notes
    -----
    The states are gathered as raw words of 64 bits, without pickle, sorted by their bytes and merged in that order.
    Of C groups a rank sends some 40 C bytes (integers: 48 C) and receives that of every rank.  Integers stay exact.

    Examples
    --------
    >>> import fastbn
    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> moments = fastbn.Moments(axis=1).update(my_part)  # doctest: +SKIP
    >>> everything = fastbn.mpi.allreduce(moments, MPI.COMM_WORLD)  # doctest: +SKIP
    """
    if not isinstance(moments, Moments):
        _exchange.give_up(comm)
        raise TypeError(f"moments is of type {type(moments).__name__}; expected Moments")
    words = np.append(packed(moments._state), _number_of_labels(moments))
    arrived = _exchange.gathered(words, comm, "allreduce")
    parts = [unpacked(words[:-1]) for words in arrived]
    if len({int(words[-1]) for words in arrived} - {0}) > 1:
        raise ValueError("the ranks' moments keep other dimensions or labels; expected the same ones in the same order")
    shapes = {part.n.shape for part in parts if part.n.shape or part.n.any()}
    if len(shapes) > 1:
        told = " and ".join(map(str, sorted(shapes)))
        raise ValueError(f"the ranks' moments have the shapes {told} along the kept axes; expected one shape")
    result = copy(moments)  # with the names and labels of xarray's dimensions, if it has them
    result._state = NOTHING
    for part in parts:
        result._state = merged(result._state, part)
    return result


def _number_of_labels(moments: Moments) -> np.uint64:
    """The same for the same dimensions and labels of xarray, in every process; 0 where there are none."""
    if moments._names is None:
        return np.uint64(0)
    labels = [None if index is None else index.tolist() for index in moments._labels]
    return np.frombuffer(blake2b(repr((moments._names, labels)).encode(), digest_size=8).digest(), np.uint64)[0]
