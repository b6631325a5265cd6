"""Activations of 16 lanes and their derivatives, without a mathematical library: the same bits on every processor.

The type of an activation says which one it is, so that a kernel is compiled for each that is used and for none that is
not.  Kernels are given it as an array of records, which Numba hands to its threads, as it does not named tuples.
Errors are a few roundings of the type computed in: exp is its Taylor series after a reduction to +-log(2)/2
[1]_, the normal distribution's erfcx a polynomial in 1 / (1 + 2/5 u), interpolated at Chebyshev nodes.

References
----------
.. [1] W. J. Cody and W. Waite, "Software Manual for the Elementary Functions", Prentice-Hall, 1980, chapter 6.
"""

from functools import lru_cache
from math import factorial, log, pi, sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastbn.kernels.jit import tile
from fastbn.kernels.simd import either, less, per_type, polynomial, scale_by_power


class Relu(NamedTuple):
    """max(z, 0)."""

    parameter: float = 0.0


class LeakyRelu(NamedTuple):
    """z, or below zero z times the parameter."""

    parameter: float = 0.01


class Sigmoid(NamedTuple):
    """1 / (1 + exp(-z))."""

    parameter: float = 0.0


class Silu(NamedTuple):
    """z sigmoid(z)."""

    parameter: float = 0.0


class Gelu(NamedTuple):
    """z P(z), P being the standard normal distribution."""

    parameter: float = 0.0


class GeluTanh(NamedTuple):
    """z sigmoid(2 u), u = sqrt(2/pi) (z + 0.044715 z^3): gelu's approximation, commonly written with tanh."""

    parameter: float = 0.0


_exp_series = polynomial([1 / factorial(k) for k in range(8)], [1 / factorial(k) for k in range(14)])
_erfcx_series = polynomial(
    [
        0.00019159626522193828,
        0.22213275180915326,
        0.2540293751893625,
        0.07874260763037771,
        0.5370002024599836,
        -0.5422872285446444,
        0.8192881037518513,
        -0.45501537713290585,
        0.08591797177868314,
    ],
    [
        2.8241706783778943e-08,
        0.2256748004875922,
        0.2256933751927019,
        0.20743874512226737,
        0.1728193236199345,
        0.11500088664057663,
        0.09166004300943693,
        -0.04703730070375693,
        0.0888127344279146,
        -0.020947874027416574,
        -0.583875834129938,
        1.9328453500964682,
        -3.9736011290274704,
        5.861465769756222,
        -6.297757117389801,
        4.943202888484162,
        -2.8203613201500777,
        1.1456873167084176,
        -0.3157199094996198,
        0.053136764021046286,
        -0.00413754088036735,
    ],
)

_LOG2_E = 1 / log(2)
# log(2) in two parts; the first has so few digits that its product with any exponent is exact
_LOG2_NARROW, _LOG2_NARROW_REST = 0.693359375, -0.00021219444005469057
_LOG2_WIDE, _LOG2_WIDE_REST = 0.6931471803691238, 1.9082149292705877e-10
_CUBIC = 0.044715
_TANH_SLOPE = 2 * sqrt(2 / pi)
_HALF_ROOT, _ROOT = sqrt(0.5), 1 / sqrt(2 * pi)


@tile
def _exp(z):
    low, high = per_type(z, -110.0, -760.0), per_type(z, 100.0, 720.0)
    z = less(high, z, high, less(z, low, low, z))
    rounder = per_type(z, 1.5 * 2.0**23, 1.5 * 2.0**52)
    power = z * _LOG2_E + rounder
    k = power - rounder
    rest = z - k * per_type(z, _LOG2_NARROW, _LOG2_WIDE) - k * per_type(z, _LOG2_NARROW_REST, _LOG2_WIDE_REST)
    return scale_by_power(_exp_series(rest), power, rounder)


