"""Layer normalization as a thinc model; needs ``pip install "fastbn[thinc]"``."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn._doors import need

__all__ = ["LayerNorm"]

Array = NDArray[Any]

EPS = 1e-8  # what thinc's own layer adds to the variance


def LayerNorm(nI: int | None = None) -> Any:
    """Layer normalization of rows, in the place of ``thinc.api.LayerNorm``.

    Parameters
    ----------
    nI : int, optional
        Width of the rows; where left out, that of the data that `initialize` is given.

    Returns
    -------
    model : thinc.model.Model
        From float arrays of shape (N, nI) to such of the same shape; ``with_array`` takes it to ragged and padded ones.
        Its parameters are G (weight, from 1) and b (bias, from 0), both of shape (nI,) and float32.

    Raises
    ------
    ImportError
        If thinc is not installed.
    TypeError
        On calling: if the model's arrays are not NumPy's, as on a GPU, or are not floats.

    Notes
    -----
    The name, dimensions and parameters are those of thinc's layer, so what ``to_bytes`` wrote of one is read by the
    other.  The variance is biased, and 1e-8 is added to it.  Errors are those of `fastbn.layer_norm`: at most 5e-7 of
    the largest y in float32, whatever the mean of a row.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.thinc import LayerNorm
    >>> model = LayerNorm()  # doctest: +SKIP
    >>> x = np.array([[1.0, 2.0, 3.0]], np.float32)
    >>> model.initialize(X=x).predict(x)  # doctest: +SKIP
    array([[-1.2247449,  0.       ,  1.2247449]], dtype=float32)
    """
    model = need("thinc.model", "thinc").Model
    return model("layernorm", _forward, init=_init, dims={"nI": nI, "nO": nI}, params={"G": None, "b": None})


def _forward(model: Any, X: Array, is_train: bool) -> tuple[Array, Callable[[Array], Array]]:
    if not isinstance(X, np.ndarray):
        raise TypeError(f"X is of type {type(X).__name__}; expected a NumPy array: fastbn.thinc runs on CPUs")
    G, b, width = model.get_param("G"), model.get_param("b"), X.shape[-1:]
    statistics: tuple[Array, ...] = ()
    if is_train:
        y, *statistics_ = F.layer_norm_forward(X, width, G, b, EPS)
        statistics = tuple(statistics_)
    else:
        y = F.layer_norm(X, width, G, b, EPS)

    def backprop(dY: Array) -> Array:
        if isinstance(dY, np.ndarray) and dY.dtype.kind in "fiub":  # such as a loss' against float64
            dY = dY.astype(X.dtype, copy=False)
        mean, rstd = statistics or F.layer_norm_forward(X, width, None, None, EPS)[1:]
        dX, dG, db = F.layer_norm_backward(dY, X, mean, rstd, G)
        model.inc_grad("b", db)
        model.inc_grad("G", dG)
        return dX

    return y, backprop


def _init(model: Any, X: Any = None, Y: Any = None) -> None:
    sample = X if X is not None else Y
    if sample is not None:
        width = need("thinc.util", "thinc").get_width(sample)
        model.set_dim("nI", width)
        model.set_dim("nO", width)
    nI = model.get_dim("nI")
    if not model.has_dim("nO"):
        model.set_dim("nO", nI)
    model.set_param("G", model.ops.alloc1f(nI) + 1)
    model.set_param("b", model.ops.alloc1f(nI))
