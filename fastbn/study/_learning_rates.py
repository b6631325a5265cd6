"""Higher learning rates and faster convergence: a small convolutional network with batch norm and without."""

import numpy as np

from fastbn.cli._digits import TARGET, epochs_to_target
from fastbn.study._data import digits, portion
from fastbn.study._network import SGD, convolutional, learning_curve, with_relu
from fastbn.study._study import Array, Claim, Column, Lines, Measured, Panel, Results, Study, Way

RATES = (0.005, 0.02, 0.08, 0.32, 1.28)
NORMS = ("batch norm", "no norm")
EPOCHS, BATCH_SIZE = 6, 64


def measure(way: Way, seed: int, share: float) -> Measured:
    kind, rate = way
    rng, data, epochs = np.random.default_rng(seed), digits(share), portion(EPOCHS, share)
    network = convolutional(with_relu(kind), rng)
    curve = learning_curve(network, SGD(network, rate), data, BATCH_SIZE, epochs, rng)
    return {"curve": curve, "accuracy": curve[-1], "epochs": min(epochs_to_target(curve), epochs + 1)}


def by_rate(results: Results, key: str, kind: str) -> Array:
    return results.along(key, [(kind, rate) for rate in RATES])


def largest_rate(results: Results, kind: str) -> Array:
    """The logarithm to base 4 of the largest rate at which a seed reaches the target, counted from below the least."""
    reached = by_rate(results, "accuracy", kind) >= TARGET
    return np.where(reached, np.arange(1, len(RATES) + 1), 0).max(axis=1)


def claims(results: Results) -> list[Claim]:
    with_norm, without = (largest_rate(results, kind) for kind in NORMS)
    fastest = [by_rate(results, "epochs", kind).min(axis=1) for kind in NORMS]
    final = [by_rate(results, "accuracy", kind).max(axis=1) for kind in NORMS]
    return [
        Claim(
            f"With batch norm a higher learning rate still reaches {TARGET:.0f} %",
            "rates of the grid, each 4 times the last, by which the largest that does is higher",
            with_norm - without,
        ),
        Claim(
            f"Batch norm reaches {TARGET:.0f} % in fewer epochs, each at its own best rate",
            "epochs saved",
            fastest[1] - fastest[0],
        ),
        Claim(
            "It is more accurate in the end, each at its own best rate",
            "points of test accuracy",
            final[0] - final[1],
        ),
    ]


def panels(results: Results) -> list[Panel]:
    best = {kind: RATES[int(by_rate(results, "accuracy", kind).mean(0).argmax())] for kind in NORMS}
    curves = {f"{kind}, rate {best[kind]:g}": results.values("curve", kind, best[kind]) for kind in NORMS}
    epochs = range(1, next(iter(curves.values())).shape[1] + 1)
    final = {kind: by_rate(results, "accuracy", kind) for kind in NORMS}
    return [
        Lines("After the last epoch", "learning rate", "test accuracy (%)", RATES, final, log="x"),
        Lines("Each at its best rate", "epoch", "test accuracy (%)", list(epochs), curves),
    ]


STUDY = Study(
    title="Higher learning rates, faster convergence",
    about=f"Four convolutions on handwritten digits, SGD with momentum, batches of {BATCH_SIZE}, {EPOCHS} epochs, at "
    f"learning rates from {RATES[0]:g} to {RATES[-1]:g}. A run that never reaches {TARGET:.0f} % counts as one epoch "
    "more than there were; one whose loss is no longer finite, as a guess.",
    compared="norm, learning rate",
    ways=tuple((kind, rate) for kind in NORMS for rate in RATES),
    measure=measure,
    columns=(Column("accuracy", "test accuracy (%)"), Column("epochs", f"epochs to {TARGET:.0f} %")),
    claims=claims,
    panels=panels,
)
