"""A convolution and the batch norm behind it as one: by a weight and a bias that are kept until a source changes."""

from ctypes import string_at
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fastbn.torch import _formulas
from fastbn.torch._addresses import over
from fastbn.torch._known import PLAIN
from fastbn.torch._plans import Array

__all__ = ["Joined", "Way", "drop", "has_channels_last", "is_folded", "joined"]

_POINTWISE: dict[str | None, tuple[str, list[float], str]] = {
    None: ("none", [], ""),
    "relu": ("relu", [], ""),
    "leaky_relu": ("leaky_relu", [0.01], ""),
    "sigmoid": ("sigmoid", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
}  # activations as torch's operator of oneDNN takes them

_CONVOLUTIONS: dict[int, Any] = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}  # by the axes of x

_FLOAT = np.dtype(np.float32)  # in which alone is folded


class Way(NamedTuple):
    """How inputs of one shape are convolved."""

    like: tuple[Any, ...]  # shape and strides of the input, and settings of the convolution
    size: torch.Size  # of the result
    channels_last: bool  # of the input
    by_torch: bool  # whether torch's own operations compute all, or oneDNN's convolution with what stands behind it
    ordered: bool  # whether the weight is in oneDNN's own order
    places: tuple[Any, ...]  # padding, stride, dilation and groups


class _Source(NamedTuple):
    """A parameter or statistic, and what tells whether it has changed."""

    tensor: Tensor | None
    version: int = 0
    address: int = 0
    lies: tuple[Any, ...] = ()  # shape and strides
    step: int = 1  # from one element that is looked at to the next,
    found: bytes = b""  # and what these were


def _have_changed(sources: tuple[_Source, ...], now: tuple[Any, ...]) -> bool:
    """Whether any is not what it was."""
    for (tensor, version, address, lies, step, found), t in zip(sources, now, strict=True):
        if t is not tensor:
            return True
        if t is not None and (
            t._version != version
            or t.data_ptr() != address
            or (t.shape, t.stride()) != lies
            or _looked_at(t, step) != found
        ):
            return True
    return False


def _looked_at(tensor: Tensor, step: int) -> bytes:
    """Every step-th element."""
    if step == 1 and (place := tensor.data_ptr()):
        return string_at(place, 4 * tensor.numel())  # a third of the time of an array
    return over(tensor, _FLOAT)[::step].tobytes()


def _source(tensor: Tensor | None, step: int = 1) -> _Source:
    """One as it is now.  What is written through `.data` moves no version: every step-th element is compared, too."""
    if tensor is None:
        return _Source(None)
    lies = tensor.shape, tensor.stride()
    return _Source(tensor, tensor._version, tensor.data_ptr(), lies, step, _looked_at(tensor, step))


class _Kept(NamedTuple):
    """What was folded, and of what."""

    sources: tuple[_Source, ...]
    settings: tuple[Any, ...]  # numbers of convolution and norm
    weight: Tensor
    bias: Tensor


_kept: WeakKeyDictionary[nn.Module, dict[bool, _Kept]] = WeakKeyDictionary()  # by norm, and whether in oneDNN's order


def is_folded(norm: nn.Module) -> bool:
    """Whether a folded weight of this norm is kept, as it is once it was used."""
    return bool(_kept.get(norm))


def drop(norm: nn.Module) -> None:
    """Forget what was folded."""
    _kept.pop(norm, None)


