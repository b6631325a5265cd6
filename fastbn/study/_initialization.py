"""Sensitivity to the initialization: a network whose first weights are too small, or too large."""

import numpy as np

from fastbn.study._data import breast_cancer, portion, standardized
from fastbn.study._network import SGD, dense, learning_curve, with_relu
from fastbn.study._study import Array, Claim, Column, Lines, Measured, Panel, Results, Study, Way

SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
NORMS = ("no norm", "batch norm", "layer norm")
SIZES = (30, 48, 48, 48, 48, 2)
EPOCHS, BATCH_SIZE, RATE = 30, 32, 0.02


def measure(way: Way, seed: int, share: float) -> Measured:
    kind, scale = way
    rng, data = np.random.default_rng(seed), standardized(breast_cancer(share))
    network = dense(SIZES, with_relu(kind), rng, gain=scale)
    curve = learning_curve(network, SGD(network, RATE), data, BATCH_SIZE, portion(EPOCHS, share), rng)
    return {"accuracy": curve[-1]}


def by_scale(results: Results, kind: str) -> Array:
    return results.along("accuracy", [(kind, scale) for scale in SCALES])


def claims(results: Results) -> list[Claim]:
    none, batch, layer = (by_scale(results, kind) for kind in NORMS)
    usual = SCALES.index(1.0)
    return [
        *(
            Claim(
                f"With {kind} the accuracy depends less on the scale of the first weights",
                "points by which the range over the scales is narrower",
                np.ptp(none, axis=1) - np.ptp(accuracy, axis=1),
            )
            for kind, accuracy in (("batch norm", batch), ("layer norm", layer))
        ),
        Claim(
            "Batch norm helps even at the usual scale of He et al.",
            "points of test accuracy",
            batch[:, usual] - none[:, usual],
        ),
    ]


def panels(results: Results) -> list[Panel]:
    curves = {kind: by_scale(results, kind) for kind in NORMS}
    return [Lines("", "scale of the first weights, 1: He et al.", "test accuracy (%)", SCALES, curves, log="x")]


STUDY = Study(
    title="Sensitivity to the initialization",
    about=f"A network of four hidden layers on scikit-learn's breast cancer data, SGD with momentum at {RATE:g}, "
    f"{EPOCHS} epochs. Its first weights are those of He et al. times a scale from {SCALES[0]:g} to {SCALES[-1]:g}.",
    compared="norm, scale of the weights",
    ways=tuple((kind, scale) for kind in NORMS for scale in SCALES),
    measure=measure,
    columns=(Column("accuracy", "test accuracy (%)"),),
    claims=claims,
    panels=panels,
)
