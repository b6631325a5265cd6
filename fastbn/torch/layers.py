"""The norms of torch.nn on fastbn's kernels: subclasses with the same arguments, parameters, buffers and names."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from fastbn.torch import functional
from fastbn.torch._folded import Joined, drop
from fastbn.torch._folding import Convolved, input_of, settled, to_be_folded
from fastbn.torch._known import may_be_known
from fastbn.torch._pending import Behind, Call, Pending, may_wait

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
]


class Fusable(nn.Module):
    """What all norms here have: what stands behind one in a converted model, if anything."""

    own_forward = False  # whether a forward of a library's stands before the one here: see _subclasses
    _behind: Behind | None = None

    def _call(self, function: Callable[..., Tensor], input: Tensor, *arguments: Any) -> Tensor:
        """function(input, *arguments), at once or together with what stands behind."""
        behind = self._behind
        if behind is None or not may_be_known(input) or not may_wait(behind, self):
            return function(input, *arguments)
        call = Call(function, input, arguments)
        call.waits, call.code = behind.activated, behind.place.code
        return Pending.of(call)


def held(module: nn.Module, name: str) -> Any:
    """A parameter or buffer: looked up where it lies, for torch's own look-up takes a microsecond in a program."""
    if name in module._parameters:
        return module._parameters[name]
    if name in module._buffers:
        return module._buffers[name]
    return getattr(module, name)  # a parametrization, say


def as_node(module: Any, input: Any) -> Any:
    """The call of a module in a graph that torch.fx traces, in which torch's own norms are nodes, too."""
    if getattr(module, "own_forward", False):  # which is traced already
        theirs: Any = next(cls for cls in type(module).__mro__ if cls in CLASSES)
        return theirs.forward(module, input)
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), (input,), {})


class _BatchNorm(Fusable):
    """forward of torch.nn.BatchNorm1d to 3d."""

    training: bool
    track_running_stats: bool
    num_batches_tracked: Tensor | None
    momentum: float | None
    eps: float
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    _check_input_dim: Callable[[Tensor], None]

    def forward(self, input: Any) -> Any:
        """Normalize every channel."""
        if type(input) is Proxy:
            return as_node(self, input)
        if type(input) is Convolved:
            convolution = to_be_folded(input, self)
            if convolution is not None:
                return self._computed_with(convolution, input_of(input))
            input = settled(input)
        self._check_input_dim(input)
        mean, var = held(self, "running_mean"), held(self, "running_var")
        by_batch = self.training or (mean is None and var is None)
        if self.training and not self.track_running_stats:
            mean = var = None
        share, weight, bias = share_of_batch(self), held(self, "weight"), held(self, "bias")
        return self._call(functional.batch_norm, input, mean, var, weight, bias, by_batch, share, self.eps)

    def _computed_with(self, convolution: Joined, x: Tensor) -> Tensor:
        """This norm's result for the convolution of x, at once or together with what stands behind."""
        if self._behind is None or not may_wait(self._behind, self):
            return convolution.computed(x)
        call = Call(convolution.computed, x, ())
        call.shape, call.ordered, call.waits = convolution.way.size, False, self._behind.activated
        return Pending.of(call)

    def train(self, mode: bool = True) -> Any:
        """As torch.nn.Module.train; what was folded for evaluation is dropped."""
        if mode:
            drop(self)
        return super().train(mode)


def share_of_batch(norm: Any) -> float:
    """Count the batch, and say what it weighs in the running statistics: momentum, or without one as much as others."""
    counted = held(norm, "num_batches_tracked") if norm.training and norm.track_running_stats else None
    if counted is not None:
        counted.add_(1)
    if norm.momentum is not None:
        return float(norm.momentum)
    return 0.0 if counted is None else 1.0 / float(counted)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):  # type: ignore[misc]
    """torch.nn.BatchNorm1d on fastbn's kernels.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As torch.nn.BatchNorm1d takes them.

    Notes
    -----
    Parameters, buffers, `state_dict` and repr are those of the torch class, whose instance it is.
    """


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):  # type: ignore[misc]
    """torch.nn.BatchNorm2d on fastbn's kernels.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As torch.nn.BatchNorm2d takes them.

    Notes
    -----
    Parameters, buffers, `state_dict` and repr are those of the torch class, whose instance it is.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> norm = fastbn.torch.BatchNorm2d(3)
    >>> isinstance(norm, torch.nn.BatchNorm2d), norm(torch.zeros(2, 3, 4, 4)).shape
    (True, torch.Size([2, 3, 4, 4]))
    """


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):  # type: ignore[misc]
    """torch.nn.BatchNorm3d on fastbn's kernels.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As torch.nn.BatchNorm3d takes them.

    Notes
    -----
    Parameters, buffers, `state_dict` and repr are those of the torch class, whose instance it is.
    """


