"""``fastbn bench --suite torch``: training steps and inference of networks, by torch, fastbn.torch and torch.compile.

The cells may be measured in several runs (--only, --resume): what one JSON file has is kept, and shown with the rest.
"""

import argparse
import ctypes
import gc
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastbn.cli import info
from fastbn.cli._console import progress
from fastbn.cli._errors import CommandError
from fastbn.cli.bench import _torch_report as report
from fastbn.cli.bench._session import chosen, named, on_threads
from fastbn.cli.bench._torch_results import MISSED, Cell, Timed, TorchResults
from fastbn.engine import memory

ROUNDS = 30
_WARM_UP = 3  # rounds that are not counted
_PEAK = Path("/proc/self/clear_refs")  # where the most memory of a process is counted anew
_REST = 0.004  # seconds: until the threads of the last contender have come to rest


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

    every = list(cells())
    selected = chosen(args.only, {cell.name: cell for cell in every})
    compiled = "torch.compile" in named(args.peers or "torch,torch.compile", ("torch", "torch.compile"))
    with on_threads(args.threads) as threads:
        torch.set_num_threads(threads)
        results = _begun(args, threads)
        known = {timed.cell for timed in results.cells}
        for cell in progress([c for c in selected if c not in known], lambda cell: cell.name, lines=True):
            timed = measure(cell, args.rounds or ROUNDS, compiled)
            timed.peak = peaks(cell, threads) if cell.training else {}
            results.cells = sorted([*results.cells, timed], key=lambda t: every.index(t.cell))
            if args.json:  # cell by cell: nothing that goes wrong later loses it
                results.save(args.json)
    report.show(results)
    if args.png:
        report.draw(results, args.png)
    return 1 if any(MISSED in timed.verdicts().values() for timed in results.cells) else 0


def _begun(args: argparse.Namespace, threads: int) -> TorchResults:
    """Results to be completed: what the JSON file has, if that is to be kept."""
    import torch

    machine = info.config()
    del machine["cache"]  # a folder of the user's own, in a file that may be shown around
    fresh = TorchResults(datetime.now(UTC).isoformat(timespec="seconds"), threads, torch.__version__, machine)
    if not args.resume:
        return fresh
    if not args.json:
        raise CommandError("--resume keeps the cells of the --json file; expected its name")
    if not args.json.exists():
        return fresh
    kept = TorchResults.load(args.json)
    fresh.refuse_unlike(kept)
    return replace(fresh, cells=kept.cells)


def contenders(cell: Cell, names: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """The networks and their input."""
    import torch

    import fastbn.torch
    from fastbn.cli.bench._torch_networks import NETWORKS

    make = NETWORKS[cell.network][0]
    layout = torch.contiguous_format
    if cell.layout != "contiguous":
        layout = torch.channels_last if len(cell.shape) == 4 else torch.channels_last_3d
    torch.manual_seed(0)
    x = torch.randn(cell.shape).contiguous(memory_format=layout)
    made = {}
    for name in names:
        torch.manual_seed(0)
        net: Any = make(bare=name == "bare")
        net = net.to(memory_format=layout).train(cell.training)
        if name == "fastbn":
            net = fastbn.torch.convert(net, inplace=True)
        made[name] = (torch.compile(net) if name == "torch.compile" else net), x
    return made


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
    names = ("torch", "fastbn", "bare", *(("torch.compile",) if compiled else ()))
    networks = contenders(cell, names)
    timed = Timed(cell)
    if compiled:
        reason = _refused(*networks["torch.compile"], cell.training)
        if reason:
            del networks["torch.compile"]
            timed.failures["torch.compile"] = reason
    names = tuple(networks)
    timed.seconds = {name: [] for name in names}
    for k in range(_WARM_UP + rounds):
        for name in (*names[k % len(names) :], *names[: k % len(names)]):
            time.sleep(_REST)
            start = time.perf_counter()
            step(*networks[name], cell.training)
            if k >= _WARM_UP:
                timed.seconds[name].append(time.perf_counter() - start)
    timed.norms = _norms(networks["fastbn"][0])
    networks.clear()
    if compiled:
        _forget_compiled()
    return timed


def _refused(net: Any, x: Any, training: bool) -> str:
    """Compile a network; why that cannot be done, if so: it needs a C++ compiler, for one thing."""
    try:
        step(net, x, training)
    except Exception as problem:  # a peer's own, which is a gap in the table and no end of the run
        return f"{type(problem).__name__}: {(str(problem).splitlines() or ['no message'])[0]}"
    return ""


def _forget_compiled() -> None:
    import torch

    torch._dynamo.reset()
    gc.collect()


def _norms(net: Any) -> tuple[int, int]:
    """How many norms were folded into a convolution, and how many there are."""
    from fastbn.torch._folded import is_folded
    from fastbn.torch.layers import Fusable

    norms = [module for module in net.modules() if isinstance(module, Fusable)]
    return sum(map(is_folded, norms)), len(norms)


def peaks(cell: Cell, threads: int) -> dict[str, int]:
    """What two training steps add to the memory of a process that has made one, on Linux."""
    if not _PEAK.exists():
        return {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(_peak, (cell, name, threads)) for name in ("torch", "fastbn")}


def _peak(cell: Cell, name: str, threads: int) -> int:
    import torch

    torch.set_num_threads(threads)
    net, x = contenders(cell, (name,))[name]
    step(net, x, True)  # compiles, and starts the threads
    gc.collect()
    memory.let_go()
    ctypes.CDLL(None).malloc_trim(0)
    _PEAK.write_text("5")  # begins anew with what there is now
    before = _most_memory()
    for _ in range(2):
        step(net, x, True)
    return _most_memory() - before


def _most_memory() -> int:
    """The most memory that this process has had, in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
