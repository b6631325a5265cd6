"""Whether more than one thread helps at the moment.

Serial and parallel kernels give the same bits, so the choice is free.  Small arrays are always done by the calling
thread.  For others, handing out the work may cost what it saves, and on a machine whose cores are busy many times
that: both ways are timed as calls go by, and the faster one is taken.  Calls in a row are told from those that come
after other work, which has emptied the caches: what is found of the one says little about the other, unless the array
is larger than a cache.  Of large ones a team is tried first: programs that call a few times get it.  Very large ones,
of which even a few slow calls would be noticed, always use all threads.
"""

from _thread import get_ident
from collections.abc import Callable
from math import inf
from threading import Lock
from time import perf_counter
from typing import Any

from fastbn.engine import threads
from fastbn.engine.threads import available_threads, with_threads

SERIAL_BYTES = 1 << 18  # of x: below it the calling thread is always faster
TEAM_BYTES = 1 << 28  # from here on all threads are used without a measurement

_TRIES = 3  # of a way in a row, for threads that have slept wake up slowly; the best one counts
_HOPELESS = 4  # times the other way's cost, if it takes that a second time, a way is not tried any more
_LOOK = 0.001  # seconds before so many calls are timed again, other than in trials,
UNTIMED = 12  # and as many calls of a team that go the way found without a look at the clock or any setting,
_UNTIMED_APART = 48  # or this many of calls apart, where a look takes longest
_RETRY = 0.01  # seconds after which the slower way is tried once more, for machines change,
_RETRY_SHARE = 300  # and at least so many times its own cost, so that trying costs no more than a hundredth,
_MOST_WAIT = 100  # nor of the time of calls, which may be rare: after as many as that takes, but for this many at most
_LARGE = 1 << 21  # bytes of x: from here on a team is likely to be faster: it is tried first, one thread but once
_APART = 0.001  # seconds between calls of which the latter comes after other work, which empties caches
_UNCACHED = 1 << 24  # of x: from here on little of it is in one in any case


class _Pace:
    """What calls of one kind have cost so far, serial and parallel, and which way is taken."""

    __slots__ = ("calls", "cost", "large", "left", "look", "parallel", "ready", "recent", "retry", "timed", "wait")

    def __init__(self, large: bool) -> None:
        self.large = large  # whether a team is likely to be the faster way
        self.cost = [0.0, 0.0]  # the best of the last _TRIES times: two bad ones are chance, more are a busy machine
        self.recent: list[list[float]] = [[], []]  # lists that are replaced, never changed: threads may share them
        self.ready = [inf, inf]  # when the first run of a way ended, which may have compiled: what began before it, too
        self.parallel = False  # the faster way, or the one that is tried,
        self.left = _TRIES  # so many times yet
        self.timed = 0  # of _TRIES calls in a row,
        self.look = 0.0  # and when the next ones are to be timed
        self.retry = 0.0  # when the slower way is to be tried,
        self.wait = 0.0  # and after how many calls,
        self.calls = 0  # of which there were so many

    def record(self, way: bool, start: float, end: float) -> None:
        """What a call has cost that went this way."""
        if start < self.ready[way]:
            self.ready[way] = min(self.ready[way], end)
            if not self.recent[way]:  # or it has waited for a compilation, and ends after others that were timed
                self.cost[way] = end - start
            if self.large and not self.recent[True]:  # after a first call by one thread, whose build compiles sooner
                self.parallel = True
            return
        recent = [*self.recent[way], end - start][-_TRIES:]
        self.recent[way], self.cost[way] = recent, min(recent)
        trial = self.left > 0
        if trial:
            other = not way
            if way != self.parallel:  # of a thread that began before the trial
                return
            hopeless = len(recent) > 1 and self.cost[way] > _HOPELESS * self.cost[other] > 0
            self.left = 0 if hopeless else self.left - 1
            if self.left > 0:
                return
            if not self.recent[other]:
                self.parallel, self.left = other, 1 if self.large else _TRIES
                return
        self.parallel = self.cost[True] < self.cost[False]
        if trial:
            fast, slow = self.cost[self.parallel], self.cost[not self.parallel]
            self.retry = end + max(_RETRY, _RETRY_SHARE * slow)
            self.wait, self.calls = min(100 * _TRIES * (slow - fast) / fast if fast else 0.0, _MOST_WAIT), 0
        elif end >= self.retry and self.calls >= self.wait:
            self.parallel, self.left = not self.parallel, _TRIES
            self.recent[self.parallel] = []
            return
        self.timed = (self.timed + 1) % _TRIES
        if not self.timed:
            self.look = end + _LOOK


