"""Memory of results, used again.

The system takes back what a large array leaves behind and hands out pages that it has cleared first, one fault after
the other: that costs as much as an operation.  So the pool holds the memory of a result, and once no array lies over it
any more it goes into a later result of the same size.  Smaller ones the C library keeps at hand by itself.

A result is a view of a buffer that the pool refers to once, as does every view of that result in turn: NumPy has views
refer to the array that owns the memory.  How often a buffer is referred to therefore tells whether any are left.
Nothing has to run when a result ends.

An exception may come between any two steps of Python (Ctrl-C, a timeout), so nothing here holds a lock.  A buffer is
taken out of its deque, which is one compiled call, before it is looked at, so no other thread can see it meanwhile; one
that an exception drops there is freed with the last array over it.
"""

import operator
import os
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import prod
from sys import getrefcount
from threading import Lock
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastbn.kernels.simd import LINE

Array = NDArray[Any]
T = TypeVar("T")

LEAST = 1 << 18  # bytes: below it the C library has memory at hand
_IDLE = 10.0  # seconds after which memory that nothing asked for is let go
_LOOKS = 8  # for such memory in that time
_FULL = 16  # as large results for which no room is looked for once there was none: that looks at dozens of arrays
_UNKNOWN = -1  # a limit that the environment has not yet been asked for

# [buffer, when it was last in use, a view of it like the last result]: lists, since a tuple could not be told the time
Held = list[Any]

_SAMPLE: Held = [np.empty(1), 0.0]
_SAMPLE.append(_SAMPLE[0].view())
_FREE = getrefcount(_SAMPLE[0])  # of a buffer that nothing but such a list, and the view in there, refers to


class _Pool:
    """What is held; a forked process begins with another one."""

    def __init__(self) -> None:
        self.held: dict[int, deque[Held]] = {}  # by size; the newest to the right
        self.most = 0  # bytes that were alive at once
        self.looked = 0.0  # when idle memory was last looked for: the clock that results go by
        self.full = 0  # for so many results yet,
        self.lacked = 0  # of so many bytes or more
        self.watched = 0.0  # until when the keeper is known to look, if there is one
        self.stop = Lock()  # ends the keeper when it is released


class Count(NamedTuple):
    """Bytes the pool holds."""

    alive: int
    idle: int


_limit: int | None = _UNKNOWN
_pool = _Pool()


def empty(shape: Any, dtype: np.dtype[Any]) -> Array:
    """As numpy.empty."""
    if prod(shape) * dtype.itemsize < LEAST:
        return retried(np.empty, shape, dtype)
    return maker(shape, dtype)()


def maker(shape: Any, dtype: np.dtype[Any], most: int | None = None) -> Callable[[], Array]:
    """What makes one array after the other, each as `empty` does: all that can be is decided beforehand.

    In a program each line of Python costs a microsecond here, since what other work there was has emptied the caches.
    most: bytes that the pool may hold for this one to be among them, where `set_memory_pool` has set no limit.
    """
    shape = tuple(shape)
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < LEAST:
        return partial(np.empty, shape, dtype)

    def make() -> Array:
        held = _pool.held.get(nbytes)
        if held:
            try:
                for _ in range(len(held)):
                    entry = held.pop()  # the one last used, which is likeliest to be in a cache
                    if getrefcount(entry[0]) == _FREE:
                        like = entry[2]
                        if like.shape != shape or like.dtype is not dtype:
                            like = entry[2] = _over(entry[0], shape, dtype)
                        y: Array = like.view()
                        entry[1] = _pool.looked
                        held.append(entry)
                        return y
                    held.appendleft(entry)
            except IndexError:  # other threads look at all there are
                pass
        return _made(_pool, nbytes, shape, dtype, most)

    return make


def _over(buffer: Array, shape: Any, dtype: np.dtype[Any]) -> Array:
    """An array over a buffer, from a cache line on: rows that are whole lines are written in half the time there."""
    return np.ndarray(shape, dtype, buffer, -buffer.__array_interface__["data"][0] % LINE)


def _made(pool: _Pool, nbytes: int, shape: Any, dtype: np.dtype[Any], most: int | None) -> Array:
    """A result over memory that is new."""
    limit = get_memory_pool()
    limit = most if limit is None else limit
    if limit is not None and pool.full > 0 and nbytes >= pool.lacked:
        pool.full -= 1
        return retried(np.empty, shape, dtype)
    if limit == 0:
        return retried(np.empty, shape, dtype)
    now = monotonic()
    if now - pool.looked >= _IDLE / _LOOKS:
        _look(pool, now)
    alive, idle = count(pool)
    pool.most = max(pool.most, alive + nbytes)
    _let_oldest_go(pool, alive + idle + nbytes - (pool.most if limit is None else min(pool.most, limit)))
    if limit is not None and sum(count(pool)) + nbytes > limit:
        pool.full, pool.lacked = _FULL, nbytes
        return retried(np.empty, shape, dtype)
    buffer: Array = retried(np.empty, nbytes + LINE, np.uint8)
    like = _over(buffer, shape, dtype)
    y: Array = like.view()
    pool.held.setdefault(nbytes, deque()).append([buffer, now, like])
    _watch(pool, now)
    return y


