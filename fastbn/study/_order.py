"""Batch norm before the activation, and after it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.cli._digits import TARGET, epochs_to_target
from fastbn.study._data import digits, portion
from fastbn.study._network import SGD, ReLU, convolutional, learning_curve, norm, test_loss
from fastbn.study._study import Claim, Column, Dots, Lines, Measured, Panel, Results, Study, Way

RATES = (0.02, 0.2)
EPOCHS, BATCH_SIZE = 8, 64
PLACES: dict[str, Callable[[int], list[Any]]] = {
    "before": lambda channels: [*norm("batch norm", channels), ReLU()],
    "after": lambda channels: [ReLU(), *norm("batch norm", channels)],
    "no norm": lambda channels: [ReLU()],
}


def measure(way: Way, seed: int, share: float) -> Measured:
    place, rate = way
    rng, data, epochs = np.random.default_rng(seed), digits(share), portion(EPOCHS, share)
    network = convolutional(PLACES[place], rng)
    curve = learning_curve(network, SGD(network, rate), data, BATCH_SIZE, epochs, rng)
    return {
        "curve": curve,
        "accuracy": curve[-1],
        "epochs": min(epochs_to_target(curve), epochs + 1),
        "loss": np.nan_to_num(test_loss(network, data), nan=np.log(10.0), posinf=np.log(10.0)),
    }


def claims(results: Results) -> list[Claim]:
    def both(key: str, place: str) -> Any:
        return results.along(key, [(place, rate) for rate in RATES]).mean(axis=1)

    return [
        Claim(
            f"Before the activation, batch norm reaches {TARGET:.0f} % sooner than after it",
            "epochs saved, mean of the two rates",
            both("epochs", "after") - both("epochs", "before"),
        ),
        Claim(
            "Before the activation, it is more accurate in the end than after it",
            "points of test accuracy, mean of the two rates",
            both("accuracy", "before") - both("accuracy", "after"),
        ),
        Claim(
            "Before the activation, its loss on test images is lower in the end than after it",
            "nats saved, mean of the two rates",
            both("loss", "after") - both("loss", "before"),
        ),
        *(
            Claim(
                f"{place.capitalize()} the activation, it reaches {TARGET:.0f} % sooner than no norm",
                "epochs saved, mean of the two rates",
                both("epochs", "no norm") - both("epochs", place),
            )
            for place in ("before", "after")
        ),
    ]


def panels(results: Results) -> list[Panel]:
    curves = {place: results.values("curve", place, RATES[0]) for place in PLACES}
    epochs = range(1, curves["before"].shape[1] + 1)
    losses = {f"{place} at {rate:g}": results.values("loss", place, rate) for place in PLACES for rate in RATES}
    return [
        Lines(f"Learning rate {RATES[0]:g}", "epoch", "test accuracy (%)", list(epochs), curves),
        Dots("After the last epoch, by rate", "test loss (nats)", losses, log=True),
    ]


STUDY = Study(
    title="Before or after the activation",
    about=f"Four convolutions on handwritten digits, each followed by batch norm and ReLU in either order, or by ReLU "
    f"alone. SGD with momentum, batches of {BATCH_SIZE}, {EPOCHS} epochs.",
    compared="batch norm's place, learning rate",
    ways=tuple((place, rate) for place in PLACES for rate in RATES),
    measure=measure,
    columns=(
        Column("epochs", f"epochs to {TARGET:.0f} %"),
        Column("accuracy", "test accuracy (%)"),
        Column("loss", "test loss (nats)", ".3f"),
    ),
    claims=claims,
    panels=panels,
)
