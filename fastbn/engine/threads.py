"""How many threads a call may use: what users set, CPUs, control group and Numba allow, and where forks make it one."""

import os
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import cache, partial
from math import ceil
from operator import attrgetter, index
from pathlib import Path
from threading import Lock
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

_chosen: int | None = None  # by set_num_threads
_threads_of_numba: Callable[[], int] = numba.get_num_threads  # as set for this thread
_forked_from_omp = False
_any_thread_may = False  # use several threads: known once they were started
choices = object()  # another one whenever what was found about threads may hold no more


def forget_choices() -> None:
    """Let the next call of any kind look at all that decides about threads."""
    global choices
    choices = object()


def any_thread_may() -> bool:
    """Whether every thread of this process may use several; where some may not, each call has to look."""
    return _any_thread_may


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
    forget_choices()


def get_num_threads() -> int:
    """The largest number of threads that a call uses here.

    Without `set_num_threads`, `num_threads` or FASTBN_NUM_THREADS, it is the number of CPUs that the process may use:
    its affinity, a container's CPU quota and Numba's own setting are all honoured.
    """
    return requested() or (1 if threading_layer() is None else min(_threads_of_numba(), _cpus()))


def requested() -> int | None:
    """The number that a user has set: by `num_threads` here, `set_num_threads` or FASTBN_NUM_THREADS; None: none."""
    return _set_here() or _chosen or _from_environment()


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
block_here = _here.get  # the last block that began here, which may have ended


def _active() -> _Here | None:
    """The innermost block that this code runs in."""
    block = _here.get()
    while block is not None and not block.lock.locked():
        block = block.outer
    return block


def nothing_set_here() -> bool:
    """Whether this code runs in no block of `num_threads`."""
    return _active() is None


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
    for folder, unified in group_folders("cpu"):
        names = ("cpu.max",) if unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        if (quota := _quota(tuple(folder / name for name in names))) is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def group_folders(controller: str) -> list[tuple[Path, bool]]:
    """The folders of the process's control group and of those above it, and whether each is of version 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    result = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        root = Path("/sys/fs/cgroup")
        if controllers == "":
            result += [(folder, True) for folder in _ancestors(root, path)]
        elif controller in controllers.split(","):
            result += [(folder, False) for folder in _ancestors(root / controller, path)]
    return result


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
    forget_choices()
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


def with_threads(n: int, of_numba: int, run: Callable[..., None], *args: Any) -> None:
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
