"""Internal covariate shift, beside the smoothness of the loss: how layer inputs and gradients move in a step."""

from typing import Any

import numpy as np

from fastbn.study._data import digits, portion
from fastbn.study._network import Array, Linear, Sequential, batches, cross_entropy, dense, with_relu
from fastbn.study._study import Claim, Column, Lines, Measured, Panel, Results, Study, Way

NORMS = ("batch norm", "no norm")
SIZES = (64, 64, 64, 64, 64, 10)
EPOCHS, BATCH_SIZE, RATE = 8, 64, 0.05
WATCHED = 3  # which linear layer's inputs and gradient are looked at, from 0 on
STRETCHES = (0.5, 1.0, 2.0, 4.0)  # times the learning rate
EVERY = 4  # steps, at one of which the loss is looked at along its gradient

Pairs = list[tuple[Array, Array]]  # parameters and their gradients


def pairs(layers: Any) -> Pairs:
    return [(layer.parameters[name], layer.grads[name]) for layer in layers for name in layer.parameters]


def descend(of: Pairs, gradients: list[Array], rate: float) -> None:
    for (parameter, _), gradient in zip(of, gradients, strict=True):
        parameter -= np.float32(rate) * gradient


def gradients(network: Sequential, x: Array, y: Array) -> tuple[float, list[Array]]:
    network.zero_grad()
    loss, dlogits = cross_entropy(network(x), y)
    network.backward(dlogits)
    return loss, [gradient.copy() for _, gradient in pairs(network.layers)]


def apart(first: list[Array], second: list[Array]) -> float:
    """The distance of two lists of arrays, relative to the first's length."""
    a, b = (np.concatenate([array.ravel() for array in arrays]) for arrays in (first, second))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def moved(before: Array, after: Array) -> tuple[float, float]:
    """How far the units' moments moved, and the values: root mean squares, in standard deviations."""
    means, stds = after.mean(0) - before.mean(0), after.std(0) - before.std(0)
    scale = before.var(0).mean()
    return float(np.sqrt((means**2 + stds**2).mean() / scale)), float(np.sqrt(((after - before) ** 2).mean() / scale))


def roughness(network: Sequential, x: Array, y: Array, loss: float, down: list[Array]) -> tuple[float, float]:
    """Along the gradient: the range of the loss, and the most that the gradient changes, relative to its length."""
    of = pairs(network.layers)
    start = [parameter.copy() for parameter, _ in of]
    losses, changes = [loss], []
    for stretch in STRETCHES:
        descend(of, down, RATE * stretch)
        there, gradient = gradients(network, x, y)
        losses.append(there)
        changes.append(apart(down, gradient))
        for (parameter, _), value in zip(of, start, strict=True):
            parameter[...] = value
    return max(losses) - min(losses), max(changes)


def measure(way: Way, seed: int, share: float) -> Measured:
    rng, data = np.random.default_rng(seed), digits(share)
    network = dense(SIZES, with_relu(way[0]), rng)
    at = [i for i, layer in enumerate(network.layers) if isinstance(layer, Linear)][WATCHED]
    below, watched = Sequential(*network.layers[:at]), network.layers[at]
    of, lower = pairs(network.layers), pairs(below.layers)
    here = next(i for i, (parameter, _) in enumerate(of) if parameter is watched.parameters["weight"])
    probe = data.train_x[:256]
    rows = []
    for _ in range(portion(EPOCHS, share)):
        for step, batch in enumerate(batches(len(data.train_y), BATCH_SIZE, rng)):
            x, y = data.train_x[batch], data.train_y[batch]
            loss, down = gradients(network, x, y)
            if step % EVERY == 0:
                rough = roughness(network, x, y, loss, down)
            before = below(probe)
            descend(lower, down[: len(lower)], RATE)
            movement = moved(before, below(probe))
            change = apart([down[here]], [gradients(network, x, y)[1][here]])
            descend(of[len(lower) :], down[len(lower) :], RATE)
            rows.append((*movement, change, *rough, loss))
    table = np.array(rows)
    names = ("moments", "values", "gradient", "range", "predictability")
    means = dict(zip(names, table.mean(0), strict=False))
    epochs = table.reshape(portion(EPOCHS, share), -1, table.shape[1]).mean(1)
    return means | {"values by epoch": epochs[:, 1], "change by epoch": epochs[:, 4], "loss": epochs[-1, 5]}


def claims(results: Results) -> list[Claim]:
    def less(key: str) -> Array:
        """The logarithm to base 10 of how many times as large it is without batch norm."""
        with_norm, without = (results.values(key, kind) for kind in NORMS)
        return np.log10(without / with_norm)

    orders = "log10 of no norm's over batch norm's"
    return [
        Claim("With batch norm, means and deviations of a layer's inputs move less in a step", orders, less("moments")),
        Claim("With batch norm, the inputs themselves move less in a step", orders, less("values")),
        Claim(
            "With batch norm, the gradient of a layer changes less when the layers below it are updated",
            orders,
            less("gradient"),
        ),
        Claim("With batch norm, the loss varies less along its gradient", orders, less("range")),
        Claim("With batch norm, the gradient changes less along itself", orders, less("predictability")),
        Claim("With batch norm, the loss of the last epoch is lower", orders, less("loss")),
    ]


def panels(results: Results) -> list[Panel]:
    moves, changes = (
        {kind: results.values(key, kind) for kind in NORMS} for key in ("values by epoch", "change by epoch")
    )
    epochs = list(range(1, moves["no norm"].shape[1] + 1))
    return [
        Lines("Inputs of a layer", "epoch", "movement in a step (std. dev.)", epochs, moves, log="y"),
        Lines("Smoothness", "epoch", "relative change of the gradient", epochs, changes, log="y"),
    ]


STUDY = Study(
    title="Internal covariate shift and smoothness",
    about=f"A network of four hidden layers on handwritten digits, SGD at {RATE:g} without momentum, {EPOCHS} epochs. "
    "In each step the layers below the fourth are updated first: how far do its inputs move (the units' means and "
    "standard deviations, and the inputs of 256 images themselves), and how much does its gradient change? Every "
    "fourth step looks along the gradient, at 0.5 to 4 times the learning rate (Santurkar et al. 2018).",
    compared="norm",
    ways=tuple((kind,) for kind in NORMS),
    measure=measure,
    columns=(
        Column("moments", "movement of its inputs' moments", ".3f"),
        Column("values", "of its inputs", ".3f"),
        Column("gradient", "change of its gradient", ".2f"),
        Column("range", "range of the loss", ".3f"),
        Column("predictability", "change along the gradient", ".2f"),
        Column("loss", "loss of the last epoch", ".3f"),
    ),
    claims=claims,
    panels=panels,
)
