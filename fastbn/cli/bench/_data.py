"""``fastbn bench --suite data``: data before a network sees it, against the libraries that prepare and measure data."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

import fastbn
from fastbn.cli._console import console, make_table, progress
from fastbn.cli.bench import _json
from fastbn.cli.bench._copy import copies
from fastbn.cli.bench._session import chosen, named, on_threads
from fastbn.kernels.jit import driver, tile
from fastbn.kernels.simd import address

Array = NDArray[Any]
Call = Callable[[], Any]

MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
_PIECE = 16384  # words of a sum: some microseconds of work
PEERS = {  # as --peers names them, and as the table does
    "numpy": "NumPy",
    "opencv": "OpenCV",
    "albucore": "albucore",
    "torch": "torch",
    "numbagg": "numbagg",
    "bottleneck": "bottleneck",
    "sklearn": "scikit-learn",
}
REST = 4e-3  # seconds: threads of the contender before come to rest


class Cell(NamedTuple):
    """One task: its contenders make calls, which are checked against the first one's result."""

    name: str
    nbytes: int  # read and written, at the least
    calls: Callable[[], Iterator[tuple[str, Call]]]
    tolerance: float
    written: bool  # whether results are as large as what is read, or larger


# Normalization --------------------------------------------------------------------------------------------------------


def _normalizations(x: Array, first: bool) -> Iterator[tuple[str, Call]]:
    layout = "channels_first" if first else "channels_last"
    shape = (len(x), 3, *x.shape[1:3]) if first else x.shape
    y = np.empty(shape, np.float32)
    yield "fastbn", lambda: fastbn.normalize(x, MEAN, STD, axis=-1, layout=layout, out=y)
    m, r = (v.astype(np.float32).reshape((3, 1, 1) if first else 3) for v in (MEAN, 1 / STD))
    moved = x.transpose(0, 3, 1, 2) if first else x
    z = np.empty(shape, np.float32)

    def numpy() -> Array:
        np.subtract(moved, m, out=z, dtype=np.float32)
        return np.multiply(z, r, out=z)

    yield "NumPy", numpy
    for maker in (_opencv, _albucore, _torch):
        with suppress(ImportError):
            yield from maker(x, first)


def _to_first(of_last: Array, out: Array) -> Array:
    np.copyto(out, of_last.transpose(0, 3, 1, 2))
    return out


def _opencv(x: Array, first: bool) -> Iterator[tuple[str, Call]]:
    cv2: Any = import_module("cv2")
    rows = x.reshape(-1, x.shape[2], 3)
    table = ((np.arange(256)[:, None] - MEAN) / STD).astype(np.float32).reshape(256, 1, 3)
    y, z = np.empty(rows.shape, np.float32), np.empty((len(x), 3, *x.shape[1:3]), np.float32)

    def lut() -> Array:
        cv2.LUT(rows, table, y)
        return _to_first(y.reshape(x.shape), z) if first else y.reshape(x.shape)

    yield "OpenCV, LUT", lut
    if first:
        images, mean = list(x), tuple(MEAN)
        parameters = cv2.dnn.Image2BlobParams()
        parameters.scalefactor, parameters.mean = (*(1 / STD), 1.0), (*mean, 0.0)
        yield "OpenCV, blob", lambda: cv2.dnn.blobFromImagesWithParams(images, parameters)


def _albucore(x: Array, first: bool) -> Iterator[tuple[str, Call]]:
    albucore: Any = import_module("albucore")
    rows = x.reshape(-1, x.shape[2], 3)
    m, r = MEAN.astype(np.float32), (1 / STD).astype(np.float32)
    z = np.empty((len(x), 3, *x.shape[1:3]), np.float32)

    def call() -> Array:
        y = albucore.normalize(rows, m, r).reshape(x.shape)
        return _to_first(y, z) if first else y

    yield "albucore", call


def _torch(x: Array, first: bool) -> Iterator[tuple[str, Call]]:
    torch: Any = import_module("torch")
    given = torch.from_numpy(x)
    given = given.permute(0, 3, 1, 2) if first else given
    m, s = (torch.from_numpy(v.astype(np.float32)).reshape((3, 1, 1) if first else (3,)) for v in (MEAN, STD))
    y = torch.empty(given.shape)

    def call() -> Array:
        return y.copy_(given).sub_(m).div_(s).numpy()

    yield "torch", call


# Statistics -----------------------------------------------------------------------------------------------------------


