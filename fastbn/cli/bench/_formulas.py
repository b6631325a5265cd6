"""The operations as a user of an array library writes them: for NumPy as it is, for JAX and torch to compile."""

from collections.abc import Callable
from typing import Any

from fastbn.cli.bench._cells import BACKWARD, GROUP, INFERENCE, INSTANCE, RMS, Cell
from fastbn.cli.bench._problem import EPS, Problem

Formula = Callable[..., tuple[Any, ...]]


class Axes:
    """x with groups as an axis of their own: which of its axes share statistics, which a weight lies along."""

    def __init__(self, cell: Cell) -> None:
        axis = cell.axis % len(cell.shape)
        split = (cell.groups, cell.channels // cell.groups) if cell.groups else (cell.channels,)
        self.shape = cell.shape[:axis] + split + cell.shape[axis + 1 :]
        every = range(len(self.shape))
        channel = range(axis, axis + len(split))
        if cell.normalizes_vectors:
            distinct = {a for a in every if a != axis}
        else:
            distinct = {0, axis} if cell.operation in (GROUP, INSTANCE) else {axis}
        self.shared = tuple(a for a in every if a not in distinct)
        self.beside_channel = tuple(a for a in every if a not in channel)
        self.of_weight = tuple(n if a in channel else 1 for a, n in enumerate(self.shape))
        self.of_statistics = tuple(n if a in distinct else 1 for a, n in enumerate(self.shape))


def formula(p: Problem) -> tuple[Formula, tuple[Any, ...]]:
    """The cell's formula, and the NumPy arrays to call it with."""
    if p.cell.direction == BACKWARD:
        mean, rstd = (None, *(s.astype("float32") for s in p.statistics))[-2:]
        return _backward(p.cell), (p.dy, p.x, p.weight, mean, rstd, p.bias, p.residual)
    return _forward(p.cell), (p.x, p.weight, p.bias, p.running_mean, p.running_var, p.residual)


def _forward(cell: Cell) -> Formula:
    axes = Axes(cell)

    def forward(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, residual: Any) -> tuple[Any, ...]:
        x = x.reshape(axes.shape)
        if cell.operation == INFERENCE:
            centered, var = x - running_mean.reshape(axes.of_weight), running_var.reshape(axes.of_weight)
        elif cell.operation == RMS:
            centered, var = x, (x * x).mean(axes.shared, keepdims=True)
        else:
            centered = x - x.mean(axes.shared, keepdims=True)
            var = (centered * centered).mean(axes.shared, keepdims=True)
        y = centered * (var + EPS) ** -0.5 * weight.reshape(axes.of_weight)
        if cell.operation != RMS:
            y = y + bias.reshape(axes.of_weight)
        if residual is not None:
            y = y + residual.reshape(axes.shape)
        if cell.activation == "relu":
            y = y * (y > 0)
        return (y.reshape(cell.shape),)

    return forward


def _backward(cell: Cell) -> Formula:
    axes = Axes(cell)

    def backward(dy: Any, x: Any, weight: Any, mean: Any, rstd: Any, bias: Any, residual: Any) -> tuple[Any, ...]:
        dy, x, rstd = dy.reshape(axes.shape), x.reshape(axes.shape), rstd.reshape(axes.of_statistics)
        h = (x if mean is None else x - mean.reshape(axes.of_statistics)) * rstd
        if cell.activation == "relu":
            y = h * weight.reshape(axes.of_weight) + bias.reshape(axes.of_weight)
            dy = dy * ((y if residual is None else y + residual.reshape(axes.shape)) > 0)
        g = dy * weight.reshape(axes.of_weight)
        dx = g - h * (g * h).mean(axes.shared, keepdims=True)
        if mean is not None:
            dx = dx - g.mean(axes.shared, keepdims=True)
        dweight = (dy * h).sum(axes.beside_channel).reshape(-1)
        gradients: tuple[Any, ...] = ((dx * rstd).reshape(cell.shape), dweight)
        if mean is not None:
            gradients = (*gradients, dy.sum(axes.beside_channel).reshape(-1))
        return gradients if residual is None else (*gradients, dy.reshape(cell.shape))

    return backward
