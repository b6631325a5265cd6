"""What a reader makes of a file: its arrays, and the normalizations that it can tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fastbn.files._source import Array, Entry
from fastbn.layers import (
    BatchNorm,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    Layer,
    LayerNorm,
    RMSNorm,
)

ROLES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(slots=True)
class Norm:
    """A normalization of a file: where its arrays are, and what is known of it."""

    kind: str  # "batch", "layer", "group", "instance", "rms", or "scale": a scale and a shift, the statistics folded in
    arrays: dict[str, str]  # of ROLES, the names in the file
    shape: tuple[int, ...]  # of the layer's weight
    eps: float | None
    eps_assumed: bool = True
    momentum: float | None = 0.1  # the weight of the new batch
    axis: int = 1
    groups: int = 1
    offset: float = 0.0
    rank: int | None = None  # of the input, where it is known
    fixed_weight: bool = False  # MXNet's fix_gamma: the weight counts as 1, whatever the file holds


@dataclass(slots=True)
class Unknown:
    """What looks like a normalization whose kind the file does not tell."""

    why: str
    arrays: dict[str, str]  # of ROLES, the names in the file
    shape: tuple[int, ...]


Found = tuple[dict[str, Norm], dict[str, Unknown]]  # by name


@dataclass(slots=True)
class Content:
    """A file that has been opened."""

    format: str
    entries: dict[str, Entry]
    find: Callable[[], Found]
    closers: list[Callable[[], Any]] = field(default_factory=list)
    # How the axes of a weight lie: (out, in, ...), (..., in, out), or for "depthwise" (..., channels, multiplier).
    layout: Callable[[str], str] = lambda name: "first"
    bias_of: Callable[[str], str] | None = None  # the name of the bias that belongs to a weight
    pairs: Callable[[], dict[str, dict[str, Any]]] | None = None  # what lies beside each norm, where the file tells
    graph: Any = None  # an ONNX model, which is folded as a whole
    parts: list[Path] = field(default_factory=list)  # the files that an index names


def values_of(norm: Norm, arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    """The arrays of a norm, in the shapes that its layer has."""
    values = {role: np.asarray(arrays[key]) for role, key in norm.arrays.items()}
    for role, value in values.items():
        if role == "num_batches_tracked":
            continue
        if value.dtype.kind == "c":
            raise ValueError(f"{norm.arrays[role]} has dtype {value.dtype}; expected real numbers of the norm {name}")
        if norm.kind == "group" and value.size == norm.groups != prod(norm.shape):
            value = np.repeat(value.reshape(-1), prod(norm.shape) // norm.groups)  # one a group, not one a channel
        elif value.size == 1 != prod(norm.shape):
            value = np.broadcast_to(value.reshape(()), norm.shape)
        if value.size != prod(norm.shape):
            raise ValueError(f"{norm.arrays[role]} has shape {value.shape}; expected {norm.shape} of the norm {name}")
        values[role] = value.reshape(norm.shape)
    if norm.fixed_weight and "weight" in values:
        values["weight"] = np.ones_like(values["weight"])
    return values


def layer_of(norm: Norm, values: dict[str, Array], name: str) -> Layer:
    """The layer of a norm, in evaluation mode."""
    variance = values.get("running_var")
    if variance is not None and (variance < 0).any():
        raise ValueError(
            f"{norm.arrays['running_var']} is {np.min(variance)} in a channel of the norm {name}; expected variances "
            "of at least 0 (a framework that takes E[x^2] - E[x]^2 leaves such where the mean is large: train anew)"
        )
    layer = _new(norm, {role: value for role, value in values.items() if role != "num_batches_tracked"})
    if norm.kind == "scale":  # the statistics are in the scale and the shift
        values = {"running_mean": np.zeros(norm.shape), "running_var": np.ones(norm.shape), **values}
    return filled(layer, values, name)


def _new(norm: Norm, values: dict[str, Array]) -> Layer:
    dtype = _dtype(values)
    affine, bias, eps = "weight" in values or "bias" in values, "bias" in values, norm.eps
    size = prod(norm.shape)
    more: dict[str, Any] = {"bias": bias, "dtype": dtype}
    if norm.kind in ("batch", "scale"):
        assert eps is not None
        return BatchNorm(size, eps, norm.momentum, affine, axis=norm.axis, **more)
    if norm.kind == "group":
        assert eps is not None
        return GroupNorm(norm.groups, size, eps, affine, axis=norm.axis, **more)
    if norm.kind == "layer":
        assert eps is not None
        return LayerNorm(norm.shape, eps, affine, **more)
    if norm.kind == "instance":
        assert eps is not None
        if norm.rank in (3, 4, 5):
            classes: dict[int, Any] = {3: InstanceNorm1d, 4: InstanceNorm2d, 5: InstanceNorm3d}
            return classes[norm.rank](size, eps, affine=affine, axis=norm.axis, **more)
        return GroupNorm(size, size, eps, affine, axis=norm.axis, **more)  # the same, for an input of any rank
    return RMSNorm(norm.shape, eps, affine, offset=norm.offset, dtype=dtype)


def _dtype(values: dict[str, Array]) -> np.dtype[Any]:
    """The smallest floating type that holds all of them: of bfloat16 weights and float32 statistics, float32."""
    floats = [value.dtype.newbyteorder("=") for value in values.values() if value.dtype.kind not in "biu"]
    dtype = np.dtype(np.result_type(*floats)) if floats else np.dtype(np.float32)
    return dtype if dtype.itemsize > 1 else np.dtype(np.float32)


def filled(layer: Layer, values: dict[str, Array], name: str) -> Layer:
    """The layer with these arrays, in evaluation mode."""
    own = layer._state()
    state = {role: value for role, value in values.items() if role != "num_batches_tracked"}
    if "weight" in own and "weight" not in state:
        state["weight"] = np.ones_like(own["weight"])
    for role, value in state.items():
        if role not in own:
            raise ValueError(f"{name} is {layer}, which has no {role}; expected one that takes {sorted(values)}")
        if value.dtype.kind in "biu":
            state[role] = value.astype(layer.dtype)
    if "num_batches_tracked" in values and "num_batches_tracked" in own:
        state["num_batches_tracked"] = _count(values["num_batches_tracked"])
    missing = sorted(own.keys() - state.keys() - {"num_batches_tracked"})
    if missing:
        raise ValueError(
            f"{name} is {layer}, whose {' and '.join(missing)} the file does not hold; it has {sorted(values)}"
        )
    try:
        layer.load_state_dict(state, strict=False)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return layer.eval()


def _count(value: Array) -> Array:
    """A counter, which averaging of models has made a float in some files."""
    number = np.asarray(value, np.float64).reshape(-1)
    known = number.size == 1 and np.isfinite(number[0]) and abs(number[0]) < 2**62
    return np.array(int(number[0]) if known else 0, np.int64)
