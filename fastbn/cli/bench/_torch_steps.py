"""``fastbn bench --suite torch``: training steps and inference of networks, by torch, fastbn.torch and torch.compile.

What can be gained is the time of the norms, activations and sums: the network's step less that of the same network
without them.  The share of it that fastbn.torch gains is what is shown.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fastbn.cli import info
from fastbn.cli._console import console, heading, make_table, progress, say
from fastbn.cli.bench._session import chosen, named, on_threads

ROUNDS = 30
_WARM_UP = 3  # rounds that are not counted
_REST = 0.004  # seconds: until the threads of the last contender have come to rest
_RESAMPLES = 2000
_JUDGED = 5  # times its spread at least, what can be gained must be

SHARES = {"ResNet-50": 0.5, "ConvNeXt-Tiny": 0.25, "3-D U-Net": 0.5}  # of what can be gained, at least
STEPS = {"ResNet-50": 1.12, "3-D U-Net": 1.12}  # speed-up of a whole step, at least


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    network: str
    shape: tuple[int, ...]
    layout: str  # "contiguous" or "channels last"
    training: bool

    @property
    def name(self) -> str:
        sizes = f"{self.shape[0]} at {self.shape[-1]}"
        return f"{self.network}, {sizes}, {self.layout}, {'training step' if self.training else 'inference'}"


@dataclass
class Timed:
    """What was measured of a cell: seconds by contender, round by round."""

    cell: Cell
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)  # bytes that a fresh process took for its steps

    def median(self, contender: str) -> float:
        return float(np.median(self.seconds[contender]))

    def speedup(self) -> tuple[float, float, float]:
        """torch's time over fastbn's, and its interval of 95%."""
        return self._interval(lambda s: np.median(s["torch"], axis=-1) / np.median(s["fastbn"], axis=-1))

    def share(self) -> tuple[float, float, float]:
        """The part that is gained of what can be gained, and its interval."""

        def share(s: dict[str, Any]) -> Any:
            torch, own, bare = (np.median(s[name], axis=-1) for name in ("torch", "fastbn", "bare"))
            return (torch - own) / (torch - bare)

        return self._interval(share)

    def judged(self) -> bool:
        """Whether what can be gained stands out of the noise."""
        gain = self._resampled(lambda s: np.median(s["torch"], axis=-1) - np.median(s["bare"], axis=-1))
        return self.median("torch") - self.median("bare") >= _JUDGED * float(np.std(gain))

    def _resampled(self, statistic: Callable[[dict[str, Any]], Any]) -> Any:
        """The statistic of rounds that are drawn again and again."""
        values = {name: np.array(v) for name, v in self.seconds.items()}
        rounds = len(next(iter(values.values())))
        drawn = np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))
        return statistic({name: v[drawn] for name, v in values.items()})

    def _interval(self, statistic: Callable[[dict[str, Any]], Any]) -> tuple[float, float, float]:
        low, high = np.quantile(self._resampled(statistic), (0.025, 0.975))
        return float(statistic({name: np.array(v) for name, v in self.seconds.items()})), float(low), float(high)


def cells() -> Iterator[Cell]:
    """All rows of the table."""
    from fastbn.cli.bench._torch_networks import NETWORKS

    for training in (True, False):
        for network, (_, shapes) in NETWORKS.items():
            batches = shapes if training else tuple((n, *shapes[0][1:]) for n in (1, 8))
            for shape in batches:
                for layout in ("contiguous", "channels last"):
                    yield Cell(network, shape, layout, training)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    import torch

    selected = chosen(args.only, {cell.name: cell for cell in cells()})
    compiled = "torch.compile" in named(args.peers or "torch", ("torch", "torch.compile"))
    measured = []
    with on_threads(args.threads) as threads:
        torch.set_num_threads(threads)
        for cell in progress(selected, lambda cell: cell.name):
            timed = measure(cell, args.rounds or ROUNDS, compiled)
            timed.peak = peaks(cell, threads) if cell.training else {}
            measured.append(timed)
            if args.json:  # cell by cell: nothing that goes wrong later loses it
                save(args.json, measured, threads)
    show(measured, threads)
    if args.png:
        draw(measured, args.png)
    return 1 if any(verdict(timed) == "missed" for timed in measured) else 0


def contenders(cell: Cell, compiled: bool) -> dict[str, tuple[Any, Any]]:
    """The networks and their input."""
    import torch

    import fastbn.torch
    from fastbn.cli.bench._torch_networks import NETWORKS

    make = NETWORKS[cell.network][0]
    torch.manual_seed(0)
    model, bare = make(), make(bare=True)
    layout = torch.contiguous_format
    if cell.layout != "contiguous":
        layout = torch.channels_last if len(cell.shape) == 4 else torch.channels_last_3d
    x = torch.randn(cell.shape).contiguous(memory_format=layout)
    networks = {"torch": model, "fastbn": fastbn.torch.convert(model), "bare": bare}
    if compiled:
        networks["torch.compile"] = torch.compile(make())
    return {name: (net.to(memory_format=layout).train(cell.training), x) for name, net in networks.items()}


def step(net: Any, x: Any, training: bool) -> None:
    """A training step without its optimizer, or inference."""
    import torch

    if not training:
        with torch.no_grad():
            net(x)
        return
    net(x).square().mean().backward()
    for parameter in net.parameters():
        parameter.grad = None


def measure(cell: Cell, rounds: int, compiled: bool) -> Timed:
    """Every contender takes a turn in every round, each being the first in turn."""
    networks = contenders(cell, compiled)
    timed = Timed(cell, {name: [] for name in networks})
    names = list(networks)
    for k in range(_WARM_UP + rounds):
        for name in (*names[k % len(names) :], *names[: k % len(names)]):
            time.sleep(_REST)
            start = time.perf_counter()
            step(*networks[name], cell.training)
            if k >= _WARM_UP:
                timed.seconds[name].append(time.perf_counter() - start)
    return timed


def peaks(cell: Cell, threads: int) -> dict[str, int]:
    """What two training steps add to the memory of a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(_peak, (cell, name, threads)) for name in ("torch", "fastbn")}