def _statistics(x: Array, axis: int) -> Iterator[tuple[str, Call]]:
    rest = tuple(a for a in range(x.ndim) if a != axis % x.ndim)

    def own() -> tuple[Array, Array]:
        moments = fastbn.Moments(axis).update(x)
        return moments.mean, moments.var()

    yield "fastbn", own
    yield "NumPy", lambda: (x.mean(rest, dtype=np.float64), x.var(rest, dtype=np.float64))
    if x.dtype == np.uint8:
        yield "NumPy, bincount", lambda: _of_counts(x, axis)
        with suppress(ImportError):
            yield "OpenCV", _by_opencv(import_module("cv2"), x, axis)
    else:
        for name in ("numbagg", "bottleneck"):
            with suppress(ImportError):
                yield name, _by_nan_functions(import_module(name), x, axis)
    with suppress(ImportError):
        yield "scikit-learn", _by_scaler(import_module("sklearn.preprocessing"), x, axis)


def _of_counts(x: Array, axis: int) -> tuple[Array, list[Any]]:
    values = np.arange(256.0)
    counts = [np.bincount(x.take(c, axis).ravel(), minlength=256) for c in range(x.shape[axis])]
    n = x.size / len(counts)
    mean = np.array([(c * values).sum() / n for c in counts])
    return mean, [(c * (values - m) ** 2).sum() / n for c, m in zip(counts, mean, strict=True)]


def _by_opencv(cv2: Any, x: Array, axis: int) -> Call:
    def call() -> tuple[Array, Array]:
        if axis == -1:
            mean, std = cv2.meanStdDev(x.reshape(-1, x.shape[-2], x.shape[-1]))
            return mean[:, 0], std[:, 0] ** 2
        planes = [[cv2.meanStdDev(x[n, c]) for c in range(x.shape[1])] for n in range(len(x))]
        means, stds = (np.array([[p[k][0, 0] for p in row] for row in planes]) for k in (0, 1))
        return means.mean(0), (stds**2).mean(0) + means.var(0)

    return call


def _by_nan_functions(library: Any, x: Array, axis: int) -> Call:
    flat = x.reshape(-1, x.shape[-1]) if axis == -1 else x.reshape(len(x), x.shape[1], -1)

    def call() -> tuple[Array, Array]:
        if axis == -1:
            return library.nanmean(flat, axis=0), _variance(library, flat, 0)
        means, variances = library.nanmean(flat, axis=2), _variance(library, flat, 2)
        return means.mean(0), variances.mean(0) + means.var(0)

    return call


def _variance(library: Any, flat: Array, axis: int) -> Array:
    return library.nanvar(flat, axis=axis, ddof=0)


def _by_scaler(preprocessing: Any, x: Array, axis: int) -> Call:
    rows = x.reshape(-1, x.shape[-1]) if axis == -1 else np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])

    def call() -> tuple[Array, Array]:
        scaler = preprocessing.StandardScaler().partial_fit(rows)
        return scaler.mean_, scaler.var_

    return call


# The suite ------------------------------------------------------------------------------------------------------------


def cells() -> Iterator[Cell]:
    """Every cell; arrays are made when it is its turn."""
    pixels = 256 * 224 * 224 * 3
    for first in (False, True):
        name = f"normalize uint8 (256, 224, 224, 3) to float32 {'NCHW' if first else 'NHWC'}"
        yield Cell(name, 5 * pixels, partial(_of_images, first), 1e-5, True)
    for axis, where in ((-1, "last"), (1, "first")):
        name = f"statistics of uint8 images, 38.5 MB, channels {where}"
        yield Cell(name, pixels, partial(_of_data, axis, "uint8"), 1e-3, False)
    for dtype in ("float32", "float64"):
        for axis, where in ((-1, "last"), (1, "first")):
            nbytes = 16 * 64 * 112 * 112 * np.dtype(dtype).itemsize
            name = f"statistics of {dtype}, {nbytes / 1e6:.0f} MB, 64 channels {where}"
            yield Cell(name, nbytes, partial(_of_data, axis, dtype), 1e-3, False)


def _of_images(first: bool) -> Iterator[tuple[str, Call]]:
    return _normalizations(_images(), first)


def _of_data(axis: int, dtype: str) -> Iterator[tuple[str, Call]]:
    return _statistics(_images(axis == 1) if dtype == "uint8" else _floats(axis, dtype), axis)


def _images(first: bool = False) -> Array:
    x = np.random.default_rng(0).integers(0, 256, (256, 224, 224, 3), np.uint8)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if first else x


