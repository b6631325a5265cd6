"""The statistics of a file's normalizations as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST = 400  # norms in one picture
NAMED = 60  # norms whose names have room
LONGEST = 32  # characters of a name
FINE, ILL = "#0072B2", "#D55E00"


def plot(rows: Sequence[Any], path: Path) -> None:
    """Write a PNG: for every norm the range of its variances, and its largest mean in standard deviations."""
    shown = [row for row in rows if row.far is not None][:MOST]
    figure = Figure(figsize=(max(6.0, min(0.16 * len(shown), 24.0)), 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    if shown:
        _draw(figure, shown)
    else:
        text = f"none of {len(rows)} norms in this file has running statistics"
        figure.text(0.5, 0.5, text, horizontalalignment="center", verticalalignment="center")
    figure.savefig(path, format="png")


def _draw(figure: Figure, shown: Sequence[Any]) -> None:
    above, below = figure.subplots(2, sharex=True)
    at = np.arange(len(shown))
    colors = np.array([ILL if row.health else FINE for row in shown])
    variances = np.array([(*row.ranges["running_var"], row.median_variance) for row in shown], float)
    good = np.isfinite(variances).all(axis=1) & (variances[:, 0] >= 0)
    variances = variances.clip(float(np.finfo(np.float32).tiny))
    above.vlines(at[good], variances[good, 0], variances[good, 1], colors=colors[good])
    above.scatter(at[good], variances[good, 2], s=9, color=colors[good], zorder=3)
    above.set_ylabel("running variance:\nleast, median, largest")
    far = np.array([row.far for row in shown], float)
    told = np.isfinite(far) & good
    below.vlines(at[told], 1e-6, far[told].clip(1e-6), colors=colors[told])
    below.axhline(1e3, color="black", linestyle=":", linewidth=1)
    below.annotate("digits are lost in other systems", (0, 1e3), (2, 3), textcoords="offset points", fontsize=8)
    below.set_ylabel("largest |mean| / std")
    below.set_xlabel("norms in the order of the file; orange where inspect has a finding")
    for axes, any_there in ((above, good.any()), (below, True)):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_yscale("log" if any_there else "linear")  # of nothing, there is no logarithmic scale
        axes.set_xlim(-0.6, len(shown) - 0.4)
    if not good.all():
        places = np.zeros(np.count_nonzero(~good))  # at the foot, for there is no place for them on the scale
        above.scatter(at[~good], places, marker="x", color=ILL, transform=above.get_xaxis_transform(), clip_on=False)
        above.set_title("x: variances that are negative, infinite or NaN", fontsize=8, loc="right", color=ILL)
    if len(shown) <= NAMED:
        labels = [_label(row.name) for row in shown]
        below.set_xticks(at, labels, rotation=90, fontsize=7, parse_math=False)


def _label(name: str) -> str:
    """A name as fonts can draw it: its end, which tells more than its beginning."""
    plain = "".join(c if c.isascii() and c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return plain if len(plain) <= LONGEST else f"...{plain[3 - LONGEST :]}"
