"""The statistics of a file's normalizations as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST = 400  # norms in one picture
FINE, ILL = "#0072B2", "#D55E00"


def plot(rows: Sequence[Any], path: Path) -> None:
    """Write a PNG: for every norm the range of its variances, and its largest mean in standard deviations."""
    shown = [row for row in rows if row.far is not None][:MOST]
    figure = Figure(figsize=(max(6.0, min(0.12 * len(shown), 24.0)), 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True)
    at = np.arange(len(shown))
    colors = [ILL if row.health else FINE for row in shown]
    tiny = float(np.finfo(np.float32).tiny)
    least = np.array([row.ranges["running_var"][0] for row in shown], float).clip(tiny)
    largest = np.array([row.ranges["running_var"][1] for row in shown], float).clip(tiny)
    middle = np.array([row.median_variance for row in shown], float).clip(tiny)
    far = np.nan_to_num(np.array([row.far for row in shown], float), nan=0.0, posinf=1e38).clip(1e-6)
    above.vlines(at, least, largest, colors=colors)
    above.scatter(at, middle, s=9, color=colors, zorder=3)
    above.set_ylabel("running variance:\nleast, median, largest")
    below.vlines(at, 1e-6, far, colors=colors)
    below.axhline(1e3, color="black", linestyle=":", linewidth=1)
    below.annotate("digits are lost in other systems", (0, 1e3), (2, 3), textcoords="offset points", fontsize=8)
    below.set_ylabel("largest |mean| / std")
    below.set_xlabel("norms in the order of the file; orange where inspect has a finding")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        if shown:
            axes.set_yscale("log")
    figure.savefig(path, format="png")
