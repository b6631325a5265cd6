"""The limit: a copy of x by all threads, with ordinary stores and with stores past the cache."""

from functools import partial
from typing import Any

import numpy as np
from numba import prange

from fastbn.cli.bench._problem import Array, Call
from fastbn.kernels.jit import driver, tile
from fastbn.kernels.simd import LANES, address, gap, load, load_part, store, store_part, stream

_PIECE = 16384  # elements: some microseconds of work


@tile  # type: ignore[untyped-decorator]
def _copy_piece(source: Any, target: Any, i: int, end: int, past_cache: bool) -> None:
    if past_cache:
        line = min(i + gap(target, i), end)
        while i < line:
            m = min(line - i, LANES)
            store_part(target, i, load_part(source, i, m), m)
            i += m
        while i + 2 * LANES <= end:
            stream(target, i, load(source, i), load(source, i + LANES))
            i += 2 * LANES
    while i + LANES <= end:
        store(target, i, load(source, i))
        i += LANES
    if i < end:
        store_part(target, i, load_part(source, i, end - i), end - i)


@driver  # type: ignore[untyped-decorator]
def _copy(pieces: int, source: Any, target: Any, past_cache: bool) -> None:
    for p in prange(pieces):
        _copy_piece(address(source), address(target), p * _PIECE, min((p + 1) * _PIECE, source.size), past_cache)


def copies(source: Array, target: Array) -> dict[str, Call]:
    """Ways to copy a contiguous array into another; which is the fastest depends on its size and on the machine."""
    flat = source.reshape(-1), target.reshape(-1)
    pieces = -(-source.size // _PIECE)

    def parallel(past_cache: bool) -> Call:
        def call() -> Array:
            _copy.parallel(pieces, *flat, past_cache)
            return target

        return call

    return {"one thread": partial(_copy_serial, source, target), "stores": parallel(False), "streaming": parallel(True)}


def _copy_serial(source: Array, target: Array) -> Array:
    np.copyto(target, source)
    return target
