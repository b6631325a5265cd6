"""Memory of results, used again.

The system takes back what a large array leaves behind and hands out pages that it has cleared first, one fault after
the other: that costs as much as an operation.  So the memory of a result comes back here when the last array that
shows it is gone, and goes into a later result of the same size.  Smaller ones the C library keeps at hand by itself.

An exception may come between any two steps of Python (Ctrl-C, a timeout), so nothing here holds a lock: every step that
matters is one call that is compiled, of a dict, a list or a deque, and a buffer that such an exception drops is simply
freed.  Nor does any Python run when a result ends, where an exception would be lost: a weak reference's callback is
`deque.append` itself, and the next result that is made, or the keeper, takes in what it finds there.
"""

import operator
import os
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from math import prod
from threading import Lock
from time import monotonic, sleep
from typing import Any, TypeVar
from weakref import ref

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
T = TypeVar("T")

LEAST = 1 << 18  # bytes: below it the C library has memory at hand
_IDLE = 10.0  # seconds after which memory that nothing asked for is let go
_LOOK = 1.0  # seconds between two looks for such memory
_UNKNOWN = -1  # a limit that the environment has not yet been asked for


class _Memory:
    """What all arrays over a buffer keep alive; with the last of them it ends."""

    __slots__ = ("__array_interface__", "__weakref__")

    __array_interface__: dict[str, Any]


class _Lease(ref[_Memory]):
    """Holds the buffer of a result until the result has ended."""

    __slots__ = ("buffer",)

    buffer: Array


class _Held:
    """What the pool knows; a forked process begins with another one."""

    def __init__(self) -> None:
        self.leases: dict[int, _Lease] = {}  # by their id, so that they live as long as the results do
        self.ended: deque[_Lease] = deque()  # filled by the C code that ends a result
        self.idle: dict[int, list[tuple[float, Array]]] = {}  # by size: since when, what; the newest last
        self.alive = 0  # bytes of results, or about so many: threads may count at once,
        self.counted = 0  # therefore all are counted anew after some steps
        self.most = 0  # bytes that were alive at once
        self.looked = 0.0  # when idle memory was last looked for
        self.watched = 0.0  # until when the keeper is known to look, if there is one
        self.stop = Lock()  # ends the keeper when it is released


_limit: int | None = _UNKNOWN
_held = _Held()


def empty(shape: Any, dtype: np.dtype[Any]) -> Array:
    """As numpy.empty."""
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < LEAST or get_memory_pool() == 0:
        return retried(np.empty, shape, dtype)
    held = _held
    _settle(held)
    buffer = _taken(held, nbytes)
    if buffer is None:
        _make_room(held, nbytes)
        buffer = retried(np.empty, nbytes, np.uint8)
    memory = _Memory()
    simple = dtype.kind == "f"  # bfloat16 has no name in the interface
    memory.__array_interface__ = {
        "version": 3,
        "data": buffer.__array_interface__["data"],
        "shape": tuple(shape) if simple else (nbytes,),
        "typestr": dtype.str if simple else "|u1",
    }
    lease = _Lease(memory, held.ended.append)
    lease.buffer = buffer
    held.leases[id(lease)] = lease
    held.alive += nbytes
    held.most = max(held.most, held.alive)
    y = np.asarray(memory)
    return y if simple else y.view(dtype).reshape(shape)


