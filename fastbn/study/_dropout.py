"""Batch norm with dropout in both orders, and in its place."""

from typing import Any

import numpy as np

from fastbn.study._data import digits, portion
from fastbn.study._network import SGD, Dropout, Linear, ReLU, Sequential, learning_curve, norm, test_loss
from fastbn.study._study import Claim, Column, Dots, Lines, Measured, Panel, Results, Study, Way

TRAINING, WIDTH, LAYERS = 200, 128, 3
EPOCHS, BATCH_SIZE, RATE, DROPPED = 60, 20, 0.02, 0.5
PLAIN, DROPOUT, NORM, BEFORE, AFTER = WAYS = (
    "neither",
    "dropout",
    "batch norm",
    "dropout before each norm",
    "dropout after the last norm",
)


def build(way: str, rng: np.random.Generator) -> Sequential:
    """Linear layers with ReLU.  What is dropped is drawn apart, so that all ways see the same batches."""
    dropped = rng.spawn(1)[0]
    layers: list[Any] = []
    for i in range(LAYERS):
        layers.append(Linear(WIDTH if i else 64, WIDTH, rng))
        if way == BEFORE:
            layers.append(Dropout(DROPPED, dropped))
        layers += [*norm("batch norm" if way in (NORM, BEFORE, AFTER) else "no norm", WIDTH), ReLU()]
        if way == DROPOUT or (way == AFTER and i == LAYERS - 1):
            layers.append(Dropout(DROPPED, dropped))
    return Sequential(*layers, Linear(WIDTH, 10, rng))


def measure(way: Way, seed: int, share: float) -> Measured:
    rng, data = np.random.default_rng(seed), digits(share, TRAINING)
    network = build(way[0], rng)
    curve = learning_curve(network, SGD(network, RATE), data, BATCH_SIZE, portion(EPOCHS, share), rng)
    return {"curve": curve, "accuracy": curve[-1], "loss": test_loss(network, data)}


def claims(results: Results) -> list[Claim]:
    accuracy, loss = ({way: results.values(key, way) for way in WAYS} for key in ("accuracy", "loss"))
    return [
        Claim(
            "Dropout helps where there are few images", "points of test accuracy", accuracy[DROPOUT] - accuracy[PLAIN]
        ),
        Claim(
            "Batch norm can take the place of dropout: it is at most half a point less accurate",
            "points of test accuracy",
            accuracy[NORM] - accuracy[DROPOUT],
            bound=-0.5,
        ),
        Claim(
            "Dropout after the last norm is better than before each norm",
            "points of test accuracy",
            accuracy[AFTER] - accuracy[BEFORE],
        ),
        Claim("The same, by the loss on test images", "nats saved", loss[BEFORE] - loss[AFTER]),
        Claim(
            "Dropout after the last norm is better than batch norm alone",
            "points of test accuracy",
            accuracy[AFTER] - accuracy[NORM],
        ),
    ]


def panels(results: Results) -> list[Panel]:
    curves = {way: results.values("curve", way) for way in WAYS}
    epochs = range(1, curves[PLAIN].shape[1] + 1)
    losses = {
        way.replace(" before", ", before").replace(" after", ", after"): results.values("loss", way) for way in WAYS
    }
    return [
        Lines("While it trains", "epoch", "test accuracy (%)", list(epochs), curves),
        Dots("After the last epoch", "test loss (nats)", losses),
    ]


STUDY = Study(
    title="With dropout, and instead of it",
    about=f"{LAYERS} hidden layers of {WIDTH} units on {TRAINING} handwritten digits, few enough to be learned by "
    f"heart; SGD with momentum at {RATE:g}, batches of {BATCH_SIZE}, {EPOCHS} epochs. Dropout takes half of the units: "
    "without a norm, behind every ReLU; with norms, in front of each of them, or behind the last ReLU alone.",
    compared="network",
    ways=tuple((way,) for way in WAYS),
    measure=measure,
    columns=(Column("accuracy", "test accuracy (%)"), Column("loss", "test loss (nats)", ".3f")),
    claims=claims,
    panels=panels,
)
