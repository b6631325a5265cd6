"""Batch norms that are folded into the convolution before them, in evaluation.

A convolution whose result goes to one batch norm alone then hands on a tensor that is not computed yet.  The norm that
gets it computes both at once, by a weight and a bias that were folded before; whatever else touches the tensor gets the
convolution's own result.  What was folded is kept beside the norm until one of its sources changes, or training begins.
"""

from math import prod
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module
from torch.utils._pytree import tree_map_only

from fastbn.torch import _formulas, functional
from fastbn.torch._known import PLAIN
from fastbn.torch._pending import calling_frame
from fastbn.torch._plans import Array

__all__ = ["PAIRS", "Convolved", "Folding", "drop", "fold_into", "folding_of", "unfold"]

PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}

_POINTWISE: dict[str | None, tuple[str, list[float], str]] = {
    None: ("none", [], ""),
    "relu": ("relu", [], ""),
    "leaky_relu": ("leaky_relu", [0.01], ""),
    "sigmoid": ("sigmoid", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
}  # activations as torch's operator of oneDNN takes them


class _Source(NamedTuple):
    """A parameter or statistic, and what tells whether it has changed."""

    tensor: Tensor | None
    version: int = 0
    address: int = 0
    looked_at: Any = None  # elements, as an array over its memory,
    found: bytes = b""  # and what they were

    def changed(self, tensor: Tensor | None) -> bool:
        """Whether it is not what it was."""
        if tensor is None or self.tensor is None:
            return tensor is not self.tensor
        if tensor is not self.tensor or tensor._version != self.version or tensor.data_ptr() != self.address:
            return True
        return bool(self.looked_at.tobytes() != self.found)


def _source(tensor: Tensor | None, step: int = 1) -> _Source:
    """One as it is now.  What is written through `.data` moves no version: every step-th element is compared, too."""
    if tensor is None:
        return _Source(None)
    values = tensor.detach()
    looked_at = values.as_strided((-(-values.numel() // step),), (step,)).numpy()
    return _Source(tensor, tensor._version, tensor.data_ptr(), looked_at, looked_at.tobytes())


class _Folded(NamedTuple):
    """What was folded, and of what."""

    sources: tuple[_Source, ...]
    weight: Tensor  # maybe in an order of oneDNN's own
    bias: Tensor


_kept: WeakKeyDictionary[nn.Module, dict[bool, _Folded]] = WeakKeyDictionary()  # by norm, and whether in oneDNN's order


def drop(norm: nn.Module) -> None:
    """Forget what was folded."""
    _kept.pop(norm, None)


class Folding:
    """Stands in for `_conv_forward` of a convolution that is followed by one batch norm alone."""

    def __init__(self, parent: nn.Module, paths: tuple[str, str]) -> None:
        self.parent = type(parent)
        self.paths = paths  # of convolution and norm, from the module that calls them
        self.conv: Any = parent.get_submodule(paths[0])
        self.norm: Any = parent.get_submodule(paths[1])

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution's result, which may not be computed yet."""
        if not torch.compiler.is_compiling() and self._may_wait(input, weight, bias):
            return Convolved.of(self, input)
        return self.plain(input, weight, bias)

    def plain(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the convolution computes by itself."""
        result: Tensor = type(self.conv)._conv_forward(self.conv, input, weight, bias)
        return result

    def _may_wait(self, x: Any, weight: Any, bias: Any) -> bool:
        """Whether both are in evaluation, nothing is differentiated, and nobody can see what lies between."""
        conv, norm = self.conv, self.norm
        if torch.is_grad_enabled() or norm.training or conv.training:
            return False
        if type(x) is not Tensor or x.dtype is not torch.float32 or functional._how(x, None) != "kernel":
            return False
        if x.ndim != weight.ndim or x.shape[1] != conv.in_channels or torch.is_autocast_enabled("cpu"):
            return False  # the first two: torch has its own words for them
        if x.ndim == 5 and max(conv.kernel_size) == 1 and _has_channels_last(x):
            return False  # torch's result is contiguous, oneDNN's is not
        if torch._C._len_torch_function_stack() or not self._foldable(weight, bias) or min(self.size(x)) < 1:
            return False
        if conv._forward_hooks or norm._forward_pre_hooks or conv._backward_hooks or norm._backward_hooks:
            return False
        if _module._global_forward_hooks or _module._global_forward_pre_hooks:
            return False
        return self._is_called_as_traced()

    def _foldable(self, weight: Any, bias: Any) -> bool:
        """Whether the arguments are the convolution's own parameters, and these and the norm's are as usual."""
        parameters, norm = self.conv._parameters, self.norm
        if weight is not parameters.get("weight") or bias is not parameters.get("bias"):
            return False  # a parametrization, say
        mean, var = norm.running_mean, norm.running_var
        if mean is None or var is None or not isinstance(norm, PAIRS[type(self.conv)]):
            return False
        if type(self.conv.padding) is not tuple or self.conv.padding_mode != "zeros":
            return False
        vectors: list[Any] = [v for v in (bias, norm.weight, norm.bias, mean, var) if v is not None]
        if any(v.shape != weight.shape[:1] or not v.is_contiguous() for v in vectors):
            return False
        known = (type(v) in PLAIN and v.dtype is torch.float32 and v.is_cpu for v in (weight, *vectors))
        if not all(known) or any(v.is_inference() for v in (weight, *vectors)):
            return False
        return bool(weight.is_contiguous() or _has_channels_last(weight))

    def _is_called_as_traced(self) -> bool:
        """Whether the forward that was traced calls, and has both where they were."""
        frame = calling_frame()
        if frame is None or frame.f_code is not getattr(getattr(self.parent, "forward", None), "__code__", None):
            return False
        parent = frame.f_locals.get("self")
        return _at(parent, self.paths[0]) is self.conv and _at(parent, self.paths[1]) is self.norm

    def computed(self, x: Tensor, activation: Any = None, residual: Tensor | None = None) -> Tensor:
        """Convolution, norm, residual sum and activation at once."""
        conv, last = self.conv, _has_channels_last(x)
        ordered = last or self._is_worth_ordering(x)
        folded = self._folded(x, ordered)
        places = conv.padding, conv.stride, conv.dilation, conv.groups
        name, *slope = activation if isinstance(activation, tuple) else (activation,)
        with torch.no_grad():
            if x.ndim == 3 or not _has_onednn():
                y = _CONVOLUTIONS[type(conv)](x, folded.weight, folded.bias, places[1], places[0], *places[2:])
                return _formulas.completed(y, activation, residual)
            kind, parameters, algorithm = _POINTWISE[name]
            operator = torch.ops.mkldnn._convolution_pointwise
            if residual is None:
                y = operator.default(x, folded.weight, folded.bias, *places, kind, slope or parameters, algorithm)
            else:  # behind a sum, oneDNN takes relu alone
                relu = "relu" if kind == "relu" else None
                y = operator.binary(x, residual, folded.weight, folded.bias, *places, "add", 1.0, relu, [], "")
                y = y if kind in ("none", "relu") else _formulas.completed(y, activation, None)
            return y.contiguous() if ordered and not last else y

    def _is_worth_ordering(self, x: Tensor) -> bool:
        """Whether a contiguous x and its result are put in another order, so that a much larger weight need not be."""
        weight, size = self.conv.weight, self.size(x)
        if x.ndim != 4 or size[2] * size[3] == 1 or x.shape[2] * x.shape[3] == 1 or weight.shape[1] == 1:
            return False  # whose order is ambiguous
        moved = x.numel() + prod(size)
        return bool(weight.stride()[3] == 1 and weight.numel() > moved)

    def size(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the convolution's result."""
        conv = self.conv
        places = zip(x.shape[2:], conv.kernel_size, conv.padding, conv.stride, conv.dilation, strict=True)
        lengths = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in places)
        return (x.shape[0], conv.out_channels, *lengths)

    def _folded(self, x: Tensor, ordered: bool) -> _Folded:
        """What was folded, or is now."""
        conv, norm = self.conv, self.norm
        now = conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var
        kept = _kept.setdefault(norm, {})
        found = kept.get(ordered)
        if found is None or any(s.changed(t) for s, t in zip(found.sources, now, strict=True)):
            found = kept[ordered] = self._fold(now, x, ordered)
        return found

    def _fold(self, sources: tuple[Any, ...], x: Tensor, ordered: bool) -> _Folded:
        weight, bias = sources[:2]
        per_filter = weight.numel() // weight.shape[0]
        kept = _source(weight, per_filter), *(_source(t) for t in sources[1:])
        scale, shift = _scale_and_shift(sources[2:], self.norm.eps)
        if bias is not None:
            shift += scale * bias.detach().double().numpy()
        along = [-1] + [1] * (weight.ndim - 1)
        with torch.inference_mode(False), torch.no_grad():
            of_weight = (weight.detach().double() * torch.from_numpy(scale).reshape(along)).to(weight.dtype)
            if ordered and _has_onednn():  # in oneDNN's own order, or each call would put it in that
                conv = self.conv
                places = conv.padding, conv.stride, conv.dilation, conv.groups
                of_weight = torch.ops.mkldnn._reorder_convolution_weight(of_weight, *places, list(x.shape))
            return _Folded(kept, of_weight, torch.from_numpy(shift).to(weight.dtype))


def _has_channels_last(x: Tensor) -> bool:
    """Whether x is channels last, and not contiguous, too."""
    if x.ndim not in (4, 5) or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


def _has_onednn() -> bool:
    """Whether convolutions are torch's by oneDNN, with what stands behind them."""
    return torch.backends.mkldnn.is_available() and bool(torch._C._get_mkldnn_enabled())


_CONVOLUTIONS: dict[type, Any] = {
    nn.Conv1d: nn.functional.conv1d,
    nn.Conv2d: nn.functional.conv2d,
    nn.Conv3d: nn.functional.conv3d,
}


def _scale_and_shift(norm: tuple[Any, ...], eps: float) -> tuple[Array, Array]:
    """What a norm multiplies by and adds, in float64; norm: its weight, bias, running mean and variance."""
    weight, bias, mean, var = norm
    m, v = (t.detach().double().numpy() for t in (mean, var))
    scale: Array = 1.0 / np.sqrt(v + eps)
    if weight is not None:
        scale = scale * weight.detach().double().numpy()
    shift: Array = -m * scale
    return scale, shift if bias is None else shift + bias.detach().double().numpy()


def _at(module: Any, path: str) -> Any:
    """The module at a path, or None."""
    for name in path.split("."):
        module = getattr(module, "_modules", {}).get(name)
    return module


class Convolved(Tensor):
    """The result of a convolution that is not computed yet."""

    @staticmethod
    def of(folding: Folding, x: Tensor) -> "Convolved":
        """That of the convolution of x."""
        result = Tensor._make_subclass(Convolved, _NOTHING)
        result.__dict__.update(folding=folding, x=x, version=None if x.is_inference() else x._version, value=None)
        return result

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Convolved, settled, (args, kwargs or {}))
        return func(*args, **kwargs)


_NOTHING = torch.empty(0)


def input_of(convolved: Convolved) -> Tensor:
    """What is convolved, which nobody may have changed since."""
    state = convolved.__dict__
    x: Tensor = state["x"]
    if state["version"] is not None and x._version != state["version"]:
        raise RuntimeError(
            "the input of a convolution was changed in place before the norm behind it was computed; "
            "convert the model with fastbn.torch.convert(model, fuse=False)"
        )
    return x


def settled(convolved: Convolved) -> Tensor:
    """The convolution's own result, computed now if it has not been."""
    state = convolved.__dict__
    if state["value"] is None:
        conv = state["folding"].conv
        with torch.no_grad():
            state["value"] = state["folding"].plain(input_of(convolved), conv.weight, conv.bias)
    value: Tensor = state["value"]
    return value


def to_be_folded(convolved: Convolved, norm: nn.Module) -> Folding | None:
    """What computes a convolution together with this norm, if it still can."""
    folding: Folding = convolved.__dict__["folding"]
    fits = folding.norm is norm and convolved.__dict__["value"] is None and not norm.training
    return folding if fits and not torch.is_grad_enabled() else None


def fold_into(parent: nn.Module, paths: tuple[str, str]) -> None:
    """Have a convolution hand on to the norm behind it what both compute in evaluation; paths: of the two."""
    folding = Folding(parent, paths)
    folding.conv.__dict__["_conv_forward"] = folding


def folding_of(module: nn.Module) -> Folding | None:
    """What stands in for a convolution's own forward, if anything."""
    found = module.__dict__.get("_conv_forward")
    return found if isinstance(found, Folding) else None


def unfold(module: nn.Module) -> None:
    """Have a convolution compute by itself again."""
    if folding_of(module) is not None:
        del module.__dict__["_conv_forward"]
