"""A small convolutional network in NumPy: what ``fastbn demo`` trains, and an example of a training loop.

Every layer here speaks the protocol of fastbn's own layers (call, ``backward``, ``parameters``, ``grads``,
``zero_grad``, ``train``, ``eval``), so both kinds stand side by side in one list.  Images are channels last,
(N, H, W, C): a convolution is then a single matrix product, and fastbn normalizes them with ``axis=-1``, without a
copy.
"""

from collections.abc import Callable, Iterator
from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray[Any, Any]
Loss = Callable[[Array, Array], tuple[float, Array]]  # (output, truth) -> the loss, and its gradient by the output


class Layer:
    """What the layers below share: named parameters and their gradients."""

    def __init__(self, **parameters: Array) -> None:
        self.parameters = parameters
        self.grads = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.training = True

    def zero_grad(self) -> None:
        for grad in self.grads.values():
            grad.fill(0)

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def eval(self) -> None:
        self.train(False)


def he_normal(rng: np.random.Generator, *shape: int) -> Array:
    """Weights that keep the spread of ReLU activations from layer to layer (He et al. 2015); outputs are last."""
    return (rng.standard_normal(shape) * sqrt(2 / prod(shape[:-1]))).astype(np.float32)


def correlate(x: Array, weight: Array) -> tuple[Array, Array]:
    """Slide a (K, K, C, O) weight over (N, H, W, C) images, zero-padded to keep their size: (y, patches)."""
    n, h, w, _ = x.shape
    k, _, c, o = weight.shape
    p = k // 2
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    windows = sliding_window_view(padded, (k, k), axis=(1, 2))  # (N, H, W, C, K, K), a view
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, k * k * c)
    return (patches @ weight.reshape(-1, o)).reshape(n, h, w, o), patches


class Conv2d(Layer):
    """A K x K convolution that keeps the image's size."""

    def __init__(self, in_channels: int, out_channels: int, rng: np.random.Generator, kernel_size: int = 3) -> None:
        weight = he_normal(rng, kernel_size, kernel_size, in_channels, out_channels)
        super().__init__(weight=weight, bias=np.zeros(out_channels, np.float32))

    def __call__(self, x: Array) -> Array:
        y, self.patches = correlate(x, self.parameters["weight"])
        y += self.parameters["bias"]
        return y

    def backward(self, dy: Array) -> Array:
        weight = self.parameters["weight"]
        flat = dy.reshape(-1, dy.shape[-1])
        self.grads["weight"] += (self.patches.T @ flat).reshape(weight.shape)
        self.grads["bias"] += flat.sum(0)
        return correlate(dy, weight[::-1, ::-1].swapaxes(2, 3))[0]


class Linear(Layer):
    """A fully connected layer over flattened images."""

    def __init__(self, in_features: int, out_features: int, rng: np.random.Generator) -> None:
        super().__init__(weight=he_normal(rng, in_features, out_features), bias=np.zeros(out_features, np.float32))

    def __call__(self, x: Array) -> Array:
        self.shape = x.shape
        self.x = x.reshape(len(x), -1)
        return self.x @ self.parameters["weight"] + self.parameters["bias"]

    def backward(self, dy: Array) -> Array:
        self.grads["weight"] += self.x.T @ dy
        self.grads["bias"] += dy.sum(0)
        return (dy @ self.parameters["weight"].T).reshape(self.shape)


class NumPyNorm(Layer):
    """Batch norm in training, or group norm if there are groups, as one writes it in NumPy: to compare speeds with."""

    def __init__(self, channels: int, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__(weight=np.ones(channels, np.float32), bias=np.zeros(channels, np.float32))
        self.groups, self.eps = groups, eps
        self.shared = (0, 1, 2) if groups is None else (1, 2, 4)

    def _split(self, x: Array) -> Array:
        """With groups as an axis of their own; what shares statistics is then the same axes for all."""
        return x if self.groups is None else x.reshape(*x.shape[:3], self.groups, -1)

    def __call__(self, x: Array) -> Array:
        split = self._split(x)
        centered = split - split.mean(self.shared, keepdims=True)
        self.rstd = 1 / np.sqrt((centered * centered).mean(self.shared, keepdims=True) + self.eps)
        self.h = (centered * self.rstd).reshape(x.shape)
        return self.h * self.parameters["weight"] + self.parameters["bias"]

    def backward(self, dy: Array) -> Array:
        self.grads["weight"] += (dy * self.h).sum((0, 1, 2))
        self.grads["bias"] += dy.sum((0, 1, 2))
        g, h = self._split(dy * self.parameters["weight"]), self._split(self.h)
        means = g.mean(self.shared, keepdims=True), (g * h).mean(self.shared, keepdims=True)
        return (self.rstd * (g - means[0] - h * means[1])).reshape(dy.shape)


class ReLU(Layer):
    def __call__(self, x: Array) -> Array:
        y = np.maximum(x, 0)
        self.positive = y > 0
        return y

    def backward(self, dy: Array) -> Array:
        return dy * self.positive


class AvgPool2d(Layer):
    """The mean of every 2 x 2 block."""

    def __call__(self, x: Array) -> Array:
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    def backward(self, dy: Array) -> Array:
        return (dy / 4).repeat(2, axis=1).repeat(2, axis=2)


class Sequential:
    """Layers one after another; backward walks them in reverse."""

    def __init__(self, *layers: Any) -> None:
        self.layers = layers

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, dy: Array) -> Array:
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def zero_grad(self) -> None:
        for layer in self.layers:
            layer.zero_grad()

    def train(self, mode: bool = True) -> None:
        for layer in self.layers:
            layer.train(mode)

    def eval(self) -> None:
        self.train(False)


class SGD:
    """Stochastic gradient descent with momentum: v = momentum v + grad, p = p - lr v."""

    def __init__(self, network: Sequential, lr: float, momentum: float = 0.9) -> None:
        self.layers, self.lr, self.momentum = network.layers, lr, momentum
        self.velocities = [{name: np.zeros_like(p) for name, p in la.parameters.items()} for la in self.layers]

    def step(self) -> None:
        for layer, velocities in zip(self.layers, self.velocities, strict=True):
            for name, velocity in velocities.items():
                velocity *= self.momentum
                velocity += layer.grads[name]
                layer.parameters[name] -= self.lr * velocity


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """The mean of -log softmax(logits)[label], and its gradient by the logits."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    dlogits = np.exp(log_p)
    dlogits[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), dlogits / len(labels)


def batches(n: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """The indices 0 to n - 1 in a random order, `size` at a time; a shorter rest is left out."""
    order = rng.permutation(n)
    return (order[i : i + size] for i in range(0, n - size + 1, size))


def train_step(network: Sequential, optimiser: Any, x: Array, truth: Array, loss: Loss = cross_entropy) -> float:
    """One step on one batch; returns the loss before it."""
    network.zero_grad()
    value, gradient = loss(network(x), truth)
    network.backward(gradient)
    optimiser.step()
    return value
