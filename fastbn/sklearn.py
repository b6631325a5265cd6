"""A scaler for scikit-learn's pipelines that keeps its digits; needs ``pip install "fastbn[sklearn]"``.

``Standardizer`` is made when it is first asked for, since its bases are scikit-learn's.
"""

from copy import copy
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import preprocessing
from fastbn._doors import need
from fastbn._quiet import quietly
from fastbn.engine import arguments
from fastbn.moments import Moments
from fastbn.moments._measure import measured
from fastbn.moments._states import merged, var_and_std

Array = NDArray[Any]

_FLOATS = (np.float64, np.float32, np.float16)


def __getattr__(name: str) -> Any:
    if name == "Standardizer":
        return _standardizer()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _standardizer() -> Any:
    base = need("sklearn.base", "sklearn")
    validation = need("sklearn.utils.validation", "sklearn")
    check_is_fitted, validate_data = validation.check_is_fitted, validation.validate_data

    class Standardizer(base.OneToOneFeatureMixin, base.TransformerMixin, base.BaseEstimator):  # type: ignore[misc,name-defined]
        """Standardize features: remove the mean and scale to unit variance.

        Parameters
        ----------
        copy : bool
            Whether `transform` leaves its argument as it is; otherwise the result may lie in its memory.
        with_mean : bool
            Whether the mean is removed.
        with_std : bool
            Whether features are scaled to unit variance.

        Attributes
        ----------
        mean_, var_ : ndarray of float64, shape (n_features,)
            Mean and biased variance of each feature; var_ is infinite where it is past float64's range.
        scale_ : ndarray of float64, shape (n_features,), or None
            The standard deviation, 1 for a constant feature.
        n_samples_seen_ : int, or ndarray of shape (n_features,)
            How many samples, or the sum of their weights; an array where features have different numbers of NaN.
        moments_ : fastbn.Moments
            All that is known of the data; moments of several estimators can be added.

        Notes
        -----
        As scikit-learn's ``StandardScaler``, with sums about an element of each feature: mean, deviation and result are
        right to some 1e-12 relative for values near 1e307, for a mean that is large against the deviation, and in
        float16, which is computed in float32.  NaN is left out of the statistics and stays NaN.
        """

        def __init__(self, *, copy: bool = True, with_mean: bool = True, with_std: bool = True) -> None:
            self.copy = copy
            self.with_mean = with_mean
            self.with_std = with_std

        def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
            """Take the statistics of X, shape (n_samples, n_features); sample_weight: shape (n_samples,)."""
            if hasattr(self, "moments_"):
                del self.moments_
            return self.partial_fit(X, y, sample_weight)

        @quietly
        def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
            """Add X to the data that was counted before."""
            first = not hasattr(self, "moments_")
            if first:
                for name in ("copy", "with_mean", "with_std"):
                    arguments.flag(getattr(self, name), name)
            if sample_weight is None and self._needs_no_look(X, first):
                state: Any = measured(X, (1,), None, None, "X")
                if np.isfinite(state.offset).all():  # NaN or infinity would spoil it: no pass has to look for them
                    self.n_features_in_ = X.shape[1]
                    return self._with(state, first)
            X, weights = self._validated(X, reset=first), None
            if sample_weight is not None:
                arguments.refuse_mask(sample_weight, "sample_weight")
                weights = validation._check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)[
                    :, None
                ]
            state = measured(X, (1,), None, weights, "X")
            if np.isnan(state.offset).any():
                state = measured(X, (1,), np.equal(X, X), weights, "X")
            return self._with(state, first)

        def _needs_no_look(self, X: Any, first: bool) -> bool:
            """Whether scikit-learn's validation would find nothing to change or refuse but infinity."""
            plain = type(X) is np.ndarray and X.ndim == 2 and X.dtype in _FLOATS and X.size > 0
            if not plain or hasattr(self, "feature_names_in_"):
                return False
            return first or X.shape[1] == self.n_features_in_

        def _with(self, part: Any, first: bool) -> Any:
            """Count a part in, and tell of all."""
            moments = Moments(1) if first else copy(self.moments_)
            moments._state = state = part if first else merged(moments._state, part)
            self.moments_: Any = moments
            self.mean_, (self.var_, std) = moments.mean, var_and_std(state, 0)
            self.scale_ = np.where(std == 0, 1.0, std) if self.with_std else None
            least = state.n.min()
            count = least if least == state.n.max() else state.n
            self.n_samples_seen_ = _whole(count)
            return self

        def transform(self, X: Any, copy: bool | None = None) -> Any:
            """(X - mean_) / scale_, of the dtype of X."""
            check_is_fitted(self)
            X = self._validated(X, reset=False)
            mean, scale = self._applied()
            return self._by(preprocessing.normalize, X, mean, scale, self.copy if copy is None else copy)

        def inverse_transform(self, X: Any, copy: bool | None = None) -> Any:
            """X * scale_ + mean_, of the dtype of X."""
            check_is_fitted(self)
            arguments.refuse_mask(X, "X")
            X = validation.check_array(X, **self._accepts())
            if X.shape[1] != self.n_features_in_:
                raise ValueError(
                    f"X has {X.shape[1]} features; expected {self.n_features_in_}, as {self} was fitted to"
                )
            mean, scale = self._applied()
            return self._by(preprocessing.denormalize, X, mean, scale, self.copy if copy is None else copy)

        def _applied(self) -> tuple[Array, Array]:
            nothing = np.zeros(self.n_features_in_)
            scale = self.scale_ if self.with_std else None
            return self.mean_ if self.with_mean else nothing, nothing + 1 if scale is None else scale

        @staticmethod
        def _by(function: Any, X: Array, mean: Array, scale: Array, copy: bool) -> Array:
            usable = np.isfinite(mean) & np.isfinite(scale) & (scale > 0)
            y = X if not copy and X.flags.behaved else None
            if usable.all():
                result: Array = function(X, mean, scale, axis=1, dtype=X.dtype, out=y)
                return result
            result = np.full_like(X, np.nan)  # features of which nothing is known
            result[:, usable] = function(X[:, usable], mean[usable], scale[usable], axis=1, dtype=X.dtype)
            return result

        @staticmethod
        def _accepts() -> dict[str, Any]:
            return {"dtype": list(_FLOATS), "ensure_all_finite": "allow-nan", "accept_sparse": False}

        def _validated(self, X: Any, reset: bool) -> Array:
            arguments.refuse_mask(X, "X")
            checked: Array = validate_data(self, X, reset=reset, **self._accepts())
            return checked

        def __sklearn_tags__(self) -> Any:
            tags = super().__sklearn_tags__()
            tags.input_tags.allow_nan = True
            tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
            return tags

    Standardizer.__qualname__ = "Standardizer"
    return Standardizer


def _whole(count: Any) -> Any:
    """Counts as integers where they are."""
    return count.astype(np.int64) if np.all(count == np.floor(count)) else count.copy()
