"""Vanishing and exploding gradients: fifty layers, as they begin and after some epochs."""

import numpy as np

from fastbn.study._data import digits, portion
from fastbn.study._network import SGD, Linear, Sequential, cross_entropy, dense, learning_curve, with_relu
from fastbn.study._study import Array, Claim, Column, Dots, Lines, Measured, Panel, Results, Study, Way

DEPTH, WIDTH = 50, 48
SCALES = (0.7, 1.0, 1.4)
NORMS = ("no norm", "batch norm", "layer norm")
EPOCHS, BATCH_SIZE, RATE = 8, 64, 0.01
BOUND = 3.0  # orders of magnitude
TINY = 1e-30


def reaching(network: Sequential, dy: Array) -> list[float]:
    """The Euclidean norm of the gradient that reaches each linear layer, the first one's first."""
    sizes = []
    for layer in reversed(network.layers):
        if isinstance(layer, Linear):
            sizes.append(max(float(np.linalg.norm(dy.astype(np.float64))), TINY))
        dy = layer.backward(dy)
    return sizes[::-1]


def measure(way: Way, seed: int, share: float) -> Measured:
    kind, scale = way
    rng, data = np.random.default_rng(seed), digits(share)
    network = dense((64, *[WIDTH] * (DEPTH - 1), 10), with_relu(kind), rng, gain=scale)
    sizes = reaching(network, cross_entropy(network(data.train_x[:256]), data.train_y[:256])[1])
    curve = learning_curve(network, SGD(network, RATE), data, BATCH_SIZE, portion(EPOCHS, share), rng)
    return {"gradients": sizes, "orders": np.log10(sizes[0] / sizes[-1]), "accuracy": curve[-1]}


def worst(results: Results, kind: str, scales: tuple[float, ...] = SCALES) -> Array:
    """Orders of magnitude between what reaches the first layer and the last, at the scale where it is worst."""
    return np.abs(results.along("orders", [(kind, scale) for scale in scales])).max(axis=1)


def claims(results: Results) -> list[Claim]:
    least = np.abs(results.along("orders", [("no norm", scale) for scale in (0.7, 1.4)])).min(axis=1)
    low, usual = ([results.values("accuracy", kind, scale) for kind in NORMS] for scale in SCALES[:2])
    orders = "orders of magnitude between the gradients that reach the first layer and the last"
    return [
        Claim("Without norm, weights 0.7 or 1.4 times as large make gradients vanish or explode", orders, least, BOUND),
        *(
            Claim(
                f"{kind.capitalize()} keeps the gradients within a factor of 1,000 over all layers, at every scale",
                f"{BOUND:g} less the {orders}",
                BOUND - worst(results, kind),
            )
            for kind in NORMS[1:]
        ),
        *(
            Claim(
                f"With {kind} the fifty layers learn from weights with which they do not learn without",
                "points of test accuracy at scale 0.7",
                accuracy - low[0],
            )
            for kind, accuracy in zip(NORMS[1:], low[1:], strict=True)
        ),
        Claim(
            "Batch norm helps the fifty layers to learn from the usual weights, too",
            "points of test accuracy at scale 1",
            usual[1] - usual[0],
        ),
    ]


def panels(results: Results) -> list[Panel]:
    layers = range(1, DEPTH + 1)
    curves = {kind: results.values("gradients", kind, SCALES[0]) for kind in NORMS}
    usual = {kind: results.values("gradients", kind, 1.0) for kind in NORMS}
    accuracy = {
        f"{kind} at {scale:g}": results.values("accuracy", kind, scale) for kind in NORMS for scale in (0.7, 1.0)
    }
    return [
        Lines("At the beginning, scale 0.7", "layer", "norm of the gradient", list(layers), curves, log="y"),
        Lines("At the beginning, scale 1", "layer", "norm of the gradient", list(layers), usual, log="y"),
        Dots(f"After {EPOCHS} epochs, by scale", "test accuracy (%)", accuracy),
    ]


STUDY = Study(
    title="Vanishing and exploding gradients",
    about=f"{DEPTH} fully connected layers of {WIDTH} units with ReLU, on handwritten digits. First weights are those "
    f"of He et al. times 0.7, 1 or 1.4. The gradients are those that reach the output of each layer from the "
    f"first batch; then come {EPOCHS} epochs of SGD "
    f"with momentum at {RATE:g}.",
    compared="norm, scale of the weights",
    ways=tuple((kind, scale) for kind in NORMS for scale in SCALES),
    measure=measure,
    columns=(
        Column("orders", "log10 of the first layer's gradient over the last's"),
        Column("accuracy", "test accuracy (%)"),
    ),
    claims=claims,
    panels=panels,
)
