"""What a study is made of: ways that are compared, what is measured of each, and the claims that it is to judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Way = tuple[Any, ...]  # as ("batch norm", 0.1)
Measured = dict[str, Any]  # numbers and curves by their names


@dataclass(frozen=True)
class Results:
    """What was measured, by way; the runs of a way are in the order of the seeds, which all ways share."""

    runs: dict[Way, list[Measured]]

    def values(self, key: str, *way: Any) -> Array:
        """Numbers (seeds,) or curves (seeds, points) of one way."""
        return np.array([run[key] for run in self.runs[way]], np.float64)

    def along(self, key: str, ways: Sequence[Way]) -> Array:
        """The numbers of several ways as a curve (seeds, ways)."""
        return np.stack([self.values(key, *way) for way in ways], axis=1)


@dataclass(frozen=True)
class Claim:
    """A sentence, and by seed a number that is above `bound` where the sentence is true."""

    text: str
    number: str  # what the number is, with its unit
    values: Array
    bound: float = 0.0


@dataclass(frozen=True)
class Lines:
    """A panel: curves (seeds, points), each seed thin and their mean thick."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    curves: dict[str, Array]
    log: str = ""  # the axes that are logarithmic, of "xy"


@dataclass(frozen=True)
class Dots:
    """A panel: a dot a seed and a bar at their mean, side by side for each label; labels may end in " at ..."."""

    title: str
    y_label: str
    values: dict[str, Array]
    log: bool = False


Panel = Lines | Dots


class Column(NamedTuple):
    """A column of the table: what is measured, under which heading, in which format."""

    key: str
    heading: str
    format: str = ".1f"


@dataclass(frozen=True)
class Study:
    """Everything that is particular to a study.

    ``measure(way, seed, share)`` runs one way once.  `share` is 1 but in tests, which take a share of the work.
    """

    title: str
    about: str
    compared: str  # what the ways differ in, the heading of their column
    ways: tuple[Way, ...]
    measure: Callable[[Way, int, float], Measured]
    columns: tuple[Column, ...]
    claims: Callable[[Results], list[Claim]]
    panels: Callable[[Results], list[Panel]]


def label(way: Way) -> str:
    return ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in way)
