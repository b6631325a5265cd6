"""Threads: how many a call may use, and whether more than one helps at the moment.

Serial and parallel kernels give the same bits, so the choice is free.  Small arrays are always done by the calling
thread.  For others, handing out the work may cost what it saves, and on a machine whose cores are busy many times
that: both ways are timed as calls go by, and the faster one is taken.  Very large ones, of which even a few slow calls
would be noticed, always use all threads.
"""

import os
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import cache, partial
from math import ceil, inf
from operator import attrgetter, index
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numba
from numba.core import config

try:
    from numba.core.compiler_lock import global_compiler_lock as _compiling
except ImportError:
    _compiling = None

try:
    from numba.np.ufunc import parallel as _numba_parallel
except ImportError:
    _numba_parallel = None

SERIAL_BYTES = 1 << 18  # of x: below it the calling thread is always faster
TEAM_BYTES = 1 << 28  # from here on all threads are used without a measurement

_TRIES = 3  # of a way in a row, for threads that have slept wake up slowly; the best one counts
_HOPELESS = 4  # times the other way's cost, if it takes that a second time, a way is not tried any more
_LOOK = 0.001  # seconds before so many calls are timed again, other than in trials: beside a kernel, Python is slow
_RETRY = 0.01  # seconds after which the slower way is tried once more, for machines change,
_RETRY_SHARE = 300  # and at least so many times its own cost, so that trying costs no more than a hundredth,
_MOST_WAIT = 100  # nor of the time of calls, which may be rare: after as many as that takes, but for this many at most

_chosen: int | None = None  # by set_num_threads
_threads_of_numba: Callable[[], int] = numba.get_num_threads  # as set for this thread
_forked_from_omp = False
_any_thread_may = False  # use several threads: known once they were started


# How many threads -----------------------------------------------------------------------------------------------------


class _Lent(threading.local):
    """Numba's number of threads for this thread while a call has it changed."""

    number: int | None = None


_lent = _Lent()


def set_num_threads(n: int) -> None:
    """Use at most `n` threads in calls of this process.

    Parameters
    ----------
    n : int
        From 1 to the number of threads that Numba was started with (NUMBA_NUM_THREADS).

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or out of range.

    Notes
    -----
    The number of threads never changes a bit of any result.  Numba's own setting and those of other libraries stay as
    they are.  The environment variable FASTBN_NUM_THREADS sets the initial value.
    """
    global _chosen
    _chosen = _checked(n, "n")


def get_num_threads() -> int:
    """The largest number of threads that a call uses here.

    Without `set_num_threads`, `num_threads` or FASTBN_NUM_THREADS, it is the number of CPUs that the process may use:
    its affinity, a container's CPU quota and Numba's own setting are all honoured.
    """
    return (
        _set_here()
        or _chosen
        or _from_environment()
        or (1 if threading_layer() is None else min(_threads_of_numba(), _cpus()))
    )


class _Here(ContextDecorator):
    """A number of threads that holds while its lock is locked.

    What a `with` statement calls is the lock's own, compiled: between two steps of Python an exception could come, and
    leave the number as it is for ever.
    """

    def __init__(self, n: int) -> None:
        self.n, self.outer, self.lock = n, _active(), Lock()
        self._enter, self._exit = partial(self.lock.acquire, False), self.lock.__exit__

    def _recreate_cm(self) -> "_Here":
        return num_threads(self.n)

    if TYPE_CHECKING:

        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    else:
        __enter__ = property(attrgetter("_enter"))
        __exit__ = property(attrgetter("_exit"))


_here: ContextVar[_Here | None] = ContextVar("fastbn_num_threads", default=None)  # by num_threads


def _active() -> _Here | None:
    """The innermost block that this code runs in."""
    block = _here.get()
    while block is not None and not block.lock.locked():
        block = block.outer
    return block


def _set_here() -> int | None:
    block = _active()
    return None if block is None else block.n


def num_threads(n: int) -> _Here:
    """Use at most `n` threads within a ``with`` block, in this thread (or asynchronous task) alone.

    Examples
    --------
    >>> import fastbn
    >>> with fastbn.num_threads(1):
    ...     fastbn.get_num_threads()
    1
    """
    block = _Here(_checked(n, "n"))
    _here.set(block)
    return block


def _checked(n: Any, name: str) -> int:
    try:
        number = index(n)
    except TypeError:
        raise TypeError(f"{name} is {n!r}; expected an integer") from None
    if not 1 <= number <= config.NUMBA_NUM_THREADS:
        raise ValueError(
            f"{name} is {number}; expected 1 to {config.NUMBA_NUM_THREADS}, the threads that Numba was started with "
            "(set NUMBA_NUM_THREADS before Python starts to change that)"
        )
    return number