class Joined(NamedTuple):
    """Convolution and norm, ready for one input."""

    way: Way
    weight: Tensor
    bias: Tensor

    def computed(self, x: Tensor, activation: Any = None, residual: Tensor | None = None) -> Tensor:
        """Convolution, norm, residual sum and activation at once; gradients are not recorded."""
        way, weight, bias = self
        name, *slope = activation if isinstance(activation, tuple) else (activation,)
        if way.by_torch or (residual is not None and not way.ordered):  # for a sum, oneDNN's would take as long
            padding, stride, dilation, groups = way.places
            y = _CONVOLUTIONS[x.ndim](x, weight, bias, stride, padding, dilation, groups)
            y = y if residual is None else y.add_(residual)
            return torch.relu_(y) if name == "relu" else _formulas.completed(y, activation, None)
        kind, parameters, algorithm = _POINTWISE[name]
        operator = torch.ops.mkldnn._convolution_pointwise
        if residual is None:
            y = operator.default(x, weight, bias, *way.places, kind, slope or parameters, algorithm)
        else:  # behind a sum, oneDNN takes relu alone
            relu = "relu" if kind == "relu" else None
            y = operator.binary(x, residual, weight, bias, *way.places, "add", 1.0, relu, [], "")
            y = y if kind in ("none", "relu") else _formulas.completed(y, activation, None)
        return y if way.channels_last else y.contiguous()


def joined(conv: Any, norm: Any, way: Way) -> Joined | None:
    """Both as they are now; None if weights or statistics are not as usual."""
    of_conv, of_norm, statistics = conv._parameters, norm._parameters, norm._buffers
    now: tuple[Any, ...]
    try:
        now = of_conv["weight"], of_conv["bias"], of_norm["weight"], of_norm["bias"]
        now = *now, statistics["running_mean"], statistics["running_var"]
    except KeyError:  # parametrizations, say
        return None
    kept, settings = _kept.get(norm), (way.places, norm.eps)
    found = None if kept is None else kept.get(way.ordered)
    if found is None or found.settings != settings or _have_changed(found.sources, now):
        if not _are_usual(conv, now):
            return None
        found = _folded(now, way, norm.eps)
        _kept.setdefault(norm, {})[way.ordered] = found
    return Joined(way, found.weight, found.bias)


def _are_usual(conv: Any, sources: tuple[Any, ...]) -> bool:
    """Whether all are ordinary tensors of float32 that fit the convolution."""
    weight, _, _, _, mean, var = sources
    if mean is None or var is None or weight is None:
        return False
    vectors: list[Any] = [v for v in sources[1:] if v is not None]
    known = (type(v) in PLAIN and v.dtype is torch.float32 and v.is_cpu for v in (weight, *vectors))
    if not all(known) or any(v.is_inference() for v in (weight, *vectors)):
        return False
    if weight.shape != (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size):
        return False
    if any(v.shape != weight.shape[:1] or not v.is_contiguous() for v in vectors):
        return False
    return bool(weight.is_contiguous() or has_channels_last(weight))


def _folded(sources: tuple[Any, ...], way: Way, eps: float) -> _Kept:
    weight, bias = sources[:2]
    per_filter = weight.numel() // weight.shape[0]
    kept = _source(weight, per_filter), *(_source(t) for t in sources[1:])
    scale, shift = _scale_and_shift(sources[2:], eps)
    if bias is not None:
        shift += scale * bias.detach().double().numpy()
    along = [-1] + [1] * (weight.ndim - 1)
    with torch.inference_mode(False), torch.no_grad():
        of_weight = (weight.detach().double() * torch.from_numpy(scale).reshape(along)).to(weight.dtype)
        if way.ordered:  # in oneDNN's own order, or each call would put it in that
            reorder, shape = torch.ops.mkldnn._reorder_convolution_weight, list(way.like[0])
            of_weight = reorder(of_weight, *way.places, shape)
        return _Kept(kept, (way.places, eps), of_weight, torch.from_numpy(shift).to(weight.dtype))


def _scale_and_shift(norm: tuple[Any, ...], eps: float) -> tuple[Array, Array]:
    """What a norm multiplies by and adds, in float64; norm: its weight, bias, running mean and variance."""
    weight, bias, mean, var = norm
    m, v = (t.detach().double().numpy() for t in (mean, var))
    scale: Array = 1.0 / np.sqrt(v + eps)
    if weight is not None:
        scale = scale * weight.detach().double().numpy()
    shift: Array = -m * scale
    return scale, shift if bias is None else shift + bias.detach().double().numpy()


def has_channels_last(x: Tensor) -> bool:
    """Whether x is channels last, and not contiguous, too."""
    if x.ndim not in (4, 5) or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
