"""The picture of a study, from its panels."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from fastbn._doors import need
from fastbn.study._study import Array, Dots, Lines, Panel

# Okabe and Ito's colours, told apart by colour-blind readers too; the markers tell them apart in print.
STYLES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#555555", "^"),
    ("#009E73", "D"),
    ("#CC79A7", "v"),
    ("#D55E00", "P"),
    ("#56B4E9", "X"),
)
MARKERS = 20  # the most points of a curve that are marked
TICKS = 8  # the most points of a logarithmic axis that are all named
PLAIN = 1000  # times the least number, up to which a logarithmic axis tells numbers without exponents


def draw(title: str, panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG with the panels side by side."""
    need("matplotlib", "study")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.4, 4.6 * len(panels)), 3.9), dpi=84, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        if isinstance(panel, Lines):
            _lines(axes, panel)
        else:
            _dots(axes, panel)
        axes.set_title(panel.title, fontsize=10)
        axes.set_ylabel(panel.y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, format="png")


def _lines(axes: Any, panel: Lines) -> None:
    for (name, curves), (color, marker) in zip(panel.curves.items(), cycle(STYLES)):
        axes.plot(panel.x, curves.T, color=color, alpha=0.35, linewidth=0.7)
        mark = marker if len(panel.x) <= MARKERS else None
        axes.plot(
            panel.x,
            _middle(curves, "y" in panel.log),
            color=color,
            marker=mark,
            markersize=4,
            linewidth=1.8,
            label=name,
        )
    axes.set_xlabel(panel.x_label)
    if "x" in panel.log:
        axes.set_xscale("log")
        if len(panel.x) <= TICKS:
            axes.set_xticks(panel.x, [f"{x:g}" for x in panel.x])
            axes.set_xticks([], minor=True)
    if "y" in panel.log:
        _logarithmic(axes)
    axes.legend(frameon=False, fontsize=8)


def _dots(axes: Any, panel: Dots) -> None:
    kinds = dict(zip(dict.fromkeys(name.partition(" at ")[0] for name in panel.values), cycle(STYLES)))
    for at, (name, values) in enumerate(panel.values.items()):
        color, marker = kinds[name.partition(" at ")[0]]
        axes.plot(np.full(len(values), at), values, marker, color=color, markersize=5, alpha=0.6)
        axes.hlines(_middle(values, panel.log), at - 0.3, at + 0.3, color=color, linewidth=2)
    width = 13 if len(panel.values) < 6 else 10
    parts = [name.replace(" at ", "\nat ").split("\n") for name in panel.values]
    names = ["\n".join(fill(part, width) for part in of_one) for of_one in parts]
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_xlim(-0.6, len(names) - 0.4)
    if panel.log:
        _logarithmic(axes)


def _logarithmic(axes: Any) -> None:
    """Make the vertical axis logarithmic; over a few powers of ten with numbers as one writes them: 0.2, 0.5, 1, 2."""
    axes.set_yscale("log")
    least, greatest = axes.get_ylim()
    if greatest <= PLAIN * least:
        told = "25" if greatest > 5 * least else "2345678"
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in told else "")
        axes.tick_params(axis="y", which="minor", labelsize=8)


def _middle(values: Array, log: bool) -> Array:
    """The mean of the seeds, the geometric one where the axis is logarithmic."""
    middle: Array = np.exp(np.log(values).mean(0)) if log else values.mean(0)
    return middle