class _Paces:
    """Those of one kind of call: in a row, and after other work."""

    __slots__ = ("apart", "calls", "end", "in_a_row", "taken")

    def __init__(self, large: bool) -> None:
        self.in_a_row, self.apart = _Pace(large), _Pace(large)
        self.end = 0.0  # of the last call that was looked at,
        self.taken = 0.0  # how long it took,
        self.calls = 1  # and how many there are from there to the next one

    def at(self, now: float) -> _Pace:
        """That of the call that begins now."""
        return self.apart if now - self.end > (_APART + self.taken) * self.calls else self.in_a_row


_paces: dict[Any, _Paces] = {}


def clear_paces() -> None:
    """Forget what calls have cost."""
    _paces.clear()
    threads.forget_choices()


_all_ways: dict[int, Lock] = {}  # by threads: locked while their calls go both ways


def all_ways() -> Lock:
    """For a `with` block of a warm-up: each call of this thread goes both ways, so that it asks for both kernels.

    A user's call would be computed twice, wrongly if its result takes the place of x.  So nothing may be left behind by
    an exception that comes between two steps of Python: a lock's own methods are compiled, as in `threads._Here`.
    """
    lock = _all_ways[get_ident()] = Lock()
    return lock


def _goes_all_ways() -> bool:
    """Whether this thread is in such a block."""
    me = get_ident()
    lock = _all_ways.get(me)
    if lock is None or lock.locked():
        return lock is not None
    _all_ways.pop(me, None)  # the block has ended
    return False


def team(nbytes: int, run: Callable[..., None]) -> Callable[..., None]:
    """What calls run(threads, ...) for an x of so many bytes, with the number of threads that is good for such calls.

    A look at all that decides the number takes 15 us in a program, where caches are cold.  So the way that was found is
    gone for some calls more, unless a setting of fastbn's changes meanwhile.  Numba's own holds in any case: it runs no
    more threads than it is set to.
    """
    kind = object()
    found, left, choices, here = 1, 0, threads.choices, threads.block_here

    def with_number(*args: Any) -> None:
        nonlocal found, left, choices
        outside = here() is None or threads.nothing_set_here()
        if left > 0 and outside and choices is threads.choices:
            left -= 1
            run(found, *args)
            return
        choices = threads.choices
        found, left = _run(kind, nbytes, run, args)
        if not outside:
            left = 0

    return with_number


def with_team(kind: Any, nbytes: int, run: Callable[..., None], *args: Any) -> None:
    """Call `run`, which does one call of this kind over an x of so many bytes, with the number of threads for it."""
    _run(kind, nbytes, run, args, asks=True)


def _run(
    kind: Any, nbytes: int, run: Callable[..., None], args: tuple[Any, ...], asks: bool = False
) -> tuple[int, int]:
    """As `with_team`; returns the number of threads that calls may go with, and how many more do so without asking.

    asks: whether all of this kind ask.
    """
    most, of_numba = available_threads() if nbytes >= SERIAL_BYTES else (1, 1)
    if most == 1:
        run(1, *args)
        return 1, UNTIMED if threads.any_thread_may() else 0
    if _all_ways and _goes_all_ways():
        run(1, *args)
        with_threads(most, of_numba, run, *args)
        return most, 0
    if nbytes >= TEAM_BYTES:
        with_threads(most, of_numba, run, *args)
        return most, 0
    paces = _paces.get((kind, most))
    if paces is None:
        if len(_paces) > 4096:
            _paces.clear()
        paces = _paces.setdefault((kind, most), _Paces(nbytes >= _LARGE))
    start = perf_counter()
    pace = paces.at(start) if nbytes < _UNCACHED else paces.in_a_row
    pace.calls += 1
    parallel = pace.parallel
    if parallel:
        with_threads(most, of_numba, run, *args)
    else:
        run(1, *args)
    paces.end = perf_counter()
    paces.taken, paces.calls = paces.end - start, 1
    if start >= pace.look:
        pace.record(parallel, start, paces.end)
    if pace.left or pace.timed or most != of_numba or not threads.any_thread_may() or asks:
        return most, 0
    more = _UNTIMED_APART if pace is paces.apart else UNTIMED
    pace.calls += more
    paces.calls += more
    return (most if pace.parallel else 1), more
