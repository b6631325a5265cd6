"""Whether more than one thread helps at the moment.

Serial and parallel kernels give the same bits, so the choice is free.  Small arrays are always done by the calling
thread.  For others, handing out the work may cost what it saves, and on a machine whose cores are busy many times
that: both ways are timed as calls go by, and the faster one is taken.  Very large ones, of which even a few slow calls
would be noticed, always use all threads.
"""

from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Any

from fastbn.engine import threads
from fastbn.engine.threads import available_threads, with_threads

SERIAL_BYTES = 1 << 18  # of x: below it the calling thread is always faster
TEAM_BYTES = 1 << 28  # from here on all threads are used without a measurement

_TRIES = 3  # of a way in a row, for threads that have slept wake up slowly; the best one counts
_HOPELESS = 4  # times the other way's cost, if it takes that a second time, a way is not tried any more
_LOOK = 0.001  # seconds before so many calls are timed again, other than in trials,
_UNTIMED = 12  # and as many calls of a team that go the way found without a look at the clock or any setting
_RETRY = 0.01  # seconds after which the slower way is tried once more, for machines change,
_RETRY_SHARE = 300  # and at least so many times its own cost, so that trying costs no more than a hundredth,
_MOST_WAIT = 100  # nor of the time of calls, which may be rare: after as many as that takes, but for this many at most


class _Pace:
    """What one kind of call has cost so far, serial and parallel, and which way is taken."""

    __slots__ = ("calls", "cost", "left", "look", "parallel", "ready", "recent", "retry", "timed", "wait")

    def __init__(self) -> None:
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
                self.parallel, self.left = other, _TRIES
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


_paces: dict[Any, _Pace] = {}


def clear_paces() -> None:
    """Forget what calls have cost."""
    _paces.clear()
    threads.forget_choices()


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
        found = _run(kind, nbytes, _UNTIMED, run, args)
        left = _UNTIMED if found and outside else 0

    return with_number


def with_team(kind: Any, nbytes: int, run: Callable[..., None], *args: Any) -> None:
    """Call `run`, which does one call of this kind over an x of so many bytes, with the number of threads for it."""
    _run(kind, nbytes, 0, run, args)


def _run(kind: Any, nbytes: int, more: int, run: Callable[..., None], args: tuple[Any, ...]) -> int:
    """As `with_team`; returns the number of threads that so many more calls may go with, or 0 if each is to ask."""
    most, of_numba = available_threads() if nbytes >= SERIAL_BYTES else (1, 1)
    if most == 1:
        run(1, *args)
        return 1 if threads.any_thread_may() else 0
    if nbytes >= TEAM_BYTES:
        with_threads(most, of_numba, run, *args)
        return 0
    pace = _paces.get((kind, most))
    if pace is None:
        if len(_paces) > 4096:
            _paces.clear()
        pace = _paces.setdefault((kind, most), _Pace())
    pace.calls += 1
    start, parallel = perf_counter(), pace.parallel
    if parallel:
        with_threads(most, of_numba, run, *args)
    else:
        run(1, *args)
    if start >= pace.look:
        pace.record(parallel, start, perf_counter())
    if pace.left or pace.timed or most != of_numba or not threads.any_thread_may():
        return 0
    pace.calls += more
    return most if pace.parallel else 1