def _floats(axis: int, dtype: str) -> Array:
    shape = (16, 112, 112, 64) if axis == -1 else (16, 64, 112, 112)
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype) + 1


def _copy(nbytes: int) -> Call:
    """A copy that reads and writes so many bytes together, past the cache."""
    source = np.ones(nbytes // 8, np.float32)
    return copies(source, np.empty_like(source))["streaming"]


def _reading(nbytes: int) -> Call:
    """The sum of so many bytes, taken as integers."""
    words = np.ones(nbytes // 8, np.int64)
    sums = np.zeros(-(-words.size // _PIECE), np.int64)
    return lambda: _read.parallel(sums.size, words, sums)


@tile  # type: ignore[untyped-decorator]
def _sum(words: Any, i: int, end: int) -> Any:
    a, b, c, d = words[i], words[i + 1], words[i + 2], words[i + 3]
    for k in range(i + 4, end - 3, 4):
        a += words[k]
        b += words[k + 1]
        c += words[k + 2]
        d += words[k + 3]
    return a + b + c + d


@driver  # type: ignore[untyped-decorator]
def _read(pieces: int, words: Any, sums: Any) -> None:
    for p in prange(pieces):
        sums[p] = _sum(address(words), p * _PIECE, min((p + 1) * _PIECE, words.size))


class Row(NamedTuple):
    """A contender of a cell: seconds, the best and the median of its rounds; or what went wrong."""

    cell: str
    contender: str
    best: float
    median: float
    wrong: str = ""


def measure(cell: Cell, peers: list[str], rounds: int) -> list[Row]:
    """fastbn and these peers in turn, after each one's answer was checked against fastbn's."""
    names = ("fastbn", *(PEERS[peer] for peer in peers))
    calls: dict[str, Call] = {name: call for name, call in cell.calls() if name.partition(",")[0] in names}
    rows: list[Row] = []
    expected = np.array(calls["fastbn"](), np.float64)
    for name, call in list(calls.items()):
        wrong = _wrong(call, expected, cell.tolerance)
        if wrong:
            rows.append(Row(cell.name, name, np.nan, np.nan, wrong))
            del calls[name]
    if cell.written:
        calls["copy of as many bytes"] = _copy(cell.nbytes)
    else:
        calls["reading as many bytes"] = _reading(cell.nbytes)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        order = list(calls)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            sleep(REST)
            start = perf_counter()
            calls[name]()
            seconds[name].append(perf_counter() - start)
    return [Row(cell.name, k, min(v), float(np.median(v))) for k, v in seconds.items()] + rows


def _wrong(call: Call, expected: Array, tolerance: float) -> str:
    try:
        error = abs(np.asarray(call(), np.float64) - expected).max() / abs(expected).max()
    except Exception as problem:  # a peer's own, which is a row of the table and no end of the run
        return f"{type(problem).__name__}: {(str(problem).splitlines() or ['no message'])[0]}"
    return "" if error <= tolerance else f"wrong by {error:.1e} of the largest value"


def run(only: str, peers: str | None, threads: int | None, rounds: int | None, path: Path | None) -> int:
    """Measure the cells in whose names the pattern is found, and show them."""
    selected = chosen(only, {cell.name: cell for cell in cells()})
    asked = list(PEERS) if peers is None else named(peers, PEERS)
    rows: list[Row] = []
    with on_threads(threads) as count:
        _give_threads(count)
        for cell in progress(selected, lambda cell: cell.name):
            rows += measure(cell, asked, rounds or 7)
    if path:
        _json.save([row._asdict() for row in rows], path)
    _show(selected, rows, count)
    return 1 if any(row.wrong and row.contender == "fastbn" for row in rows) else 0


def _give_threads(count: int) -> None:
    """So many threads for the peers that have some; numbagg takes Numba's."""
    for name, give in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        with suppress(ImportError):
            getattr(import_module(name), give)(count)


def _show(cells: list[Cell], rows: list[Row], threads: int) -> None:
    who = f"data before a network sees it, {threads} thread{'' if threads == 1 else 's'}"
    table = make_table([who, "ms", "GB/s", "of fastbn's time"])
    for cell in cells:
        table.add_row(cell.name)
        own = [row for row in rows if row.cell == cell.name]
        fastest = next(row.best for row in own if row.contender == "fastbn")
        for row in own:
            figures = (f"{1e3 * row.best:.2f}", f"{cell.nbytes / row.best / 1e9:.1f}", f"{row.best / fastest:.2f}")
            table.add_row(f"  {row.contender}", *(("-", "-", row.wrong) if row.wrong else figures))
    console.print(table)
