"""The results as a picture: everyone's time in fastbn's, and everyone's speed beside the limit."""

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from fastbn.cli.bench._peers import TITLES
from fastbn.cli.bench._report import peers_of, short_name
from fastbn.cli.bench._results import COPY, FASTBN, Measured, Results, Summary, Timing, by_operation, mean

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLORS = {
    FASTBN: "#0072B2",
    "numpy": "#999999",
    "torch": "#D55E00",
    "torch.compile": "#E69F00",
    "onednn": "#009E73",
    "jax": "#CC79A7",
    "onnxruntime": "#56B4E9",
    "openvino": "#F0E442",
    "numbagg": "#4D4D4D",
}
BEST_PEER = "#D55E00"
MOST_CELLS = 16  # with more, a group of bars is an operation instead of a cell
BAR, GAP = 0.14, 0.17  # inches
ROOFLINE = 5.5

Group = tuple[str, dict[str, float]]  # a name, and by peer its time in fastbn's


def plot(results: Results, path: Path) -> None:
    """Write a PNG: above, bars against the peers in two columns; below, the roofline."""
    groups = _groups(results.cells)
    half = -(-len(groups) // 2)
    height = max(map(_height, (groups[:half], groups[half:])))
    figure = Figure(figsize=(14, height + ROOFLINE + 1.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(height, ROOFLINE))
    left = figure.add_subplot(grid[0, 0])
    right = figure.add_subplot(grid[0, 1], sharex=left)
    for axes, column in ((left, groups[:half]), (right, groups[half:])):
        _bars(axes, column, height)
    _roofline(figure.add_subplot(grid[1, :]), results.cells)
    peers = peers_of(results.cells)
    handles = [Line2D([], [], color=COLORS[FASTBN], linewidth=2), *(Patch(color=COLORS[peer]) for peer in peers)]
    labels = ["fastbn", *(TITLES[peer] for peer in peers)]
    title = f"fastbn bench, suite {results.suite}: {results.where}, float32"
    if results.between:
        title += f"; one call after {results.between}"
    figure.legend(
        handles, labels, title=title, title_fontsize=13, loc="outside upper center", ncols=len(labels), frameon=False
    )
    figure.savefig(path, format="png")


def _groups(cells: list[Measured]) -> list[Group]:
    summaries = list(by_operation(cells))
    if len(cells) > MOST_CELLS:
        named = [(f"{s.name}\nchannels {s.layout} ({len(s.cells)})", s) for s in summaries]
    else:
        named = [(f"{m.cell.task}\n{short_name(m.cell)}", Summary("", "", [m])) for s in summaries for m in s.cells]
    peers = peers_of(cells)
    return [(name, {p: ratio for p in peers if (ratio := mean(s.against(p))) is not None}) for name, s in named]


def _height(groups: list[Group]) -> float:
    return sum(GAP + BAR * max(2, len(ratios)) for _, ratios in groups)


def _bars(axes: Any, groups: list[Group], height: float) -> None:
    """Bars from fastbn's time to the peer's; the axis counts inches, so that all bars are of one thickness."""
    top, centers = GAP / 2, []
    for _, ratios in groups:
        room = BAR * max(2, len(ratios))
        centers.append(top + room / 2)
        for k, (peer, ratio) in enumerate(ratios.items()):
            place = top + room / 2 + BAR * (k + 0.5 - len(ratios) / 2)
            axes.barh(place, ratio - 1, 0.85 * BAR, left=1, color=COLORS[peer])
            end = (max(ratio, 1), place)
            axes.annotate(f"{ratio:#.2g}".rstrip("."), end, (3, 0), textcoords="offset points", va="center", fontsize=7)
        top += room + GAP
    axes.axvline(1, color=COLORS[FASTBN], linewidth=2)
    _logarithmic(axes, "x")
    axes.set_yticks(centers, [name for name, _ in groups], fontsize=8)
    axes.set_ylim(height, 0)
    axes.set_xlabel("time as a multiple of fastbn's: right of the line, fastbn is faster")
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _roofline(axes: Any, cells: list[Measured]) -> None:
    """Normalization does so little arithmetic that its roof is memory alone, and depends on the size of x."""
    speeds: dict[int, list[float]] = {}
    for m in cells:
        if copy := m.best(COPY):
            speeds.setdefault(m.cell.nbytes, []).append(2 * m.cell.nbytes / copy.median / 1e9)
    sizes = sorted(speeds)
    limit = [median(speeds[size]) for size in sizes]
    axes.plot([size / 1e6 for size in sizes], limit, color="black", linewidth=1, marker="_", label="streaming copy")
    for direction, marker in (("forward", "o"), ("backward", "D")):
        members = [m for m in cells if m.cell.direction == direction]
        peers = [(m, timing) for m in members if (timing := m.best_peer)]
        ours = [(m, timing) for m in members if (timing := m.best(FASTBN))]
        _scatter(axes, peers, label=f"best peer, {direction}", marker=marker, facecolors="none", edgecolors=BEST_PEER)
        _scatter(axes, ours, label=f"fastbn, {direction}", marker=marker, color=COLORS[FASTBN])
    if sizes:  # without a single point there is no logarithm
        _logarithmic(axes, "x")
        _logarithmic(axes, "y")
    axes.set_xlabel("size of x (MB)")
    axes.set_ylabel("GB/s of what must move")
    axes.set_title("Roofline: x read and y written; backward: dy read too", fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)


def _logarithmic(axes: Any, which: str) -> None:
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _scatter(axes: Any, points: list[tuple[Measured, Timing]], **style: Any) -> None:
    if points:
        x, y = zip(*((m.cell.nbytes / 1e6, m.bandwidth(timing) / 1e9) for m, timing in points), strict=True)
        axes.scatter(x, y, s=32, zorder=3, **style)
