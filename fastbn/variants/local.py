"""Local response normalization: by the squares of neighbouring channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbn._powers import power
from fastbn._quiet import quiet, quietly
from fastbn.engine import arguments, pace
from fastbn.variants._arguments import Array, read, read_gradient, result_for, whole_number
from fastbn.variants._planes import _step, slabs

__all__ = [
    "local_response_norm",
    "local_response_norm_backward",
]

Block = tuple[slice, ...]


@quietly
def local_response_norm(
    x: ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> Array:
    """Local response normalization: each element by the squares in the neighbouring channels at its position.

    Parameters
    ----------
    x, axis, out
        As `channel_layer_norm` takes them.
    size : int
        How many channels are neighbours, the element's own included; of an even number, one more lies before it.
    alpha, beta, k : float
        See Notes.

    Returns
    -------
    y : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm`; also if `size` is less than 1 or a number is not finite.

    Notes
    -----
    With the sum over the channels from c - size // 2 to c + (size - 1) // 2, as far as they exist [1]_::

        y = x / (k + alpha / size * sum(x * x)) ** beta

    alpha / size is as in PyTorch; the paper's alpha is the quotient.  Powers are taken by roots and products where beta
    is a multiple of 1/4 up to 4, with at most 3 units in the last place, and by polynomials of float64 otherwise, with
    a relative error of 2**-51 (1 + beta abs(ln base)) and, for float32, one rounding: the same bits on every processor.

    References
    ----------
    .. [1] A. Krizhevsky, I. Sutskever and G. E. Hinton, "ImageNet Classification with Deep Convolutional Neural
       Networks", NeurIPS 2012.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.local_response_norm([[1.0, 2.0, 2.0]], size=3, alpha=3.0, beta=1.0, k=0.0).round(3)
    array([[0.2  , 0.222, 0.25 ]])
    """
    given, (x, channel) = x, read(x, axis)
    size, alpha, beta, k = _neighbourhood(size, alpha, beta, k)
    arguments.out(out, (x, given))
    y, compute = result_for(x, out), arguments.COMPUTED_IN[x.dtype]

    def normalize(block: Block) -> None:
        v = x[block].astype(compute, copy=False)
        scale = _base(v, channel, size, alpha, k)
        y[block] = np.divide(v, power(scale, beta), out=scale)

    _by_blocks(normalize, x, channel)
    return y


@quietly
def local_response_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient of local response normalization.

    Parameters
    ----------
    dy, x, axis, out
        As `channel_layer_norm_backward` takes them.
    size, alpha, beta, k
        Those of the forward.

    Returns
    -------
    dx : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm_backward`; also as `local_response_norm`.

    Notes
    -----
    With b = k + alpha / size * sum(x * x), and the second sum over those channels that the element is a neighbour of::

        dx = dy * b ** -beta - 2 * alpha * beta / size * x * sum(dy * x * b ** (-beta - 1))

    Examples
    --------
    >>> import fastbn
    >>> fastbn.local_response_norm_backward([[1.0, 0.0]], [[1.0, 2.0]], size=1, alpha=1.0, beta=1.0)
    array([[0., 0.]])
    """
    given, (dy, x, channel) = (x, dy), read_gradient(dy, x, axis)
    size, alpha, beta, k = _neighbourhood(size, alpha, beta, k)
    arguments.out(out, (x, dy, *given))
    dx, compute = result_for(x, out), arguments.COMPUTED_IN[x.dtype]

    def differentiate(block: Block) -> None:
        v, g = (a[block].astype(compute, copy=False) for a in (x, dy))
        base = _base(v, channel, size, alpha, k)
        pulled = g / power(base, beta)
        np.divide(pulled * v, base, out=base)
        spread = _neighbours(base, channel, (size - 1) // 2, size // 2)
        spread *= v
        spread *= -2.0 * alpha * beta / size
        spread += pulled
        dx[block] = spread

    _by_blocks(differentiate, x, channel)
    return dx


def _by_blocks(work: Callable[[Block], None], x: Array, channel: int) -> None:
    """Call `work` with the indices of blocks of x that have all channels, on as many threads as are good for it."""

    def unwarned(block: Block) -> None:
        with quiet():  # which holds for a thread
            work(block)

    def run(threads: int) -> None:
        if threads == 1:
            for block in _blocks(x, channel):
                unwarned(block)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(unwarned, _blocks(x, channel)))

    pace.with_team((work.__qualname__, x.shape, x.strides, x.dtype), x.nbytes, run)


def _blocks(x: Array, channel: int) -> Iterator[Block]:
    """Some samples each, or some positions of one along the longest of their axes."""
    positions = [a for a in range(1, x.ndim) if a != channel]
    for samples in slabs(x):
        if not positions:
            yield (samples,)
            continue
        axis = max(positions, key=x.shape.__getitem__)
        step = _step(x[samples], x.shape[axis])
        for first in range(0, x.shape[axis], step):
            yield samples, *[slice(None)] * (axis - 1), slice(first, first + step)


def _neighbourhood(size: Any, alpha: Any, beta: Any, k: Any) -> tuple[int, float, float, float]:
    return (
        whole_number(size, "size"),
        arguments.real(alpha, "alpha"),
        arguments.real(beta, "beta"),
        arguments.real(k, "k"),
    )


def _base(x: Array, axis: int, size: int, alpha: float, k: float) -> Array:
    """k + alpha / size * sum(x * x) over the neighbours."""
    total = _neighbours(x * x, axis, size // 2, (size - 1) // 2)
    total *= alpha / size
    total += k
    return total


def _neighbours(v: Array, axis: int, before: int, after: int) -> Array:
    """The sum over the index on `axis`, so many before it and so many after it."""
    total = v.copy(order="K")
    summed, terms = np.moveaxis(total, axis, 0), np.moveaxis(v, axis, 0)
    for step in range(1, min(before, len(terms) - 1) + 1):
        summed[step:] += terms[:-step]
    for step in range(1, min(after, len(terms) - 1) + 1):
        summed[:-step] += terms[step:]
    return total
