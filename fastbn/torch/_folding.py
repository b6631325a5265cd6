"""Batch norms that are folded into the convolution before them, in evaluation.

A convolution whose result goes to one batch norm alone then hands on a tensor that is not computed yet.  The norm that
gets it computes both at once, by a weight and a bias that were folded before; whatever else touches the tensor gets the
convolution's own result.
"""

import sys
from math import prod
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module
from torch.utils._pytree import tree_map_only

from fastbn.torch._folded import Joined, Way, has_channels_last, joined
from fastbn.torch._known import may_be_known
from fastbn.torch._pending import Place, Waiting, caller_of, calling_frame, is_replaced

__all__ = ["PAIRS", "Convolved", "Folding", "fold_into", "folding_of", "input_of", "settled", "to_be_folded", "unfold"]

PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}

_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled
_is_autocast_enabled = torch.is_autocast_enabled
_function_modes = torch._C._len_torch_function_stack
_is_onednn_enabled = torch._C._get_mkldnn_enabled
_threads = torch.get_num_threads

# Products from which on a convolution is oneDNN's with what stands behind it: its call takes 20 us, and 40 where the
# weight has to be put in its order; torch's own ways for small convolutions take 4.  With several threads torch's
# convolutions of larger weights are oneDNN's, too, and what stands behind is as fast by a call of its own.
_LEAST_ORDERED, _LEAST = 1 << 20, 1 << 22


class Folding:
    """Stands in for `_conv_forward` of a convolution that is followed by one batch norm alone."""

    _way: Way | None = None  # of the last call

    def __init__(self, parent: nn.Module, paths: tuple[str, str], place: Place) -> None:
        self.place = place
        self.paths = paths  # of convolution and norm, from the module that calls them
        self._conv = ref(parent.get_submodule(paths[0]))  # which holds this, and is to be freed as soon as ever
        self.norm: Any = parent.get_submodule(paths[1])

    @property
    def conv(self) -> Any:
        """The convolution."""
        return self._conv()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_conv": self.conv}

    def __setstate__(self, state: dict[str, Any]) -> None:
        conv = state["_conv"]
        self.__dict__.update(state, _conv=type(None) if conv is None else ref(conv))

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution's result, which may not be computed yet."""
        if _is_compiling():
            return _plain(self.conv, input, weight, bias)
        conv, caller = self.conv, caller_of(sys._getframe(1))
        if caller is not conv:
            if isinstance(caller, nn.Module) and folding_of(caller) is self:
                unfold(caller)  # a copy of the convolution, which got this with all else that the other one has
                conv = caller
            return _plain(conv, input, weight, bias)
        way = self._way_to_wait(input, weight, bias)
        return _plain(conv, input, weight, bias) if way is None else Convolved.of(self, way, input)

    def _way_to_wait(self, x: Any, weight: Any, bias: Any) -> Way | None:
        """How x is convolved with the norm: None unless both are in evaluation and nobody can see what lies between."""
        if not may_be_known(x) or type(x) is not Tensor or x.dtype is not torch.float32:
            return None
        conv, norm = self.conv, self.norm
        if norm.training or conv.training or _is_grad_enabled() or _is_autocast_enabled("cpu") or _function_modes():
            return None
        parameters = conv._parameters
        if weight is None or weight is not parameters.get("weight") or bias is not parameters.get("bias"):
            return None  # a parametrization, say
        if conv._forward_hooks or norm._forward_pre_hooks or conv._backward_hooks or norm._backward_hooks:
            return None
        if is_replaced(conv) or is_replaced(norm):
            return None
        if _module._global_forward_hooks or _module._global_forward_pre_hooks or not self._is_called_as_traced():
            return None
        settings = conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode
        like = x.shape, x.stride(), weight.stride(), *settings, _is_onednn_enabled(), _threads(), type(conv)
        way = self._way
        if way is None or way.like != like:
            way = self._way = self._new_way(x, weight, like)
        return way

    def _is_called_as_traced(self) -> bool:
        """Whether the forward that was traced calls, and has both where they were."""
        frame = calling_frame()
        if frame is None or frame.f_code is not self.place.code:
            return False
        parent = caller_of(frame)
        return _at(parent, self.paths[0]) is self.conv and _at(parent, self.paths[1]) is self.norm

    def _new_way(self, x: Tensor, weight: Tensor, like: tuple[Any, ...]) -> Way | None:
        """How inputs like x are convolved; None: by torch, which has its own words for what does not fit."""
        conv = self.conv
        if x.ndim != weight.ndim or x.shape[1] != conv.in_channels:
            return None
        if not isinstance(self.norm, PAIRS.get(type(conv), ())):
            return None
        if type(conv.padding) is not tuple or conv.padding_mode != "zeros":
            return None
        last, size = has_channels_last(x), torch.Size(self._size(x))
        if min(size) < 1:
            return None
        if x.ndim == 5 and max(conv.kernel_size) == 1 and last:
            return None  # torch's result is contiguous, oneDNN's is not
        ordered = last or _is_worth_ordering(x, weight, size)
        work = prod(size) * weight.numel() // weight.shape[0]
        least = _LEAST_ORDERED if ordered else _LEAST
        plain = weight.shape[1] > 1 and weight.stride()[-1] == 1  # else in which order torch's result is, depends
        by_torch = x.ndim == 3 or not _has_onednn() or work < least or not (ordered or (plain and _threads() == 1))
        places = conv.padding, conv.stride, conv.dilation, conv.groups
        return Way(like, size, last, by_torch, ordered and not by_torch, places)

    def _size(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the convolution's result."""
        conv = self.conv
        places = zip(x.shape[2:], conv.kernel_size, conv.padding, conv.stride, conv.dilation, strict=True)
        lengths = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in places)
        return (x.shape[0], conv.out_channels, *lengths)


