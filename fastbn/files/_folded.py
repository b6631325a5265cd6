"""Folding the batch norms of a state into the weights beside them."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from fastbn.engine import arguments
from fastbn.files._content import Content, Norm
from fastbn.files._source import Array
from fastbn.files._states import split
from fastbn.folding import fold

_TOLD = {"weight", "bias", "transposed", "groups", "before"}
_LISTED = 20


def fold_state(
    content: Content,
    arrays: Mapping[str, Array],
    pairs: Mapping[str, Mapping[str, Any]],
    layers: Mapping[str, Any],
    norms: Mapping[str, Norm],
) -> dict[str, Array]:
    """The arrays that remain, with the norms of `pairs` in the weights beside them."""
    changed: dict[str, Array] = {}
    dropped: set[str] = set()
    for name, told in pairs.items():
        if name not in norms:
            raise ValueError(f"pairs has {name!r}, which is no batch norm of the file; expected one of {_some(norms)}")
        if norms[name].kind not in ("batch", "scale"):
            raise ValueError(
                f"{name} is a norm of kind {norms[name].kind!r}; expected a batch norm, which alone can be folded"
            )
        weight, bias = _fold_one(content, name, told, layers[name], {**arrays_of(arrays, told), **changed}, arrays)
        changed |= {str(told["weight"]): weight, _bias_name(content, arrays, told): bias}
        dropped |= set(norms[name].arrays.values())
    if clash := sorted(dropped & changed.keys()):
        raise ValueError(
            f"{', '.join(clash)} would be dropped and written at once; expected the names of a convolution"
        )
    kept = {name: changed.pop(name) if name in changed else arrays[name] for name in arrays if name not in dropped}
    return kept | changed


def arrays_of(arrays: Mapping[str, Array], told: Mapping[str, Any]) -> dict[str, Array]:
    """The weight that a pair names."""
    if (
        not isinstance(told, Mapping)
        or not told.keys() <= _TOLD
        or not isinstance(told.get("weight"), str)
        or not isinstance(told.get("bias"), str | None)
    ):
        raise ValueError(
            f"a pair is {told!r}; expected dict(weight=name, bias=name, transposed=False, groups=1, before=False)"
        )
    if told["weight"] not in arrays:
        raise ValueError(f"weight={told['weight']!r} is no array of the file; expected one of {_some(arrays)}")
    return {str(told["weight"]): arrays[told["weight"]]}


def _bias_name(content: Content, arrays: Mapping[str, Array], told: Mapping[str, Any]) -> str:
    """The name that the pair gives, or that the format gives the bias of this weight."""
    if told.get("bias") is not None:
        return str(told["bias"])
    if content.bias_of is not None:
        return content.bias_of(told["weight"])
    module, separator, own = split(told["weight"])
    owned = {"weight": "bias", "kernel": "bias", "W": "b", "w": "b"}.get(own)
    return f"{module}{separator}{owned or own + '_bias'}"


def _fold_one(
    content: Content,
    name: str,
    told: Mapping[str, Any],
    layer: Any,
    present: Mapping[str, Array],
    arrays: Mapping[str, Array],
) -> tuple[Array, Array]:
    key, bias_key = str(told["weight"]), _bias_name(content, arrays, told)
    weight = present[key]
    if weight.ndim < 2:
        raise ValueError(
            f"{key} has shape {weight.shape}; expected the weight of a convolution or linear map, of 2 axes or more"
        )
    bias = present[bias_key] if bias_key in present else arrays.get(bias_key)
    for array_name, array, fits in ((key, weight, _is_computed), (bias_key, bias, _is_float)):
        if array is not None and not fits(array.dtype):
            raise ValueError(
                f"{array_name} has dtype {array.dtype}; expected floats of 16, 32 or 64 bits, which can take over a "
                "norm (a model that is quantized: fold it before)"
            )
    options = {option: told[option] for option in ("transposed", "groups", "before") if option in told}
    layout = content.layout(key)
    w = weight if layout == "first" else np.moveaxis(weight, (-1, -2), (0, 1))
    if layout == "depthwise":  # (..., channels, multiplier): as many groups as channels
        w = np.moveaxis(weight, (-2, -1), (0, 1))
        options["groups"] = len(w)
        w = w.reshape(-1, 1, *w.shape[2:])
    affine = (layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps)
    try:
        new, shift = fold(w, bias, affine, **options)
    except ValueError as error:
        raise ValueError(
            f"the norm {name} of {layer.num_features} channels and {key} {weight.shape}: {error}"
        ) from None
    if layout == "depthwise":
        new = np.moveaxis(new.reshape(weight.shape[-2:] + weight.shape[:-2]), (0, 1), (-2, -1))
    elif layout == "last":
        new = np.moveaxis(new, (0, 1), (-1, -2))
    return np.ascontiguousarray(new), shift


def _is_computed(dtype: np.dtype[Any]) -> bool:
    return dtype.newbyteorder("=") in arguments.COMPUTED_IN or dtype.name == "bfloat16"


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def ask_for_pairs(norms: Mapping[str, Norm], shapes: Mapping[str, tuple[int, ...]]) -> ValueError:
    """The error of a state without a graph: what could be a pair by its width."""
    lines = []
    for name, norm in norms.items():
        if norm.kind in ("batch", "scale"):
            width = prod(norm.shape)
            fits = [key for key, shape in shapes.items() if len(shape) >= 2 and width in shape[:2] + shape[-2:]]
            lines.append(f"{name} ({width} channels): {_some(fits) or 'no weight of this width'}")
    if not lines:
        kinds = ", ".join(sorted({norm.kind for norm in norms.values()})) or "none at all"
        return ValueError(f"there is no batch norm to fold; the norms in this file are of the kinds: {kinds}")
    more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return ValueError(
        "\n  ".join(
            [
                "a state tells no graph, so what stands between a norm and a weight cannot be read from it; expected "
                "pairs={norm: dict(weight=name)}, or --pair NORM=WEIGHT of the command. Norms and weights of the "
                "same width:",
                *lines[:_LISTED],
                *more,
            ]
        )
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_LISTED]) + (f", ... ({len(listed)} in all)" if len(listed) > _LISTED else "")