def _peak(cell: Cell, name: str, threads: int) -> int:
    import torch

    torch.set_num_threads(threads)
    small = Cell(cell.network, (2, *cell.shape[1:2], *(32,) * (len(cell.shape) - 2)), cell.layout, True)
    step(*contenders(small, False)[name], True)  # compiles, and starts the threads
    networks = contenders(cell, False)
    net, x = networks.pop(name)
    networks.clear()
    before = _most_memory()
    for _ in range(2):
        step(net, x, True)
    return _most_memory() - before


def _most_memory() -> int:
    """The most memory that this process has had, in bytes.

    Linux's ru_maxrss begins at what the parent had, so that a small child of a large process seems to take nothing.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def verdict(timed: Timed) -> str:
    """Whether the cell shows what it must."""
    if not timed.cell.training:
        return "reached" if timed.speedup()[2] >= 1 else "missed"
    if not timed.judged():
        return "not judged"
    reached = timed.share()[0] >= SHARES[timed.cell.network]
    return "reached" if reached and timed.speedup()[0] >= STEPS.get(timed.cell.network, 0) else "missed"


def show(measured: list[Timed], threads: int) -> None:
    """A table of training steps, and one of inference."""
    heading("What this ran on")
    machine = info.config()
    del machine["cache"]
    console.print(info.as_text(machine))
    for training, title in ((True, "Training steps"), (False, "Inference")):
        rows = [timed for timed in measured if timed.cell.training is training]
        if rows:
            heading(f"{title}, in milliseconds, {threads} threads, float32")
            console.print(table_of(rows))
    say(
        "Medians of interleaved steps with intervals of 95%. bare: the network without norms, activations and sums. "
        "gained: (torch - fastbn) / (torch - bare). memory: the most that fastbn's step takes over torch's most."
    )


def table_of(rows: list[Timed]) -> Any:
    """A table of cells that are all training steps, or all inference, narrow enough for 80 columns."""
    training = rows[0].cell.training
    names = [n for n in ("torch", "fastbn", "bare", "torch.compile") if any(n in timed.seconds for timed in rows)]
    heads = ["", *(n.removeprefix("torch.") for n in names), "speed-up"]
    table = make_table([*heads, "gained", "memory"] if training else heads)
    for timed in rows:
        cell, said = timed.cell, verdict(timed)
        row = [f"{cell.network}\n{cell.shape[0]} at {cell.shape[-1]}\n{cell.layout}"]
        row += [_milliseconds(timed.median(n)) if n in timed.seconds else "-" for n in names]
        row.append(_with_interval(timed.speedup(), "" if training else said))
        if training:
            peak = f"{timed.peak['fastbn'] / max(timed.peak['torch'], 1):.2f}" if timed.peak else "-"
            row += [_with_interval(timed.share(), said), peak]
        table.add_row(*row)
        table.add_section()
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _with_interval(values: tuple[float, float, float], said: str) -> str:
    """A figure, its interval, and what is said of it, a line each."""
    value, low, high = values
    return f"{value:.2f}\n{low:.2f} to\n{high:.2f}\n{said}".rstrip()


def save(path: Path, measured: list[Timed], threads: int) -> None:
    """Everything measured, as JSON."""
    import torch

    date = datetime.now(UTC).isoformat(timespec="seconds")
    machine = info.config()
    del machine["cache"]
    content = {"suite": "torch", "date": date, "threads": threads, "torch": torch.__version__, "machine": machine}
    path.write_text(json.dumps(content | {"cells": [asdict(timed) for timed in measured]}, indent=1) + "\n")


def draw(measured: list[Timed], path: Path) -> None:
    """A bar a cell: the share of the gain, or the speed-up of inference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 1 + 0.4 * len(measured)), layout="constrained")
    parts = (True, "share of the gain", Timed.share), (False, "speed-up of inference", Timed.speedup)
    for axis, (training, title, statistic) in zip(axes, parts, strict=True):
        rows = [timed for timed in measured if timed.cell.training is training]
        found = np.array([statistic(timed) for timed in rows]).reshape(-1, 3)
        error = np.abs(found[:, 1:] - found[:, :1]).T
        axis.barh([timed.cell.name for timed in rows], found[:, 0], xerr=error, color="tab:blue")
        axis.axvline(0.5 if training else 1, color="black", linewidth=0.8)
        axis.set_title(title)
        axis.invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)