def _plain(conv: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution computes by itself."""
    result: Tensor = type(conv)._conv_forward(conv, input, weight, bias)
    return result


def _has_onednn() -> bool:
    """Whether convolutions are torch's by oneDNN, with what stands behind them."""
    return torch.backends.mkldnn.is_available() and bool(_is_onednn_enabled())


def _is_worth_ordering(x: Tensor, weight: Tensor, size: tuple[int, ...]) -> bool:
    """Whether a contiguous x and its result are put in another order, so that a much larger weight need not be."""
    if x.ndim != 4 or size[2] * size[3] == 1 or x.shape[2] * x.shape[3] == 1 or weight.shape[1] == 1:
        return False  # whose order is ambiguous
    moved = x.numel() + prod(size)
    return bool(weight.stride()[3] == 1 and weight.numel() > moved)


def _at(module: Any, path: str) -> Any:
    """The module at a path, or None."""
    for name in path.split("."):
        module = getattr(module, "_modules", {}).get(name)
    return module


class Convolved(Waiting):
    """The result of a convolution."""

    @staticmethod
    def of(folding: Folding, way: Way, x: Tensor) -> "Convolved":
        """That of the convolution of x."""
        result = Tensor._make_subclass(Convolved, _NOTHING)
        result.__dict__.update(
            folding=folding, way=way, x=x, version=None if x.is_inference() else x._version, value=None
        )
        return result

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Convolved, settled, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _unseen(self) -> Tensor:
        return settled(self)


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
            state["value"] = _plain(conv, input_of(convolved), conv.weight, conv.bias)
    value: Tensor = state["value"]
    return value


def to_be_folded(convolved: Convolved, norm: nn.Module) -> Joined | None:
    """What computes a convolution together with this norm, if it still can."""
    folding: Folding = convolved.__dict__["folding"]
    if folding.norm is not norm or convolved.__dict__["value"] is not None or norm.training or _is_grad_enabled():
        return None
    return joined(folding.conv, norm, convolved.__dict__["way"])


def fold_into(parent: nn.Module, convolution: str, norm: str, place: Place) -> None:
    """Have a convolution hand on to the norm behind it what both compute in evaluation; told by their paths."""
    folding = Folding(parent, (convolution, norm), place)
    folding.conv.__dict__["_conv_forward"] = folding


def folding_of(module: nn.Module) -> Folding | None:
    """What stands in for a convolution's own forward, if anything."""
    found = module.__dict__.get("_conv_forward")
    return found if isinstance(found, Folding) else None


def unfold(module: nn.Module) -> None:
    """Have a convolution compute by itself again."""
    if folding_of(module) is not None:
        del module.__dict__["_conv_forward"]