@cache
def _from_environment() -> int | None:
    text = os.environ.get("FASTBN_NUM_THREADS")
    if not text:
        return None
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise ValueError(f"environment variable FASTBN_NUM_THREADS={text!r}; expected a number from 1 up")
    return min(number, config.NUMBA_NUM_THREADS)  # one environment may serve machines of several sizes


@cache
def _cpus() -> int:
    """CPUs that this process may use."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return affinity if quota is None else max(1, min(affinity, ceil(quota)))


def cpu_quota() -> float | None:
    """CPUs' worth of time that the process's control group may use, or None."""
    quotas = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        root = Path("/sys/fs/cgroup")
        files: list[tuple[Path, ...]]
        if controllers == "":
            files = [(folder / "cpu.max",) for folder in _ancestors(root, path)]
        elif "cpu" in controllers.split(","):
            folders = _ancestors(root / "cpu", path)
            files = [(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us") for folder in folders]
        else:
            continue
        quotas += [quota for names in files if (quota := _quota(names)) is not None]
    return min(quotas, default=None)


def _ancestors(root: Path, path: str) -> list[Path]:
    folder = root / path.lstrip("/")
    return [folder, *(p for p in folder.parents if p == root or root in p.parents)]


def _quota(names: tuple[Path, ...]) -> float | None:
    try:
        quota, period = " ".join(name.read_text() for name in names).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or "max"
        return None


# Whether to use them --------------------------------------------------------------------------------------------------


def threading_layer() -> str | None:
    """What runs Numba's threads: "omp", "tbb" or "workqueue"; None if none can be started."""
    if config.DISABLE_JIT:
        return None
    return _started_layer()


@cache
def _started_layer() -> str | None:
    global _threads_of_numba
    try:
        numba.get_num_threads()  # starts the threads, for which it takes two locks every time: 10 us beside a kernel
        _threads_of_numba = getattr(_numba_parallel, "_get_num_threads", numba.get_num_threads)
        return str(numba.threading_layer())
    except (ValueError, ImportError, AttributeError):
        return None


def _after_fork() -> None:
    """GNU OpenMP's threads do not survive a fork, and using them in a child ends the process."""
    global _forked_from_omp, _any_thread_may
    _any_thread_may = False
    try:
        _forked_from_omp = numba.threading_layer() == "omp"
    except ValueError:  # no threads were started before the fork
        _forked_from_omp = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    if _compiling is not None:  # a child born while another thread compiles would wait for its lock for ever
        os.register_at_fork(
            before=_compiling.acquire, after_in_parent=_compiling.release, after_in_child=_compiling.release
        )


def available_threads() -> tuple[int, int]:
    """How many threads a call may use here and now, and how many Numba is set to."""
    if not _any_thread_may and not _may_here():
        return 1, 1
    if _lent.number is not None:  # an exception came before it was put back
        _put_back()
    of_numba = _threads_of_numba()
    return (_here.get() and _set_here()) or _chosen or _from_environment() or min(of_numba, _cpus()), of_numba


def _may_here() -> bool:
    """Whether this thread may use several."""
    global _any_thread_may
    layer = None if _forked_from_omp else threading_layer()
    if layer == "workqueue":  # Numba's own pool aborts the process when two threads use it at once
        return threading.current_thread() is threading.main_thread()
    _any_thread_may = layer is not None
    return _any_thread_may


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


def with_team(kind: Any, nbytes: int, run: Callable[..., None], *args: Any) -> None:
    """Call `run`, which does one call of this kind over an x of so many bytes, with the number of threads for it."""
    most, of_numba = available_threads() if nbytes >= SERIAL_BYTES else (1, 1)
    if most == 1:
        run(1, *args)
        return
    if nbytes >= TEAM_BYTES:
        _with_threads(most, of_numba, run, *args)
        return
    pace = _paces.get((kind, most))
    if pace is None:
        if len(_paces) > 4096:
            _paces.clear()
        pace = _paces.setdefault((kind, most), _Pace())
    pace.calls += 1
    start, parallel = perf_counter(), pace.parallel
    if parallel:
        _with_threads(most, of_numba, run, *args)
    else:
        run(1, *args)
    if start >= pace.look:
        pace.record(parallel, start, perf_counter())


def _with_threads(n: int, of_numba: int, run: Callable[..., None], *args: Any) -> None:
    """Call `run` with Numba's setting for this thread changed for that time."""
    if n == of_numba:
        run(n, *args)
        return
    _lent.number = of_numba
    try:
        numba.set_num_threads(n)
        run(n, *args)
    finally:
        _put_back()


def _put_back() -> None:
    """Set Numba's number for this thread to what it was, unless it has been."""
    if _lent.number is not None:
        numba.set_num_threads(_lent.number)
        _lent.number = None
