"""The results as a picture: everyone's time in fastbn's, and everyone's speed beside the limit."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastbn.cli.bench._peers import TITLES
from fastbn.cli.bench._report import short_name
from fastbn.cli.bench._results import COPY, FASTBN, Measured, Results, Summary, by_operation, mean, peers_of

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLORS = {
    FASTBN: "#0072B2",
    "numpy": "#999999",
    "torch": "#D55E00",
    "torch.compile": "#E69F00",
    "onednn": "#009E73",
    "jax": "#CC79A7",
    "onnxruntime": "#56B4E9",
}
MOST_CELLS = 16  # with more, a group of bars is an operation instead of a cell


def plot(results: Results, path: Path) -> None:
    """Write a PNG of two panels: bars against the peers, and the roofline."""
    groups = _groups(results.cells)
    peers = peers_of(results.cells)
    height = max(6.0, 1.6 + 0.18 * len(groups) * (len(peers) + 1))
    figure = Figure(figsize=(14, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    bars, roofline = figure.subplots(1, 2, width_ratios=(1, 1))
    _bars(bars, groups, peers)
    _roofline(roofline, results.cells)
    figure.suptitle(f"fastbn bench, {results.suite}: {results.machine.get('cpu')}, {results.threads} threads, float32")
    figure.savefig(path, format="png")


def _groups(cells: list[Measured]) -> list[tuple[str, Summary]]:
    if len(cells) > MOST_CELLS:
        return [(f"{s.name}\n{s.layout} ({len(s.cells)} cells)", s) for s in by_operation(cells)]
    return [
        (f"{m.cell.task}\n{short_name(m.cell)}", Summary("", "", [m])) for s in by_operation(cells) for m in s.cells
    ]


def _bars(axes: Any, groups: list[tuple[str, Summary]], peers: list[str]) -> None:
    """Bars from fastbn's time to the peer's: to the right, the peer takes longer."""
    thickness = 0.8 / max(1, len(peers))
    for k, peer in enumerate(peers):
        ratios = [(i, ratio) for i, (_, s) in enumerate(groups) if (ratio := mean(s.against(peer))) is not None]
        places = [i - 0.4 + (k + 0.5) * thickness for i, _ in ratios]
        drawn = axes.barh(
            places, [r - 1 for _, r in ratios], 0.9 * thickness, left=1, color=COLORS[peer], label=TITLES[peer]
        )
        for bar, (_, ratio) in zip(drawn, ratios, strict=True):
            end = max(ratio, 1), bar.get_y() + bar.get_height() / 2
            axes.annotate(f"{ratio:.2g}", end, (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.axvline(1, color=COLORS[FASTBN], linewidth=2, label="fastbn")
    axes.set_xscale("log")
    axes.set_yticks(range(len(groups)), [name for name, _ in groups], fontsize=8)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("time, as a multiple of fastbn's (right of the line: slower than fastbn)")
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)


def _roofline(axes: Any, cells: list[Measured]) -> None:
    """Normalization does so little arithmetic that its roof is memory alone, and depends on the size of x."""
    limits = sorted((m.cell.nbytes / 1e6, _gigabytes(m, COPY) / m.cell.copies) for m in cells if m.best(COPY))
    axes.plot(*zip(*limits, strict=True), color="black", linewidth=1, marker="_", label="streaming copy: the limit")
    for direction, marker in (("forward", "o"), ("backward", "D")):
        for peer in (*peers_of(cells), FASTBN):
            points = [
                (m.cell.nbytes / 1e6, _gigabytes(m, peer))
                for m in cells
                if m.best(peer) and m.cell.direction == direction
            ]
            ours = peer == FASTBN
            label = f"{TITLES[peer]}, {direction}" if ours else TITLES[peer] if direction == "forward" else None
            if points:
                axes.scatter(
                    *zip(*points, strict=True),
                    s=45 if ours else 22,
                    marker=marker,
                    color=COLORS[peer],
                    alpha=1 if ours else 0.75,
                    label=label,
                    zorder=3 if ours else 2,
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("size of x (MB)")
    axes.set_ylabel("GB/s that must move: x read, y written; backward: dy read too")
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)


def _gigabytes(measured: Measured, contender: str) -> float:
    best = measured.best(contender)
    assert best is not None
    return measured.bandwidth(best) / 1e9
