"""Draws docs/shared-statistics.svg: which elements share a mean and a variance.

python docs/pictures/shared_statistics.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Polygon, Rectangle

N, C, S = 3, 4, 5  # samples, channels, positions
NORMS = {
    "batch norm": ("a channel, over all samples", lambda n, c, s: c == 0),
    "layer norm": ("a sample's trailing axes", lambda n, c, s: n == 0),
    "group norm": ("a group of a sample's channels", lambda n, c, s: n == 0 and c < 2),
    "instance norm": ("a channel of a sample", lambda n, c, s: n == 0 and c == 0),
    "RMS norm": ("as layer norm; the mean is 0", lambda n, c, s: n == 0),
}
SHARED, OTHER, EDGE = "#2b6cb0", "#e6ecf2", "#6b7785"
WIDTH, HEIGHT, SLANT = 0.9, 0.8, 0.42  # of a cell, and how far a step back moves it


def draw(axes, shared):
    """A block of samples (to the right), positions (down) and channels (back), of which three faces are seen."""

    def cell(corners, of_group):
        axes.add_patch(Polygon(corners, facecolor=SHARED if of_group else OTHER, edgecolor=EDGE, linewidth=0.8))

    def point(n, c, s):
        return n * WIDTH + c * SLANT, -s * HEIGHT + c * SLANT

    for n in range(N):
        for s in range(S):  # the front: channel 0
            corners = [point(n, 0, s), point(n + 1, 0, s), point(n + 1, 0, s + 1), point(n, 0, s + 1)]
            cell(corners, shared(n, 0, s))
        for c in range(C):  # the top: position 0
            corners = [point(n, c, 0), point(n + 1, c, 0), point(n + 1, c + 1, 0), point(n, c + 1, 0)]
            cell(corners, shared(n, c, 0))
    for c in range(C):
        for s in range(S):  # the side: the last sample
            corners = [point(N, c, s), point(N, c + 1, s), point(N, c + 1, s + 1), point(N, c, s + 1)]
            cell(corners, shared(N - 1, c, s))
    axes.set_xlim(-0.6, N * WIDTH + C * SLANT + 0.3)
    axes.set_ylim(-S * HEIGHT - 0.7, C * SLANT + 0.4)
    axes.set_aspect("equal")
    axes.axis("off")


def main():
    plt.rcParams |= {"svg.hashsalt": "fastbn", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}
    figure, all_axes = plt.subplots(1, len(NORMS) + 1, figsize=(14, 3.4), width_ratios=[*[1] * len(NORMS), 0.8])
    for axes, (name, (who, shared)) in zip(all_axes, NORMS.items(), strict=False):
        draw(axes, shared)
        axes.set_title(name, fontweight="bold", fontsize=13)
        axes.text(0.5, -0.02, who, ha="center", va="top", transform=axes.transAxes)
    legend = all_axes[-1]
    legend.axis("off")
    legend.set_xlim(0, 10)
    legend.set_ylim(0, 10)
    for y, color, text in ((6.4, SHARED, "share one mean\nand one variance"), (4.2, OTHER, "other groups")):
        legend.add_patch(Rectangle((0.2, y), 1.2, 1.1, facecolor=color, edgecolor=EDGE))
        legend.text(1.8, y + 0.5, text, va="center")
    legend.text(0.2, 2.6, "to the right: samples (N)\nto the back: channels (C)\ndown: positions (H, W)", va="top")
    figure.tight_layout()
    figure.savefig(Path(__file__).parents[1] / "shared-statistics.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
