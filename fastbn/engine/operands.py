"""What a call takes from the face to the kernels, as flat arrays under one set of names."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Maybe = Array | None


class Extras(NamedTuple):
    """What a forward may ask for beside the normalization; kernels take the tuple, or None if all are."""

    residual: Maybe = None
    activation: Any = None  # packed
    where: Maybe = None
    dy: Maybe = None  # given: y is not the activation's result, but the gradient of what it was taken of
    counts: Maybe = None  # float64 (groups,): of elements that count
    summed: Maybe = None  # where the sum of two arrays goes, which x is then

    @property
    def of_elements(self) -> tuple[Any, ...] | None:
        """What concerns elements one by one."""
        four = self.residual, self.activation, self.where, self.dy
        return None if all(v is None for v in four) else four


class GradientExtras(NamedTuple):
    """What a backward may ask for beside the gradients; kernels take the tuple, or None if all are."""

    bias: Maybe = None  # a channel
    element_bias: Maybe = None  # an element, or a row
    residual: Maybe = None
    activation: Any = None  # packed
    where: Maybe = None
    dy: Maybe = None  # the gradient that was given, of what the activation yields; else `Gradient.dy` is that of h
    dsum: Maybe = None  # added to dx
    counts: Maybe = None

    @property
    def forward(self) -> tuple[Any, ...]:
        """What a forward takes that computes the gradient of what is normalized."""
        return self.residual, self.activation, self.where, self.dy

    @property
    def beside_coefficients(self) -> tuple[Maybe, Maybe] | None:
        """What the kernels of dx take."""
        return None if self.dsum is None and self.where is None else (self.dsum, self.where)


NO_GRADIENT_EXTRAS = GradientExtras()


class Gradient(NamedTuple):
    """Arrays of one backward, flat or in C order."""

    dy: Array  # where it is yet to be computed: memory for the gradient of what is normalized
    x: Array
    dx: Maybe  # None where only the gradients of weight and bias are wanted
    weight: Maybe
    mean: Maybe  # None for RMS norm
    rstd: Array
    dweight: Array
    dbias: Array
    extras: GradientExtras | None = None

    def part(self, elements: slice, groups: slice) -> "Gradient":
        """That of some samples."""

        def cut(values: Any, part: slice) -> Any:
            return None if values is None else values.reshape(-1)[part]

        extras = self.extras
        if extras is not None:
            per_element = {name: cut(getattr(extras, name), elements) for name in ("residual", "where", "dy", "dsum")}
            extras = extras._replace(**per_element, counts=cut(extras.counts, groups))
        return self._replace(
            dy=cut(self.dy, elements),
            x=cut(self.x, elements),
            dx=cut(self.dx, elements),
            mean=cut(self.mean, groups),
            rstd=cut(self.rstd, groups),
            extras=extras,
        )


def none_if_empty(extras: Any) -> Any:
    """The extras, or None if there are none."""
    return None if all(v is None for v in extras) else extras


UNWANTED = np.empty(0)  # in the place of statistics that are not wanted


def computed_in(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What arrays of this dtype are computed in, which may be integers that hold the bits of half precision."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)
