"""Memory of large results, used again.

The system takes back what a large array leaves behind and hands out pages that it has cleared first, one fault after
the other: that costs as much as an operation.  So the memory of a large result comes back here when the last array that
shows it is gone, and goes into a later result of the same size.  Smaller ones the C library keeps at hand by itself.
"""

import operator
import os
from collections import deque
from math import prod
from threading import Lock
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEAST = 1 << 24  # bytes: from some 32 MB on malloc gives memory back to the system at once, at 16 MB it may
_IDLE = 10.0  # seconds after which memory that nothing asked for is let go, when the next call comes by

_limit: int | None = None  # None: not yet asked for
_given_back: deque[Array] = deque()  # filled by finalizers, which may run anywhere, even where the lock is held
_held: list[tuple[float, Array]] = []  # since when, what; the newest last
_lock = Lock()


class _Lease:
    """What all arrays over a buffer keep alive; with the last of them it ends."""

    __slots__ = ("__array_interface__", "_buffer")

    def __init__(self, buffer: Array) -> None:
        self._buffer = buffer
        self.__array_interface__ = buffer.__array_interface__

    def __del__(self) -> None:
        _given_back.append(self._buffer)
        _settle()


def empty(shape: Any, dtype: np.dtype[Any]) -> Array:
    """As numpy.empty."""
    nbytes = prod(shape) * dtype.itemsize
    if not LEAST <= nbytes <= get_memory_pool():
        return np.empty(shape, dtype)
    buffer = _taken(nbytes)
    if buffer is None:
        buffer = np.empty(nbytes, np.uint8)
    return np.asarray(_Lease(buffer)).view(dtype).reshape(shape)


def set_memory_pool(nbytes: int) -> None:
    """Keep at most so much memory of results that are gone, for those to come.

    Parameters
    ----------
    nbytes : int
        Bytes; 0 keeps nothing and gives back to the system what is kept.

    Raises
    ------
    TypeError
        If nbytes is not an integer.
    ValueError
        If nbytes is negative.

    Notes
    -----
    Only results of 16 MiB and more are kept, for which the system would otherwise clear new pages each time; what no
    call asked for within ten seconds is given back when the next large result comes or goes.  No two live arrays ever
    share memory: it is used again once nothing refers to any array over it, a view or a tensor of another library
    included.  The initial value is that of the environment variable FASTBN_MEMORY_POOL, or 256 MiB.
    """
    global _limit
    try:
        limit = operator.index(nbytes)
    except TypeError:
        raise TypeError(f"nbytes is {nbytes!r}; expected an integer") from None
    if limit < 0:
        raise ValueError(f"nbytes is {limit}; expected 0 or more")
    _limit = limit
    _settle(always=True)


def get_memory_pool() -> int:
    """How many bytes of results that are gone are kept at most."""
    global _limit
    if _limit is None:
        text = os.environ.get("FASTBN_MEMORY_POOL") or str(1 << 28)
        if not text.strip().isdecimal():
            raise ValueError(f"environment variable FASTBN_MEMORY_POOL={text!r}; expected a number of bytes")
        _limit = int(text)
    return _limit


def _taken(nbytes: int) -> Array | None:
    """A buffer of this size that is held, the one last used, which is likeliest to be in a cache."""
    found = None
    with _lock:
        _sort_out()
        for k in range(len(_held) - 1, -1, -1):
            if _held[k][1].nbytes == nbytes:
                found = _held.pop(k)[1]
                break
    _settle()
    return found


def _settle(always: bool = False) -> None:
    """Take in what was given back, unless another does; that one looks again when it is done."""
    while (_given_back or always) and _lock.acquire(blocking=always):
        try:
            _sort_out()
        finally:
            _lock.release()
        always = False


def _sort_out() -> None:
    """Hold what was given back, and let go what is too much or has been idle."""
    now = monotonic()
    while _given_back:
        _held.append((now, _given_back.popleft()))
    kept, total = [], 0
    for since, buffer in reversed(_held):
        total += buffer.nbytes
        if total <= (_limit or 0) and now - since < _IDLE:
            kept.append((since, buffer))
    _held[:] = reversed(kept)


def _start_anew() -> None:
    """In a forked process: another thread may have held the lock, and the pages are the parent's as well."""
    global _lock
    _lock = Lock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
