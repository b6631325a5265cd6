"""Moments: mean and variance that are updated, merged, and applied."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn import preprocessing
from fastbn._moments import unwarned
from fastbn.engine import arguments
from fastbn.moments import _serial, _states
from fastbn.moments._measure import axes_of, kept_axes, measured, read
from fastbn.moments._states import State

Array = NDArray[Any]
Statistics = NDArray[np.float64]


class Moments:
    """Mean and variance of data that come in parts, for every index of the given axes, over all others.

    Parameters
    ----------
    axis : int or tuple of int
        The axes that are kept: 1 has statistics per channel as batch norm with ``axis=1``; (0, 1) those per sample and
        channel, as instance norm; () those of all elements together.

    Raises
    ------
    TypeError
        If `axis` is not an integer or a tuple of integers.

    Notes
    -----
    Sums are taken in float64 about an element of the group.  Parts a and b, of weights n_a and n_b and means that are
    delta apart, merge to [1]_ ::

        n = n_a + n_b        mean = mean_a + delta * n_b / n        M2 = M2_a + M2_b + delta^2 * n_a * n_b / n

    delta is taken from numbers near zero, not from the rounded means: every order of merging gives the same up to a few
    units in the last place of float64.

    Integers and booleans are summed exactly, in integers as large as it takes, and so are their squares; mean and
    variance are rounded once, when they are asked for.  The order of parts then makes no difference.  Once floats or
    weights are added, everything is float64.

    A group that has met NaN or infinity has no finite statistics any more; the other groups keep theirs.  An update or
    merge that raises leaves the object as it was.  Moments can be pickled, copied, turned into plain numbers by
    `to_dict`, and added: ``a + b`` and ``sum([a, b, c])`` leave the operands as they are.  They are equal if axis,
    count, mean and variance are, NaN being equal to NaN.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
       Variances", COMPSTAT 1982, pp. 30-41.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 80.0]])
    >>> moments = fastbn.Moments(axis=1).update(x[:2]).update(x[2:])
    >>> moments.count, moments.mean
    (array([3., 3.]), array([ 3., 40.]))
    >>> moments.var(ddof=1)
    array([   4., 1300.])

    Parts from elsewhere, and a mask:

    >>> other = fastbn.Moments(axis=1).update(x, where=x < 50)
    >>> moments.merge(other).count
    array([6., 5.])
    """

    _names: tuple[Any, ...] | None = None  # of the kept axes, where the data had names,
    _labels: tuple[Any, ...] = ()  # and pandas' indexes of these, or None; not in pickles of 0.2.0

    def __init__(self, axis: int | tuple[int, ...] = 1) -> None:
        self._axes = axes_of(axis)
        self._state: State = _states.NOTHING  # before anything is known about the shape, it broadcasts

    @property
    def axis(self) -> int | tuple[int, ...]:
        """The axes that are kept."""
        return self._axes[0] if len(self._axes) == 1 else self._axes

    @property
    def count(self) -> Statistics:
        """The sum of the weights, or the number of elements where they have none: float64, shape of the kept axes.

        Before the first update or merge all statistics have the shape ().
        """
        return np.array(self._state.n, np.float64)

    @property
    def mean(self) -> Statistics:
        """The mean: float64, shape of the kept axes; NaN where nothing was counted."""
        return _states.mean(self._state)

    def var(self, ddof: float = 0) -> Statistics:
        """The variance: the sum of squared deviations divided by count - ddof.

        Parameters
        ----------
        ddof : float
            0 for the variance of the data; 1 for the unbiased estimate of that of what they were drawn from, if weights
            count repetitions.

        Returns
        -------
        var : ndarray of float64, shape of the kept axes
            NaN where count is not more than `ddof`.

        Raises
        ------
        TypeError, ValueError
            If `ddof` is not a finite number.
        """
        return _states.var(self._state, arguments.real(ddof, "ddof"))

    def std(self, ddof: float = 0) -> Statistics:
        """The standard deviation: the square root of the variance, right where that leaves the range of float64."""
        return _states.var_and_std(self._state, arguments.real(ddof, "ddof"))[1]

    def update(self, x: ArrayLike, where: ArrayLike | None = None, weights: ArrayLike | None = None) -> Self:
        """Count the elements of x in.

        Parameters
        ----------
        x : array_like
            float16, bfloat16, float32, float64, integers or booleans; as long along the kept axes as what was counted
            before.  Of a masked array, what is not masked counts.
        where : array_like of bool, broadcastable to x, optional
            True where an element counts.  The others may be anything, NaN included.
        weights : array_like, broadcastable to x, optional
            How often an element counts, or how reliable it is; finite, not negative.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If x is not of a supported dtype, `where` not of bool or `weights` not of numbers.
        ValueError
            If x lacks a kept axis or has another length there, `where` or `weights` does not broadcast to x, or a
            weight is negative or not finite.

        Notes
        -----
        Parallel kernels read x where it lies, and beside it `where` and `weights`, which may be broadcast.  Where x has
        holes, or they lie in another order, parts of some 262,144 elements (at least one for every group) are brought
        together first, so no temporary is as large as x.  Error: of float data, mean and variance are those of exact
        sums to some 1e-12 of the spread and of the variance, whatever the mean; a mean is rounded to float64 once more.
        """
        self._add(measured(x, self._axes, where, weights), "x")
        return self

    def merge(self, other: Moments) -> Self:
        """Count in what `other` has counted.

        Parameters
        ----------
        other : Moments
            Of the same shape; its axes may have other places.  It stays as it is.

        Returns
        -------
        Moments
            The object itself.

        Raises
        ------
        TypeError
            If `other` is not Moments.
        ValueError
            If it has another shape, or was made by `fastbn.xarray.moments` of other dimensions or labels.
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other is of type {type(other).__name__}; expected Moments")
        if len(other._axes) != len(self._axes):
            raise ValueError(f"other keeps the axes {other.axis}; expected {len(self._axes)} of them, as {self.axis}")
        self._refuse_other_names(other)
        self._add(other._state, "other")
        if self._names is None:
            self._names, self._labels = other._names, other._labels
        return self

    def _refuse_other_names(self, other: Moments) -> None:
        if self._names is None or other._names is None:
            return
        if self._names != other._names:
            raise ValueError(f"other keeps the dimensions {other._names}; expected {self._names}")
        for name, own, given in zip(self._names, self._labels, other._labels, strict=False):
            if own is not None and given is not None and len(own) == len(given) and not own.equals(given):
                raise ValueError(f"other has other labels along {name!r}; expected the same ones in the same order")

    def __add__(self, other: object) -> Moments:
        if isinstance(other, int) and other == 0:
            return copy(self)
        if not isinstance(other, Moments):
            return NotImplemented
        return copy(self).merge(other)

    __radd__ = __add__  # sum() begins with 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        if self._axes != other._axes or self._state.n.shape != other._state.n.shape:
            return False
        pairs = ((self.count, other.count), (self.mean, other.mean), (self.var(), other.var()))
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    def normalize(self, x: ArrayLike, *, eps: float = 0.0) -> Array:
        """Normalize x by these statistics: (x - mean) / sqrt(var + eps), a constant group at scale 1.

        Parameters
        ----------
        x : array_like
            What `update` takes; as long along the kept axes as what was counted.
        eps : float
            Added to the variance; zero or positive.

        Returns
        -------
        y : ndarray, shape of x
            Of the dtype of x, or float32 where x is of integers or booleans.

        Raises
        ------
        TypeError, ValueError
            If x or `eps` is not as expected, or a group has no finite mean and variance: nothing was counted in it, or
            NaN or infinity.

        Notes
        -----
        A group whose variance is zero is shifted by its mean and not scaled, whatever eps.

        Examples
        --------
        >>> import fastbn
        >>> moments = fastbn.Moments(axis=1).update([[1, 7], [3, 7]])
        >>> moments.normalize([[2.0, 7.0], [4.0, 8.0]])
        array([[0., 0.],
               [2., 1.]])
        """
        data, given = self._argument(x, "x")
        return preprocessing.normalize(data, self.mean, self._scale(eps), axis=self._axes, dtype=given)

    def denormalize(self, y: ArrayLike, *, eps: float = 0.0) -> Array:
        """Take `normalize` back: y * sqrt(var + eps) + mean, a constant group at scale 1.

        Parameters
        ----------
        y : array_like
            float16, bfloat16, float32 or float64; as long along the kept axes as what was counted.
        eps : float
            As for `normalize`.

        Returns
        -------
        x : ndarray, shape and dtype of y

        Raises
        ------
        TypeError, ValueError
            As `normalize`.

        Examples
        --------
        >>> import fastbn
        >>> moments = fastbn.Moments(axis=1).update([[1, 7], [3, 7]])
        >>> moments.denormalize([[0.0, 0.0], [2.0, 1.0]])
        array([[2., 7.],
               [4., 8.]])
        """
        data, given = self._argument(y, "y")
        return preprocessing.denormalize(data, self.mean, self._scale(eps), axis=self._axes, dtype=given)

    def _argument(self, value: ArrayLike, name: str) -> tuple[Array, np.dtype[Any]]:
        """An array that has the kept axes, and the dtype of a result like it."""
        x, counted = read(value, name)
        if counted is not None:
            raise TypeError(f"{name} is a masked array, and its mask would be ignored; expected {name}.filled(...)")
        own, given = self._state.n.shape, tuple(x.shape[a] for a in kept_axes(self._axes, x))
        if own != given and self._state.n.any():
            raise ValueError(f"{name} has shape {given} along the kept axes ({self.axis}); expected {own}")
        return x, np.dtype(np.float32) if x.dtype.kind in "iub" else x.dtype

    def _scale(self, eps: float) -> Array:
        """The square root of var + eps, 1 where var is 0."""
        number = arguments.eps(eps)
        std = self.std()
        if not np.isfinite(std).all() or not np.isfinite(self.mean).all():
            raise ValueError(f"{self} has groups without a finite mean and variance; expected finite data in each")
        if number:
            with unwarned():
                rooted = np.sqrt(self.var() + number)
            std = np.where((std == 0) | np.isinf(rooted), std, rooted)
        return np.where(std == 0, 1.0, std)

    def to_dict(self) -> dict[str, Any]:
        """The moments as plain numbers, strings, lists and dicts, which JSON and MessagePack write.

        Returns
        -------
        dict
            For `from_dict`; it holds the version of its form, the axis, the shape of the kept axes, and of every group,
            in C order, either the exact "count", "sum" and "sum_of_squares" as integers, or as floats "count", "shift",
            "offset", "m2" and "power": the mean is shift + offset, the sum of squared deviations m2 * 4**power.

        Examples
        --------
        >>> import json
        >>> import fastbn
        >>> moments = fastbn.Moments(axis=1).update([[1, 7], [3, 7]])
        >>> text = json.dumps(moments.to_dict())
        >>> text  # doctest: +NORMALIZE_WHITESPACE
        '{"format": "fastbn.Moments", "version": 1, "axis": [1], "shape": [2],
          "exact": {"count": [2, 2], "sum": [4, 14], "sum_of_squares": [10, 98]}}'
        >>> fastbn.Moments.from_dict(json.loads(text)) == moments
        True
        """
        return _serial.to_dict(self._axes, self._state)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Moments as they were when `to_dict` made this of them.

        Parameters
        ----------
        data : mapping
            What `to_dict` returned, or JSON made of it.

        Returns
        -------
        Moments

        Raises
        ------
        TypeError, ValueError
            If `data` is something else, or of a version that is not known.
        """
        axes, state = _serial.from_dict(data)
        moments = cls(axes)
        moments._state = state
        return moments

    def _add(self, part: State, name: str) -> None:
        own, new = self._state.n, part.n
        if own.ndim == new.ndim and own.shape != new.shape:
            raise ValueError(f"{name} has shape {new.shape} along the kept axes ({self.axis}); expected {own.shape}")
        self._state = _states.merged(self._state, part)

    def __repr__(self) -> str:
        n = self._state.n
        bounds = sorted({float(n.min()), float(n.max())}) if n.size else [0.0]
        count = " to ".join(f"{v:.0f}" if v.is_integer() else repr(v) for v in bounds)
        return f"Moments(axis={self.axis}, shape={n.shape}, count={count})"
