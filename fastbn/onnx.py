"""Normalization operators for ONNX's reference evaluator; needs ``pip install "fastbn[onnx]"``."""

from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn._doors import need

__all__ = ["reference_ops"]

Array = NDArray[Any]

_STANDARD_DEVIATION_FROM = 1e-9  # what MeanVarianceNormalization adds to the standard deviation


def reference_ops() -> list[Any]:
    """The normalization operators of ONNX, computed by fastbn, for ``onnx.reference.ReferenceEvaluator``.

    Returns
    -------
    ops : list of OpRun classes
        BatchNormalization, LayerNormalization, GroupNormalization, InstanceNormalization, RMSNormalization and
        MeanVarianceNormalization, each in every version of the operator set.

    Raises
    ------
    ImportError
        If onnx is not installed.

    Notes
    -----
    Inputs are float16, bfloat16, float32 or float64; statistics are taken in float64 whatever the attribute
    ``stash_type`` says, which is more exact than either of its values.  BatchNormalization in inference uses the
    statistics it is given in every version; onnx's own evaluator blends in those of the batch in versions 9 to 13.

    Examples
    --------
    >>> import fastbn
    >>> from onnx.reference import ReferenceEvaluator  # doctest: +SKIP
    >>> evaluator = ReferenceEvaluator("model.onnx", new_ops=fastbn.onnx.reference_ops())  # doctest: +SKIP
    """
    return list(_classes(need("onnx.reference.op_run", "onnx").OpRun))


def _batch_normalization(x: Array, arrays: tuple[Array, ...], epsilon: float) -> Array:
    scale, bias, mean, var = arrays
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def _trains(version: int, outputs: int, attributes: dict[str, Any]) -> bool:
    """Whether a batch normalization of this version, of so many outputs, normalizes by the statistics of the batch."""
    if version >= 14:
        return bool(attributes.get("training_mode"))
    return outputs > 1 if version >= 7 else not attributes.get("is_test")


def _trained(x: Array, arrays: tuple[Array, ...], epsilon: float, momentum: float) -> tuple[Array, ...]:
    """y, and of the batch mean and biased variance, and both as the running ones take them in."""
    scale, bias, *running = arrays
    n = x.size // x.shape[1] if x.size else 0
    if n > 1:
        mean, var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        y = F.batch_norm(x, mean, var, scale, bias, training=True, momentum=1.0, eps=epsilon)
        var *= (n - 1) / n
    else:  # a value is its own mean
        mean, var = x.reshape(-1, x.shape[1]).sum(axis=0, dtype=np.float64), np.zeros(x.shape[1])
        y = F.batch_norm(x, mean, var, scale, bias, eps=epsilon)
    moved = (
        old.astype(np.float64) * momentum + new * (1 - momentum) for old, new in zip(running, (mean, var), strict=True)
    )
    return y, mean, var, *moved


def _group_normalization(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    if scale.size != x.shape[1] and scale.size == groups:  # a number a group, up to version 20
        scale, bias = (np.repeat(v, x.shape[1] // groups) for v in (scale, bias))
    return F.group_norm(x, groups, scale, bias, epsilon)


def _mean_variance_normalization(x: Array, axes: tuple[int, ...]) -> Array:
    reduced = sorted({a % x.ndim for a in axes})
    kept = [a for a in range(x.ndim) if a not in reduced]
    order = *kept, *reduced
    rows = np.ascontiguousarray(x.transpose(order)).reshape(prod(x.shape[a] for a in kept), -1)
    _, mean, rstd = F.layer_norm_forward(rows, rows.shape[1:], eps=0.0)
    with np.errstate(divide="ignore"):
        spread = 1 / rstd + _STANDARD_DEVIATION_FROM  # 0 where rstd is infinite
    y = F.batch_norm(rows, mean, spread * spread, eps=0.0, axis=0)
    return y.reshape([x.shape[a] for a in order]).transpose(np.argsort(order))


@cache
def _classes(OpRun: Any) -> tuple[Any, ...]:
    class BatchNormalization(OpRun):  # type: ignore[misc]
        def _run(
            self,
            x: Array,
            *arrays: Array,
            epsilon: float = 1e-5,
            momentum: float = 0.9,
            **attributes: Any,
        ) -> tuple[Array, ...]:
            shape = x.shape
            kept = arrays[0].shape
            if not attributes.get("spatial", 1):  # up to version 8: a mean and a variance of each element of a sample
                x, arrays = x.reshape(len(x), -1), tuple(v.reshape(-1) for v in arrays)
            version = self.run_params["opsets"][self.onnx_node.domain]
            outputs = len(self.onnx_node.output)
            if not _trains(version, outputs, attributes):
                return (_batch_normalization(x, arrays, epsilon).reshape(shape),)
            y, mean, var, running_mean, running_var = _trained(x, arrays, epsilon, momentum)
            given = [running_mean, running_var] if version >= 14 else [running_mean, running_var, mean, var]
            return y.reshape(shape), *(v.reshape(kept).astype(arrays[2].dtype) for v in given[: outputs - 1])

    class LayerNormalization(OpRun):  # type: ignore[misc]
        def _run(
            self, x: Array, scale: Array, bias: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5, **_: Any
        ) -> tuple[Array, ...]:
            shape = x.shape[axis % x.ndim :]
            weight, offset = (None if v is None else np.broadcast_to(v, shape) for v in (scale, bias))
            y, *statistics = F.layer_norm_forward(x, shape, weight, offset, epsilon)
            ones = (1,) * len(shape)
            kept = x.dtype if x.dtype.itemsize > 4 else np.float32
            return y, *(v.reshape(v.shape + ones).astype(kept) for v in statistics)

    class RMSNormalization(OpRun):  # type: ignore[misc]
        def _run(self, x: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> tuple[Array]:
            shape = x.shape[axis % x.ndim :]
            return (F.rms_norm(x, shape, np.broadcast_to(scale, shape), epsilon),)

    class GroupNormalization(OpRun):  # type: ignore[misc]
        def _run(
            self, x: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float = 1e-5, **_: Any
        ) -> tuple[Array]:
            return (_group_normalization(x, scale, bias, num_groups, epsilon),)

    class InstanceNormalization(OpRun):  # type: ignore[misc]
        def _run(self, x: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5, **_: Any) -> tuple[Array]:
            return (F.instance_norm(x, None, None, scale, bias, eps=epsilon),)

    class MeanVarianceNormalization(OpRun):  # type: ignore[misc]
        def _run(self, x: Array, *, axes: Any = (0, 2, 3), **_: Any) -> tuple[Array]:
            return (_mean_variance_normalization(x, tuple(axes)),)

    return (
        BatchNormalization,
        LayerNormalization,
        GroupNormalization,
        InstanceNormalization,
        RMSNormalization,
        MeanVarianceNormalization,
    )
