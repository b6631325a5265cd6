"""What is new in this version, each told by a line that was run just now: a screen at the end of ``fastbn demo``."""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

import fastbn
from fastbn.cli._network import Array

REPEATS = 30


class News(NamedTuple):
    """Something new: what it is, how it is written, and what it showed here."""

    what: str
    how: str
    show: Callable[[], str]


def news() -> list[News]:
    """In the order in which they are told."""
    return [
        News("norm, sum, ReLU at once", "batch_norm(x, residual=r)", _fused),
        News("small calls", "layer_norm(x, 768)", _small),
        News("padding does not count", "batch_norm(x, where=mask)", _masked),
        News("pixels to floats", "normalize(x, mean, std)", _pixels),
        News("statistics that merge", "Moments(0) + Moments(0)", _merged),
        News("files of any system", "files.read(path).fold()", _files),
        News("PyTorch models on a CPU", "torch.convert(model)", lambda: _door("torch")),
        News("in your compiled code", "layer_norm(x, n) in @njit", lambda: "docs/numba.md"),
        News("watching layers train", "monitor.Monitor(layers)", _watched),
        News("claims, judged", "$ fastbn study --quick", lambda: f"{len(fastbn.study.NAMES)} studies"),
    ]


def _images() -> Array:
    return np.random.default_rng(0).standard_normal((32, 64, 28, 28), np.float32)


def fastest(*calls: Callable[[], Any]) -> list[float]:
    """The least time of each, in seconds, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # compiles
    for _ in range(REPEATS):
        for call, kept in zip(calls, times, strict=True):
            start = perf_counter()
            call()
            kept.append(perf_counter() - start)
    return [min(kept) for kept in times]


def _fused() -> str:
    x = _images()
    y = np.empty_like(x)
    given = None, None, np.ones(64, np.float32), np.zeros(64, np.float32)  # weights as checked, so compiled already

    def one() -> None:
        fastbn.batch_norm(x, *given, training=True, activation="relu", residual=x, out=y)

    def three() -> None:
        fastbn.batch_norm(x, *given, training=True, out=y)
        np.maximum(np.add(y, x, out=y), 0, out=y)

    fused, apart = fastest(one, three)
    return f"{apart / fused:.1f} times as fast"


def _small() -> str:
    x = np.ones((1, 768), np.float32)
    (seconds,) = fastest(lambda: [fastbn.layer_norm(x, 768) for _ in range(100)])
    return f"{seconds / 100 * 1e6:.1f} µs a call"


def _masked() -> str:
    x = _images()[:, :, 0]
    mask = (np.arange(28) < np.arange(32)[:, None] % 20 + 5)[:, None]
    y = fastbn.batch_norm(x, training=True, where=mask)
    counted = np.moveaxis(x, 1, -1)[mask[:, 0]]
    error = np.abs(np.moveaxis(y, 1, -1)[mask[:, 0]] - fastbn.reference.batch_norm(counted, training=True)).max()
    return f"as without it, to {error:.0e}"


def _pixels() -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), np.uint8)
    mean, std = np.array([120.0, 110, 100]), np.array([60.0, 55, 50])
    mean32, std32 = mean.astype(np.float32), std.astype(np.float32)
    ours, numpys = fastest(
        lambda: fastbn.normalize(pixels, mean, std, axis=-1),
        lambda: (pixels.astype(np.float32) - mean32) / std32,
    )
    return f"{numpys / ours:.1f} times NumPy's speed"


def _merged() -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 3), np.uint8)
    halves = fastbn.Moments(1).update(pixels[:300]) + fastbn.Moments(1).update(pixels[300:])
    same = halves == fastbn.Moments(1).update(pixels)
    return "parts = whole, to the bit" if same else "parts are NOT the whole"


def _files() -> str:
    from fastbn import files

    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((8, 4)), rng.standard_normal((5, 4))
    norm = fastbn.BatchNorm1d(8, dtype=np.float64)
    norm(x @ weight.T)
    norm.eval()
    state = {"linear.weight": weight} | {f"norm.{name}": value for name, value in norm.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.npz"
        files.write(path, state)
        with files.read(path) as file:
            folded = file.fold({"norm": {"weight": "linear.weight"}})
    error = np.abs(x @ folded["linear.weight"].T + folded["linear.bias"] - norm(x @ weight.T)).max()
    return f"folded, exact to {error:.0e}"


def _watched() -> str:
    norm = fastbn.BatchNorm1d(16, activation="relu")
    with fastbn.monitor.Monitor({"norm": norm}) as monitor:
        norm.backward(norm(np.random.default_rng(0).standard_normal((64, 16), np.float32)))
        monitor.step()
    return f"{monitor.latest['norm']['saturation']:.0%} of a ReLU flat"


def _door(name: str) -> str:
    return "installed: docs/torch.md" if find_spec(name) else f"needs fastbn[{name}]"
