"""Whether results that are not much smaller than the caches are written past them.

Both ways give the same bits.  Which is quicker depends on the machine: how large its last cache is, who else works in
it, and what it costs there to read a line before it is written.  So calls are timed both ways, in turn, and past the
cache only wins if it saves more than may be lost where the result is read next, and found in no cache.  What was found
of other calls holds for the first ones of a new kind.
"""

from collections.abc import Callable
from math import exp, inf, log
from statistics import median
from time import perf_counter
from typing import Any

from fastbn.engine import integers
from fastbn.engine.numbers import Array, Elements

LEAST_BYTES = 2 << 20  # of a result, or twice as many of a gradient: smaller ones are left in a cache

_PAIRS = 4  # of calls, one each way; an even number, so that a slow one of every two falls to either way as often
_WORTH_IT = 0.85  # of the time in the cache: past it, a call takes no more than this
_KNOWN = 2  # other kinds: if past the cache won there, it is taken for a new one, too,
_UNTRIED = 24  # and only tried after so many calls
_CALLS = 500  # after so many, both ways are timed again, for machines change
_KEPT = 16  # ratios at most

Run = Callable[..., None]  # of (threads, ...)

_found: dict[tuple[int, int], tuple[float, ...]] = {}  # by share and size: of the last kinds, what past the cache takes


def either_way(
    elements: Elements, share: int, decide: Callable[[Elements], Array], passes: Callable[[Elements], Run]
) -> Run:
    """`passes` as for such arrays or as for larger ones, whichever is quicker here.

    share: as in `integers.past_runs`, where a gradient of half as many bytes counts as large.  decide: what kernels are
    told about either.  One thread alone, which is chosen on busy machines, always goes the way of such arrays.
    """
    in_cache, nbytes, most = passes(elements), elements.nbytes, integers.PAST_CACHE_BYTES
    larger = elements._replace(nbytes=most)
    if nbytes < share * LEAST_BYTES or share * nbytes >= most or (decide(elements) == decide(larger)).all():
        return in_cache
    return _Either(in_cache, passes(larger), (share, nbytes.bit_length()))


class _Either:
    """Calls of one kind, and what they have cost either way."""

    __slots__ = ("first", "kind", "ratios", "ready", "untimed", "way", "ways")

    def __init__(self, in_cache: Run, past_cache: Run, kind: tuple[int, int]) -> None:
        of_others = _found.get(kind, ())
        likely = len(of_others) >= _KNOWN and median(of_others) < _WORTH_IT
        self.ways, self.kind = (in_cache, past_cache), kind
        self.way = self.ways[likely]  # the quicker one,
        self.untimed = _UNTRIED if likely else 0  # for so many calls yet
        self.ready = inf  # when the first timed call ended, which may have compiled: what began before it, too
        self.first = 0.0  # seconds of the first call of a pair, if there was one
        self.ratios: list[float] = []  # replaced, never changed: threads may share it

    def __call__(self, threads: int, *args: Any) -> None:
        if threads == 1:
            self.ways[False](1, *args)
        elif self.untimed > 0:
            self.untimed -= 1
            self.way(threads, *args)
        else:
            self._time(threads, args)

    def _time(self, threads: int, args: tuple[Any, ...]) -> None:
        ratios, first = self.ratios, self.first
        past = (len(ratios) % 2 == 1) != (first > 0)  # either way is the first of a pair in turn
        start = perf_counter()
        self.ways[past](threads, *args)
        end = perf_counter()
        seconds = max(end - start, 1e-9)
        if start < self.ready:
            self.ready = min(self.ready, end)
        elif first == 0:
            self.first = seconds
        else:
            self.first = 0.0
            self.ratios = ratios = [*ratios, seconds / first if past else first / seconds]
        if len(ratios) >= _PAIRS:
            ratio = exp(median(map(log, ratios)))
            self.way, self.untimed, self.ratios = self.ways[ratio < _WORTH_IT], _CALLS, []
            _found[self.kind] = (*_found.get(self.kind, ()), ratio)[-_KEPT:]
