"""Whether results that are not much smaller than the caches are written past them.

Both ways give the same bits.  Which is quicker depends on the machine: how large its last cache is, who else works in
it, and how dear it is there to read a line before it is written.  So both are timed, in turn, and past the cache only
wins if it saves so much that whoever reads the result next, and finds it in no cache, does not lose it again.  What was
found of other calls holds for the first ones of a new kind.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from fastbn.engine import integers
from fastbn.engine.numbers import Elements

LEAST_BYTES = 4 << 20  # of the result, or a gradient from half of it on: smaller ones are left in a cache

_PAIRS = 3  # of calls, one each way, whose median counts
_WORTH_IT = 0.85  # of the time in the cache: past it, a call takes no more than this
_KNOWN = 2 * _PAIRS  # pairs of other calls: if past the cache won in them, it is taken for new ones, too,
_UNTRIED = 24  # and only tried after so many calls
_CALLS = 500  # after so many, both ways are timed again, for machines change

Run = Callable[..., None]  # of (threads, ...)

_KEPT = 32  # of them at most
_found: dict[tuple[int, int], tuple[float, ...]] = {}  # by share and size: the last ratios, past the cache to in it


def either_way(elements: Elements, share: int, passes: Callable[[Elements], Run]) -> Run:
    """`passes` over such arrays, or those over larger ones where the machine is quicker with these.

    share: how many arrays as large as the result a call reads.
    """
    in_cache, nbytes = passes(elements), share * elements.nbytes
    if not LEAST_BYTES <= nbytes < integers.PAST_CACHE_BYTES:
        return in_cache
    past_cache = passes(elements._replace(nbytes=integers.PAST_CACHE_BYTES))
    return _Either(in_cache, past_cache, (share, nbytes.bit_length()))


class _Either:
    """Calls of one kind, and what they have cost either way."""

    __slots__ = ("first", "kind", "ratios", "untimed", "way", "ways")

    def __init__(self, in_cache: Run, past_cache: Run, kind: tuple[int, int]) -> None:
        of_others = _found.get(kind, ())
        likely = len(of_others) >= _KNOWN and median(of_others) < _WORTH_IT
        self.ways, self.kind = (in_cache, past_cache), kind
        self.way = self.ways[likely]  # the quicker one,
        self.untimed = _UNTRIED if likely else 1  # for so many calls yet: the first one of all may compile
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
        seconds = perf_counter() - start
        if first == 0:
            self.first = seconds
            return
        self.first = 0.0
        self.ratios = ratios = [*ratios, seconds / first if past else first / max(seconds, 1e-9)]
        if len(ratios) >= _PAIRS:
            self.way, self.untimed, self.ratios = self.ways[median(ratios) < _WORTH_IT], _CALLS, []
            _found[self.kind] = (*_found.get(self.kind, ()), *ratios)[-_KEPT:]
