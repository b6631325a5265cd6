"""A scaler for scikit-learn's pipelines that keeps its digits; needs ``pip install "fastbn[sklearn]"``.

``Standardizer`` is made when it is first asked for, since its bases are scikit-learn's.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import preprocessing
from fastbn._doors import need
from fastbn._quiet import quietly
from fastbn.engine import arguments
from fastbn.moments import Moments

Array = NDArray[Any]


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
            """Count X in, beside what was counted before."""
            first = not hasattr(self, "moments_")
            X = self._validated(X, reset=first)
            weights = None
            if sample_weight is not None:
                arguments.refuse_mask(sample_weight, "sample_weight")
                weights = validation._check_sample_weight(sample_weight, X, dtype=np.float64)[:, None]
            part = Moments(1).update(X, None, weights)
            if np.isnan(part.mean).any():  # NaN spoils the mean of its feature, so that no pass has to look for it
                part = Moments(1).update(X, np.equal(X, X), weights)
            self.moments_: Any = part if first else self.moments_ + part
            self._tell()
            return self

        def _tell(self) -> None:
            self.mean_, self.var_, std = self.moments_.mean, self.moments_.var(), self.moments_.std()
            self.scale_ = np.where(std == 0, 1.0, std) if self.with_std else None
            count = self.moments_.count
            whole = count.astype(np.int64) if np.all(count == np.floor(count)) else count
            self.n_samples_seen_ = whole[0] if np.all(whole == whole[0]) else whole

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
            mean, scale = self._applied()
            return self._by(preprocessing.denormalize, X, mean, scale, self.copy if copy is None else copy)

        def _applied(self) -> tuple[Array, Array]:
            nothing = np.zeros(self.n_features_in_)
            return self.mean_ if self.with_mean else nothing, nothing + 1 if self.scale_ is None else self.scale_

        @staticmethod
        def _by(function: Any, X: Array, mean: Array, scale: Array, copy: bool) -> Array:
            usable = np.isfinite(mean) & np.isfinite(scale) & (scale > 0)
            y = X if not copy and X.flags.writeable else None
            if usable.all():
                result: Array = function(X, mean, scale, axis=1, dtype=X.dtype, out=y)
                return result
            result = np.full_like(X, np.nan)  # features of which nothing is known
            result[:, usable] = function(X[:, usable], mean[usable], scale[usable], axis=1, dtype=X.dtype)
            return result

        @staticmethod
        def _accepts() -> dict[str, Any]:
            dtypes = [np.float64, np.float32, np.float16]
            return {"dtype": dtypes, "ensure_all_finite": "allow-nan", "accept_sparse": False}

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
