"""Statistics of data that many processes hold; for mpi4py, ``pip install "fastbn[mpi]"``."""

from typing import Any

from fastbn import _exchange
from fastbn._quiet import quietly
from fastbn.moments import Moments
from fastbn.moments._states import merged, packed, unpacked

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
        If `moments` is not Moments.
    ValueError
        On every rank, if the kept axes are not equally many, or their lengths differ between ranks.
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
        raise TypeError(f"moments is a {type(moments).__name__}; expected Moments")
    state = moments._state
    parts = [unpacked(words) for words in _exchange.gathered(packed(state), comm, "allreduce")]
    shapes = {part.n.shape for part in parts if part.n.shape or part.n.any()}
    if len(shapes) > 1:
        told = " and ".join(map(str, sorted(shapes)))
        raise ValueError(f"the ranks' moments have the shapes {told} along the kept axes; expected one shape")
    result = Moments(moments.axis)
    for part in parts:
        result._state = merged(result._state, part)
    return result