def retried(make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What `make` makes; where memory is short, once more without what the pool holds."""
    try:
        return make(*args, **kwargs)
    except MemoryError:
        let_go()
    return make(*args, **kwargs)


def let_go() -> None:
    """Give back to the system what nothing uses."""
    held = _held
    _take_in(held)
    held.idle.clear()
    _count(held)
    held.most = held.alive


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
    is used again once nothing refers to any array over it, a view or a tensor of another library included.  The initial
    value is that of the environment variable FASTBN_MEMORY_POOL, or None.
    """
    global _limit
    if nbytes is not None:
        try:
            nbytes = operator.index(nbytes)
        except TypeError:
            raise TypeError(f"nbytes is {nbytes!r}; expected an integer, or None for no limit") from None
        if nbytes < 0:
            raise ValueError(f"nbytes is {nbytes}; expected 0 or more")
    _limit = nbytes
    _take_in(_held)
    _keep_to_limit(_held)


def get_memory_pool() -> int | None:
    """How many bytes of results that are gone are kept at most; None: as many as were alive at once."""
    global _limit
    if _limit == _UNKNOWN:
        text = os.environ.get("FASTBN_MEMORY_POOL") or None
        if text is not None and not text.strip().isdecimal():
            raise ValueError(f"environment variable FASTBN_MEMORY_POOL={text!r}; expected a number of bytes")
        _limit = None if text is None else int(text)
    return _limit


def _taken(held: _Held, nbytes: int) -> Array | None:
    """An idle buffer of this size, the one last used, which is likeliest to be in a cache."""
    stack = held.idle.get(nbytes)
    try:
        return stack.pop()[1] if stack else None
    except IndexError:  # another thread was faster
        return None


def _settle(held: _Held) -> None:
    """Take in what has ended; let go what has been idle."""
    if held.ended:
        _take_in(held)
        _keep_to_limit(held)
    now = monotonic()
    if now - held.looked >= _LOOK:
        _let_idle_go(held, now)


def _take_in(held: _Held) -> None:
    """Hold the memory of results that have ended."""
    now = monotonic()
    while held.ended:
        try:
            lease = held.ended.popleft()
        except IndexError:  # another thread was faster
            return
        buffer = getattr(lease, "buffer", None)
        if buffer is None:  # an exception came before it had one
            continue
        if held.leases.pop(id(lease), None) is lease:
            held.alive -= buffer.nbytes
        held.idle.setdefault(buffer.nbytes, []).append((now, buffer))
        _watch(held)


def _idle_bytes(held: _Held) -> int:
    return sum(size * len(stack) for size, stack in list(held.idle.items()))


def _keep_to_limit(held: _Held) -> None:
    if _limit is not None and _limit >= 0:
        _let_oldest_go(held, _idle_bytes(held) - _limit)


def _make_room(held: _Held, nbytes: int) -> None:
    """Let idle memory go, so that this and all results together are no more than were once alive, or will be now."""
    held.counted += 1
    if held.counted > 16 + len(held.leases) // 4:
        _count(held)
    _let_oldest_go(held, _idle_bytes(held) + held.alive + nbytes - max(held.most, held.alive + nbytes))


def _count(held: _Held) -> None:
    held.counted = 0
    held.alive = sum(lease.buffer.nbytes for lease in list(held.leases.values()))


def _let_oldest_go(held: _Held, excess: int) -> None:
    while excess > 0:
        stacks = [stack for stack in list(held.idle.values()) if stack]
        try:
            oldest = min(stacks, key=lambda stack: stack[0][0])
            excess -= oldest.pop(0)[1].nbytes
        except (IndexError, ValueError):  # another thread was faster, or there is none
            if not stacks:
                return


def _let_idle_go(held: _Held, now: float) -> None:
    held.looked = now
    gone = False
    for size, stack in list(held.idle.items()):
        while stack and now - stack[0][0] >= _IDLE:
            try:
                entry = stack.pop(0)
            except IndexError:  # another thread was faster
                break
            if now - entry[0] < _IDLE:  # it was, and this one is another
                stack.insert(0, entry)
                break
            gone = True
        if not stack:
            held.idle.pop(size, None)  # what another thread adds at this moment is freed
    if gone:
        held.most = held.alive + _idle_bytes(held)


# Idle memory goes back even if no further call comes by --------------------------------------------------------------


def _watch(held: _Held) -> None:
    """Have idle memory looked after."""
    now = monotonic()
    if now < held.watched:
        return
    held.watched, held.stop = now + _IDLE, Lock()
    held.stop.acquire()
    try:
        start_new_thread(_keep, (held, held.stop))  # not a Thread, whose start is not whole where an exception comes
    except RuntimeError:  # no threads here, or Python is about to end: the next result that is made looks
        return


def _keep(held: _Held, stop: Lock) -> None:
    """What the keeper does, a thread that ends with the last idle memory."""
    while not stop.acquire(timeout=_IDLE / 4):
        held.watched = monotonic() + _IDLE
        _take_in(held)
        _let_idle_go(held, monotonic())
        if not held.idle and not held.leases:
            break
    held.watched = 0.0


def _stop_keeper() -> None:
    """Before a fork: a process of one thread forks more safely, and from Python 3.12 on without a warning."""
    held, end = _held, monotonic() + 0.5
    if held.watched and held.stop.locked():
        held.stop.release()
        while held.watched and monotonic() < end:
            sleep(0.0002)


def _start_anew() -> None:
    """In a forked process: idle pages are the parent's as well; results that are alive end into what nothing reads."""
    global _held
    _held = _Held()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stop_keeper, after_in_child=_start_anew)
