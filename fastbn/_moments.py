"""Mean and variance of every group as numbers that keep their digits: of an array's, by the kernels."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn._quiet import quiet, quietly
from fastbn.engine import arrays, forward

Array = NDArray[Any]

NO_POWER = np.zeros(())
NO_POWER.flags.writeable = False


def unwarned() -> np.errstate:
    """Infinite and huge elements spoil the statistics of their own group, which says enough."""
    return quiet()


class Sums(NamedTuple):
    """What is known about every group: float64 arrays of one shape."""

    n: Array  # elements, or the sum of their weights
    shift: Array  # one of the elements
    offset: Array  # mean - shift
    m2: Array  # the sum of squared deviations from the mean, in units of 4**power,
    power: Array = NO_POWER  # where their squares would leave the range of float64; else 0

    @quietly
    def mean(self) -> Array:
        return self.shift + self.offset

    @quietly
    def mean_and_variance(self) -> tuple[Array, Array]:
        """The biased variance, of groups that are not empty."""
        return self.mean(), self.m2 / self.n

    @quietly
    def sum(self) -> Array:
        return self.mean() * self.n

    @quietly
    def root_of_squares(self) -> Array:
        """The square root of the sum of squares."""
        mean = self.mean()
        return np.asarray(np.sqrt(self.m2 + self.n * (mean * mean)))


@quietly
def from_sums(n: Array, shift: Array, s: Array, q: Array) -> Sums:
    """From the sums of d = x - shift and d^2."""
    offset = np.divide(s, n, out=np.zeros_like(s), where=n > 0)
    return Sums(n, shift, offset, np.maximum(q - s * offset, 0.0))


@quietly
def of_groups(x: Array, view_of: arrays.ViewOf, *args: Any) -> Sums:
    """Of the view's groups of x, which is not empty."""
    shift, s, q = forward.sums(x, view_of, args)
    return from_sums(np.full(shift.shape, x.size / shift.size), shift, s, q)
