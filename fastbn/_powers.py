"""Powers of arrays to the same bits on every processor: of operations that IEEE 754 rounds in one way only.

NumPy's own powers, exponentials and logarithms differ in the last place between processors, even between generations.
"""

from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MOST_QUARTERS = 16  # of an exponent that is taken by roots and products

_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")  # their sum is ln 2
_LN2 = log(2.0)
_ROOT_HALF = 0.7071067811865476
_MOST = 2000.0  # as a binary exponent: beyond, all is infinite or zero
_LOGARITHM = [2.0 / (2 * k + 1) for k in range(11)]  # of 2 artanh(f) = ln((1 + f) / (1 - f)), in f^2
_EXPONENTIAL = [1.0]
for _k in range(1, 14):
    _EXPONENTIAL.append(_EXPONENTIAL[-1] / _k)


def power(base: Array, exponent: float) -> Array:
    """base ** exponent, of float32 or float64, in its type.

    Error: 2 units in the last place for multiples of 1/4 up to 1, and 3 up to 4; else, in float64, a relative
    2**-51 (1 + abs(exponent ln base)), and float32 is rounded from that.
    """
    quarters = 4 * exponent
    if abs(quarters) <= _MOST_QUARTERS and quarters == int(quarters):
        value = _by_roots(base, int(abs(quarters)))
        return value if exponent >= 0 else np.divide(1, value, out=value)
    return _by_logarithm(base.astype(np.float64, copy=False), exponent).astype(base.dtype, copy=False)


def _by_roots(base: Array, quarters: int) -> Array:
    whole, rest = divmod(quarters, 4)
    result = None
    if rest:
        result = np.sqrt(base)
        if rest != 2:
            fourth = np.sqrt(result)
            result = fourth if rest == 1 else np.multiply(result, fourth, out=result)
    for _ in range(whole):
        result = base.copy() if result is None else np.multiply(result, base, out=result)
    return np.ones_like(base) if result is None else result


def _by_logarithm(base: Array, exponent: float) -> Array:
    """exp(exponent ln(base)), with ln and exp as polynomials."""
    m, e = np.frexp(base)
    low = m < _ROOT_HALF
    m, e = np.where(low, 2 * m, m), e - low
    f = (m - 1) / (m + 1)
    y = exponent * (e * _LN2_LOW + f * _polynomial(f * f, _LOGARITHM) + e * _LN2_HIGH)
    y = np.where(base > 0, y, np.nan)
    k = np.clip(np.rint(y / _LN2), -_MOST, _MOST)
    r = (y - k * _LN2_HIGH) - k * _LN2_LOW
    value = np.ldexp(_polynomial(r, _EXPONENTIAL), np.where(np.isnan(k), 0, k).astype(int))
    ends = np.where(base == 0, 0.0 if exponent > 0 else np.inf, np.inf if exponent > 0 else 0.0)
    return np.where((base == 0) | (base == np.inf), ends, value)


def _polynomial(x: Array, coefficients: list[float]) -> Array:
    result = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result *= x
        result += c
    return result
