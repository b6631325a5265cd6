"""The learning curves as a picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastbn.cli._digits import CHANCE, LEARNING_RATES, NORMS, Trials

# Okabe and Ito's colours, told apart by colour-blind readers too; the markers tell them apart in print.
STYLES = dict(zip(NORMS, (("#0072B2", "o"), ("#E69F00", "s"), ("#555555", "^")), strict=True))


def plot(trials: Trials, path: Path) -> None:
    """Write a PNG with a panel a learning rate: every seed as a thin line, their mean as a thick one."""
    figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(LEARNING_RATES), sharey=True)
    for axes, lr in zip(panels, LEARNING_RATES, strict=True):
        for norm, (color, marker) in STYLES.items():
            accuracy = trials[norm, lr].by_epoch
            epochs = range(1, accuracy.shape[1] + 1)
            axes.plot(epochs, accuracy.T, color=color, alpha=0.35, linewidth=0.8)
            axes.plot(epochs, accuracy.mean(0), color=color, marker=marker, markersize=5, linewidth=2, label=norm)
        axes.axhline(CHANCE, color="black", linestyle=":", linewidth=1)
        axes.annotate(
            "chance", (1, CHANCE), (0, 4), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right"
        )
        axes.set_title(f"learning rate {lr:g}", fontsize=12)
        axes.set_xlabel("epoch")
        axes.set_ylim(0, 102)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].legend(frameon=False, loc="center right")
    figure.suptitle(f"Handwritten digits: {accuracy.shape[0]} seeds (thin) and their mean (thick)", fontsize=13)
    figure.savefig(path, format="png")