class _InstanceNorm(Fusable):
    """forward of torch.nn.InstanceNorm1d to 3d: torch's own checks, another function behind them."""

    training: bool
    track_running_stats: bool
    momentum: float | None
    eps: float
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def forward(self, input: Any) -> Any:
        """Normalize every channel of every sample."""
        if type(input) is Proxy:
            return as_node(self, input)
        return super().forward(input)

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        by_input = self.training or not self.track_running_stats
        share = 0.0 if self.momentum is None else float(self.momentum)
        statistics = self.running_mean, self.running_var
        arguments = *statistics, self.weight, self.bias, by_input, share, self.eps
        return self._call(functional.instance_norm, input, *arguments)


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):  # type: ignore[misc]
    """torch.nn.InstanceNorm1d on fastbn's kernels.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As torch.nn.InstanceNorm1d takes them.

    Notes
    -----
    Parameters, buffers, `state_dict` and repr are those of the torch class, whose instance it is.
    """


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):  # type: ignore[misc]
    """torch.nn.InstanceNorm2d on fastbn's kernels.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As torch.nn.InstanceNorm2d takes them.

    Notes
    -----
    Parameters, buffers, `state_dict` and repr are those of the torch class, whose instance it is.
    """


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):  # type: ignore[misc]
    """torch.nn.InstanceNorm3d on fastbn's kernels.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As torch.nn.InstanceNorm3d takes them.

    Notes
    -----
    Parameters, buffers, `state_dict` and repr are those of the torch class, whose instance it is.
    """


class LayerNorm(Fusable, nn.LayerNorm):
    """torch.nn.LayerNorm on fastbn's kernels.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine, bias, device, dtype
        As torch.nn.LayerNorm takes them.

    Notes
    -----
    Parameters, `state_dict` and repr are those of the torch class, whose instance it is.
    """

    def forward(self, input: Any) -> Any:
        """Normalize over the trailing axes."""
        if type(input) is Proxy:
            return as_node(self, input)
        weight, bias = held(self, "weight"), held(self, "bias")
        return self._call(functional.layer_norm, input, self.normalized_shape, weight, bias, self.eps)


class GroupNorm(Fusable, nn.GroupNorm):
    """torch.nn.GroupNorm on fastbn's kernels.

    Parameters
    ----------
    num_groups, num_channels, eps, affine, device, dtype
        As torch.nn.GroupNorm takes them.

    Notes
    -----
    Parameters, `state_dict` and repr are those of the torch class, whose instance it is.
    """

    def forward(self, input: Any) -> Any:
        """Normalize groups of channels of every sample."""
        if type(input) is Proxy:
            return as_node(self, input)
        weight, bias = held(self, "weight"), held(self, "bias")
        return self._call(functional.group_norm, input, self.num_groups, weight, bias, self.eps)


class RMSNorm(Fusable, nn.RMSNorm):
    """torch.nn.RMSNorm on fastbn's kernels.

    Parameters
    ----------
    normalized_shape, eps, elementwise_affine, device, dtype
        As torch.nn.RMSNorm takes them.

    Notes
    -----
    Parameters, `state_dict` and repr are those of the torch class, whose instance it is.
    """

    def forward(self, x: Any) -> Any:
        """Divide by the root of the mean square over the trailing axes."""
        if type(x) is Proxy:
            return as_node(self, x)
        return self._call(functional.rms_norm, x, self.normalized_shape, held(self, "weight"), self.eps)


CLASSES: dict[type, type] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.LayerNorm: LayerNorm,
    nn.GroupNorm: GroupNorm,
    nn.InstanceNorm1d: InstanceNorm1d,
    nn.InstanceNorm2d: InstanceNorm2d,
    nn.InstanceNorm3d: InstanceNorm3d,
    nn.RMSNorm: RMSNorm,
}
