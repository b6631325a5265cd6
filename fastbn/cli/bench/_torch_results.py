"""What ``fastbn bench --suite torch`` has measured, what follows from it, and its JSON.

What can be gained is the time of the norms, activations and sums: the network's step less that of the same network
without them.  The share of it that fastbn.torch gains is what is judged.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from fastbn.cli._errors import CommandError
from fastbn.cli.bench import _json

FORMAT = 1
SUITE = "torch"
CONTENDERS = ("torch", "fastbn", "bare", "torch.compile")
SHARES = {"ResNet-50": 0.5, "ConvNeXt-Tiny": 0.25, "3-D U-Net": 0.5}  # of what can be gained, at least
STEPS = {"ResNet-50": 1.12, "3-D U-Net": 1.12}  # speed-up of a whole step, at least
REACHED, LEVEL, MISSED, NOT_JUDGED = "reached", "level", "missed", "not judged"

_ALIKE = "cpu", "cores", "system", "python", "fastbn", "numba", "numpy"  # of the machine, in cells of one table
_RESAMPLES = 2000
_JUDGED = 5  # times its spread at least, what can be gained must be


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    network: str
    shape: tuple[int, ...]
    layout: str  # "contiguous" or "channels last"
    training: bool

    @property
    def sizes(self) -> str:
        return f"{self.shape[0]} at {self.shape[-1]}"

    @property
    def name(self) -> str:
        task = "training step" if self.training else "inference"
        return f"{self.network}, {self.sizes}, {self.layout}, {task}"


class Interval(NamedTuple):
    """A figure, and within what it lies in 95 of 100 runs like this one."""

    value: float
    low: float
    high: float


@dataclass
class Timed:
    """What was measured of a cell: seconds by contender, round by round."""

    cell: Cell
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)  # bytes that a process took for its steps
    norms: tuple[int, int] = (0, 0)  # that were folded into convolutions, and all
    failures: dict[str, str] = field(default_factory=dict)  # why a contender has no times

    def median(self, contender: str) -> float:
        return float(np.median(self.seconds[contender]))

    def speedup(self, contender: str = "fastbn") -> Interval:
        """torch's time over a contender's."""
        return self._interval(lambda s: np.median(s["torch"], axis=-1) / np.median(s[contender], axis=-1))

    def share(self, contender: str = "fastbn") -> Interval:
        """The part that is gained of what can be gained."""

        def share(s: dict[str, Any]) -> Any:
            torch, own, bare = (np.median(s[name], axis=-1) for name in ("torch", contender, "bare"))
            return (torch - own) / (torch - bare)

        return self._interval(share)

    def memory(self) -> float | None:
        """The most memory of fastbn's steps, as a part of torch's."""
        return self.peak["fastbn"] / max(self.peak["torch"], 1) if self.peak else None

    def stands_out(self) -> bool:
        """Whether what can be gained stands out of the noise."""
        gain = self._resampled(lambda s: np.median(s["torch"], axis=-1) - np.median(s["bare"], axis=-1))
        return self.median("torch") - self.median("bare") >= _JUDGED * float(np.std(gain))

    def verdicts(self) -> dict[str, str]:
        """What is said of each figure of which something is asked."""
        network = self.cell.network
        if not self.cell.training:
            speedup = self.speedup()
            return {"speed-up": REACHED if speedup.value >= 1 else LEVEL if speedup.high >= 1 else MISSED}
        said = {"gained": _reached(self.share().value >= SHARES[network])}
        if network in STEPS:
            said["speed-up"] = _reached(self.speedup().value >= STEPS[network])
        if not self.stands_out():
            said = dict.fromkeys(said, NOT_JUDGED)
        memory = self.memory()
        return said if memory is None else said | {"memory": _reached(memory <= 1)}

    def _resampled(self, statistic: Callable[[dict[str, Any]], Any]) -> Any:
        """The statistic of rounds that are drawn again and again."""
        values = {name: np.array(v) for name, v in self.seconds.items()}
        rounds = len(next(iter(values.values())))
        drawn = np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))
        return statistic({name: v[drawn] for name, v in values.items()})

    def _interval(self, statistic: Callable[[dict[str, Any]], Any]) -> Interval:
        low, high = np.quantile(self._resampled(statistic), (0.025, 0.975))
        return Interval(float(statistic({k: np.array(v) for k, v in self.seconds.items()})), float(low), float(high))


def _reached(is_so: bool) -> str:
    return REACHED if is_so else MISSED


@dataclass
class TorchResults:
    """Cells of one run, or of several on one machine."""

    date: str
    threads: int
    torch: str  # its version
    machine: dict[str, str]
    cells: list[Timed] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.machine.get('cpu')}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    def save(self, path: Path) -> None:
        _json.save({"format": FORMAT, "suite": SUITE, **asdict(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        record = _json.load(path)
        try:
            if (record.pop("format"), record.pop("suite")) != (FORMAT, SUITE):
                raise ValueError
            return cls(**(record | {"cells": [_timed(cell) for cell in record["cells"]]}))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise CommandError(f"{path} is not a file that fastbn bench --suite torch wrote") from None

    def joined(self, others: Iterable["TorchResults"]) -> "TorchResults":
        """These cells and those of other runs, of which the last one counts that has a cell."""
        found = {timed.cell: timed for timed in self.cells}
        last = self
        for other in others:
            last.refuse_unlike(other)
            found |= {timed.cell: timed for timed in other.cells}
            last = max(last, other, key=lambda results: results.date)
        return TorchResults(last.date, last.threads, last.torch, last.machine, list(found.values()))

    def refuse_unlike(self, other: "TorchResults") -> None:
        """Only ratios within one run mean anything, and a table is of one machine and one set of versions."""
        kept, new = ({**r.machine, "torch": r.torch, "threads": str(r.threads)} for r in (self, other))
        for name in (*_ALIKE, "torch", "threads"):
            if kept.get(name) != new.get(name):
                raise CommandError(
                    f"{name} is {kept.get(name)!r} in one run and {new.get(name)!r} in another; expected cells that "
                    "were measured on one machine, in the same way"
                )


def _timed(record: dict[str, Any]) -> Timed:
    cell = record["cell"]
    return Timed(
        Cell(**(cell | {"shape": tuple(cell["shape"])})),
        {name: [float(s) for s in values] for name, values in record["seconds"].items()},
        {name: int(n) for name, n in record["peak"].items()},
        tuple(record["norms"]),
        dict(record["failures"]),
    )