def retried(make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What `make` makes; where memory is short, once more without what the pool holds."""
    try:
        return make(*args, **kwargs)
    except MemoryError:
        let_go()
    return make(*args, **kwargs)


def let_go() -> None:
    """Give back to the system what nothing uses."""
    _let_oldest_go(_pool, count(_pool).idle)
    _pool.most, _pool.full = count(_pool).alive, 0


def count(pool: _Pool | None = None) -> Count:
    """How much the pool holds, apart from what other threads look at in this moment."""
    alive = idle = 0
    for size, held in list((pool or _pool).held.items()):
        free = sum(getrefcount(entry[0]) == _FREE for entry in list(held))
        idle, alive = idle + size * free, alive + size * (len(held) - free)
    return Count(alive, idle)


def set_memory_pool(nbytes: int | None) -> None:
    """Keep at most so much memory of results that are gone, for those to come.

    Parameters
    ----------
    nbytes : int or None
        Bytes; 0 keeps nothing and gives back to the system what is kept.  None sets no limit of its own.

    Raises
    ------
    TypeError
        If nbytes is not an integer.
    ValueError
        If nbytes is negative.

    Notes
    -----
    Results of 256 KiB and more are kept, for which the system would otherwise clear new pages each time.  Results that
    are alive and memory that is kept together never exceed what was alive at once; what no call asked for within ten
    seconds is given back to the system, and all of it where memory is short.  No two live arrays ever share memory: it
    is used again once nothing refers to any array over it, a view or a tensor of another library included.  Without a
    limit of yours, results of fastbn.torch below 10 MB are kept up to 64 MB, for torch needs memory of its own at
    other times.  The initial value is that of the environment variable FASTBN_MEMORY_POOL, or None.
    """
    global _limit
    if nbytes is not None:
        try:
            nbytes = operator.index(nbytes)
        except TypeError:
            raise TypeError(f"nbytes is {nbytes!r}; expected an integer, or None for no limit") from None
        if nbytes < 0:
            raise ValueError(f"nbytes is {nbytes}; expected 0 or more")
    _limit, _pool.full = nbytes, 0
    if nbytes is not None:
        _let_oldest_go(_pool, sum(count()) - nbytes)
        if sum(count()) > nbytes:
            _pool.held.clear()  # what is left is in use, and goes back to the system afterwards


def get_memory_pool() -> int | None:
    """How many bytes of results that are gone are kept at most; None: as many as were alive at once."""
    global _limit
    if _limit == _UNKNOWN:
        text = os.environ.get("FASTBN_MEMORY_POOL") or None
        if text is not None and not text.strip().isdecimal():
            raise ValueError(f"environment variable FASTBN_MEMORY_POOL={text!r}; expected a number of bytes")
        _limit = None if text is None else int(text)
    return _limit


def _let_oldest_go(pool: _Pool, excess: int) -> None:
    """Give idle memory back to the system until so many bytes are, or there is none."""
    while excess > 0:
        idle = [
            (entry[1], size)
            for size, held in list(pool.held.items())
            for entry in list(held)
            if getrefcount(entry[0]) == _FREE
        ]
        if not idle:
            return
        since, size = min(idle)
        excess -= size * max(1, _let_some_go(pool, size, since))  # 0 where another thread was faster


def _let_some_go(pool: _Pool, size: int, since: float) -> int:
    """Drop buffers of this size that are idle and were last in use then or before: how many these were."""
    held, gone = pool.held.get(size, deque()), 0
    try:
        for _ in range(len(held)):
            entry = held.popleft()
            if getrefcount(entry[0]) == _FREE and entry[1] <= since:
                gone += 1
            else:
                held.append(entry)
    except IndexError:  # another thread looks at the others
        pass
    if not held:
        pool.held.pop(size, None)  # what another thread adds at this moment is freed with its last array
    return gone


def _look(pool: _Pool, now: float) -> None:
    """Let go what has been idle for long."""
    pool.looked, gone = now, 0
    for size, held in list(pool.held.items()):
        for entry in list(held):
            if getrefcount(entry[0]) != _FREE:
                entry[1] = now
        gone += _let_some_go(pool, size, now - _IDLE - _IDLE / _LOOKS)  # results know the time of the look before
    if gone:
        pool.most = sum(count(pool))


# Idle memory goes back even if no further call comes by --------------------------------------------------------------


def _watch(pool: _Pool, now: float) -> None:
    """Have idle memory looked after."""
    if now < pool.watched:
        return
    pool.watched, pool.stop = now + _IDLE, Lock()
    pool.stop.acquire()
    try:
        start_new_thread(_keep, (pool, pool.stop))  # not a Thread, whose start is not whole where an exception comes
    except RuntimeError:  # no threads here, or Python is about to end: the next result that is made looks
        return


def _keep(pool: _Pool, stop: Lock) -> None:
    """What the keeper does, a thread that ends when the pool is empty."""
    while not stop.acquire(timeout=_IDLE / _LOOKS):
        pool.watched = monotonic() + _IDLE
        _look(pool, monotonic())
        if not pool.held:
            pool.watched = 0.0
            if pool.held:  # a result was made meanwhile, and who made it may have seen this keeper still at work
                _watch(pool, monotonic())
            return
    pool.watched = 0.0


def _stop_keeper() -> None:
    """Before a fork: a process of one thread forks more safely, and from Python 3.12 on without a warning."""
    pool, end = _pool, monotonic() + 0.5
    if pool.watched and pool.stop.locked():
        with suppress(RuntimeError):  # another thread, which forks at the same time, has released it already
            pool.stop.release()
        while pool.watched and monotonic() < end:
            sleep(0.0002)


def _go_on() -> None:
    """After a fork, in the process that was there before."""
    if _pool.held:
        _watch(_pool, monotonic())


def _start_anew() -> None:
    """In a forked process: idle pages are the parent's as well, and nobody hands them on to later results."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stop_keeper, after_in_parent=_go_on, after_in_child=_start_anew)