@tile
def _logistic(z):
    return 1.0 / (1.0 + _exp(0.0 - z))


@tile
def _normal(z):
    """The standard normal distribution and its density."""
    u = less(z, 0.0, 0.0 - z, z) * _HALF_ROOT
    e = _exp(0.0 - u * u)
    tail = 0.5 * _erfcx_series(1.0 / (1.0 + 0.4 * u)) * e
    return less(z, 0.0, tail, 1.0 - tail), e * _ROOT


@tile
def _relu(z, parameter):
    return less(z, 0.0, 0.0, z)


@tile
def _relu_slope(z, parameter):
    return less(0.0, z, 1.0, 0.0)


@tile
def _leaky_relu(z, slope):
    return less(z, 0.0, z * slope, z)


@tile
def _leaky_relu_slope(z, slope):
    return less(0.0, z, 1.0, slope)


@tile
def _sigmoid(z, parameter):
    return _logistic(z)


@tile
def _sigmoid_slope(z, parameter):
    s = _logistic(z)
    return s * (1.0 - s)


@tile
def _silu(z, parameter):
    return z * _logistic(z)


@tile
def _silu_slope(z, parameter):
    s = _logistic(z)
    return s * (1.0 + z * (1.0 - s))


@tile
def _gelu(z, parameter):
    below, _ = _normal(z)
    return z * below


@tile
def _gelu_slope(z, parameter):
    below, density = _normal(z)
    return below + z * density


@tile
def _gelu_tanh(z, parameter):
    return z * _logistic(z * (_TANH_SLOPE + _TANH_SLOPE * _CUBIC * (z * z)))


@tile
def _gelu_tanh_slope(z, parameter):
    square = z * z
    s = _logistic(z * (_TANH_SLOPE + _TANH_SLOPE * _CUBIC * square))
    return s * (1.0 + z * (1.0 - s) * (_TANH_SLOPE + 3.0 * _TANH_SLOPE * _CUBIC * square))


_FORMULAS = {
    Relu: (_relu, _relu_slope),
    LeakyRelu: (_leaky_relu, _leaky_relu_slope),
    Sigmoid: (_sigmoid, _sigmoid_slope),
    Silu: (_silu, _silu_slope),
    Gelu: (_gelu, _gelu_slope),
    GeluTanh: (_gelu_tanh, _gelu_tanh_slope),
}
_KINDS = {kind.__name__: kind for kind in _FORMULAS}


@lru_cache(maxsize=32, typed=True)  # named tuples of two types may be equal
def packed(activation: Any) -> Any:
    """An activation as kernels are given it: one record, whose field has the name of its type; None stays None."""
    if activation is None:
        return None
    return np.array([tuple(activation)], [(type(activation).__name__, np.float64)])


def unpacked(record):
    """The activation that was packed."""
    if record is None:
        return None
    (kind,) = record.dtype.names
    return _KINDS[kind](record[0][kind])


@overload(unpacked)
def _unpacked(record):
    if record == types.none:

        def implementation(record):
            return None

        return implementation
    (name,) = record.dtype.fields
    kind = _KINDS[name]

    def implementation(record):
        return kind(record[0][name])

    return implementation


def activate(z, activation, dy):
    """activation(z); or, given the gradient dy of that, the gradient of z.  An activation of None changes nothing."""
    if activation is None:
        return z if dy is None else dy
    value, slope = _FORMULAS[type(activation)]
    return value(z, activation.parameter) if dy is None else dy * slope(z, activation.parameter)


@overload(activate)
def _activate(z, activation, dy):
    if activation == types.none:

        def implementation(z, activation, dy):
            return either(dy, z)

        return implementation
    value, slope = _FORMULAS[activation.instance_class]
    if dy == types.none:

        def implementation(z, activation, dy):
            return value(z, activation.parameter)

        return implementation

    def implementation(z, activation, dy):
        return dy * slope(z, activation.parameter)

    return implementation
