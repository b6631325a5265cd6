"""Batch sizes from 2 to 256: batch norm beside layer, group and ghost norm and batch renormalization."""

from math import ceil

import numpy as np

from fastbn.study._data import digits, portion
from fastbn.study._network import SGD, accuracy, convolutional, fit, test_loss, with_relu
from fastbn.study._study import Array, Claim, Column, Lines, Measured, Panel, Results, Study, Way

SIZES = (2, 8, 32, 256)
NORMS = ("batch norm", "renorm", "ghost norm", "layer norm", "group norm")
TRAINING, EPOCHS, STEPS = 768, 4, 60  # more epochs where they would be fewer steps
RATE = 0.1  # at batches of 64; others in proportion
RELAXED = (3.0, 5.0)  # limits of renorm after its first epoch
# Ghost norm takes 8 samples at a time: at smaller batches it is batch norm, and not run again.
WAYS = tuple((kind, size) for kind in NORMS for size in SIZES if kind != "ghost norm" or size > 8)


def measure(way: Way, seed: int, share: float) -> Measured:
    kind, size = way
    rng, data = np.random.default_rng(seed), digits(share, TRAINING)
    network = convolutional(with_relu(kind), rng)
    size = min(size, len(data.train_y))
    epochs = max(EPOCHS, ceil(STEPS * size / TRAINING))
    for _ in fit(network, SGD(network, RATE * size / 64), data, size, portion(epochs, share), rng):
        for layer in network.layers:
            if getattr(layer, "renorm", None):
                layer.renorm = RELAXED
    return {"accuracy": accuracy(network, data), "loss": test_loss(network, data)}


def by_size(results: Results, key: str, kind: str) -> Array:
    """Curves (seeds, sizes), with NaN where a size was left out."""
    known = [way for way in WAYS if way[0] == kind]
    values = results.along(key, known)
    return np.hstack([np.full((len(values), len(SIZES) - len(known)), np.nan), values])


def claims(results: Results) -> list[Claim]:
    def gain(size: int, kind: str, over: str = "batch norm") -> Array:
        return results.values("accuracy", kind, size) - results.values("accuracy", over, size)

    two, middle = (results.values("accuracy", "batch norm", size) for size in (2, 32))
    points = "points of test accuracy"
    return [
        Claim("Batch norm is less accurate at batches of 2 than of 32", points, middle - two),
        *(
            Claim(f"At batches of 2, {kind} is more accurate than batch norm", points, gain(2, kind))
            for kind in ("group norm", "layer norm", "renorm")
        ),
        Claim(
            "At batches of 256, ghost norm (by 8 samples) is more accurate than batch norm",
            points,
            gain(256, "ghost norm"),
        ),
        Claim(
            "At batches of 32, batch norm is more accurate than group norm",
            points,
            gain(32, "batch norm", over="group norm"),
        ),
    ]


def panels(results: Results) -> list[Panel]:
    right, loss = ({kind: by_size(results, key, kind) for kind in NORMS} for key in ("accuracy", "loss"))
    return [
        Lines("", "batch size", "test accuracy (%)", SIZES, right, log="x"),
        Lines("", "batch size", "test loss (nats)", SIZES, loss, log="xy"),
    ]


STUDY = Study(
    title="Small and large batches",
    about=f"Four convolutions on {TRAINING} handwritten digits, SGD with momentum for {EPOCHS} epochs, or for more "
    f"that make {STEPS} steps, at a learning rate in proportion to the batch size: {RATE:g} at 64. Renorm's limits are "
    "relaxed after the first epoch. Ghost norm takes 8 samples at a "
    "time.",
    compared="norm, batch size",
    ways=WAYS,
    measure=measure,
    columns=(Column("accuracy", "test accuracy (%)"), Column("loss", "test loss (nats)", ".3f")),
    claims=claims,
    panels=panels,
)
