"""Draw docs/error-against-mean.png: how far batch norm is off float64 as the mean of its input grows.

    python benchmarks/plot_error_against_mean.py [PATH]

fastbn and NumPy always, PyTorch, oneDNN and JAX where they are installed.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastbn
from fastbn import reference

MEANS = 10.0 ** np.arange(-1, 6.1, 0.5)
SHAPE = 16, 32, 28, 28
EPS = 1e-5
ALLOWED = 5e-7
PICTURE = Path(__file__).parents[1] / "docs" / "error-against-mean.png"

Array = NDArray[np.float32]

# Okabe and Ito's colours, told apart by colour-blind readers too; the markers tell them apart in print.
STYLES = (("#0072B2", "o"), ("#555555", "^"), ("#D55E00", "s"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#009E73", "P"))


def two_passes(x: Array) -> Array:
    """The textbook's formula, for arrays of NumPy and of JAX."""
    axes = (0, 2, 3)
    return (x - x.mean(axes, keepdims=True)) / (x.var(axes, keepdims=True) + np.float32(EPS)) ** np.float32(0.5)


def torch_contenders() -> dict[str, Callable[[Array], Array]]:
    import torch

    def batch_norm(x: torch.Tensor) -> torch.Tensor:
        ones, zeros = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
        return torch.batch_norm(x, ones, zeros, zeros.clone(), ones.clone(), True, 0.1, EPS, False)

    def channels_last(x: Array) -> Array:
        return batch_norm(torch.from_numpy(x).to(memory_format=torch.channels_last)).numpy()

    contenders = {"PyTorch": lambda x: batch_norm(torch.from_numpy(x)).numpy(), "PyTorch, channels last": channels_last}
    if torch.backends.mkldnn.is_available():
        contenders["oneDNN"] = lambda x: batch_norm(torch.from_numpy(x).to_mkldnn()).to_dense().numpy()
    return contenders


def jax_contenders() -> dict[str, Callable[[Array], Array]]:
    import jax

    compiled = jax.jit(two_passes)  # its own jax.nn.standardize, by E[x^2] - E[x]^2, fails from a mean of 1e3 on
    return {"JAX": lambda x: np.asarray(compiled(x))}


def contenders() -> dict[str, Callable[[Array], Array]]:
    found = {"fastbn": lambda x: fastbn.batch_norm(x, training=True, eps=EPS), "NumPy": two_passes}
    for module, more in (("torch", torch_contenders), ("jax", jax_contenders)):
        if find_spec(module):
            found |= more()
    return found


def errors(normalize: Callable[[Array], Array]) -> list[float]:
    """The worst error at every mean, relative to the largest value of the output."""
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    worst = []
    for mean in MEANS:
        x = (noise + mean).astype(np.float32)
        exact = reference.batch_norm(x, training=True, eps=EPS)
        worst.append(float(np.abs(normalize(x) - exact).max() / np.abs(exact).max()))
    return worst


def draw(path: Path) -> None:
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, normalize), (color, marker) in zip(contenders().items(), STYLES, strict=False):
        found = errors(normalize)
        print(f"{name:24}" + " ".join(f"{error:.0e}" for error in found))
        width = 2.5 if name == "fastbn" else 1.2
        axes.loglog(MEANS, found, color=color, marker=marker, markersize=5, linewidth=width, label=name)
    axes.axhline(ALLOWED, color="black", linestyle=":", linewidth=1, label="fastbn's promise")
    axes.set_xlabel("mean of the input (standard deviation 1)")
    axes.set_ylabel("worst error, relative to the largest output")
    axes.set_title("Batch norm in float32 against float64")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, format="png")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
