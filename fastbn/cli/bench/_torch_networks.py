"""Three networks as PyTorch modules, whole or without their normalizations, activations and residual sums.

Of the same form as ResNet-50 [1]_, ConvNeXt-Tiny [2]_ and a 3-D U-Net [3]_; weights are drawn.

References
----------
.. [1] K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
.. [2] Z. Liu et al., "A ConvNet for the 2020s", CVPR 2022.
.. [3] O. Cicek et al., "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation", MICCAI 2016.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "SMALL", "ConvNeXt", "ResNet", "UNet3d"]


class _Bottleneck(nn.Module):
    """Three convolutions, each with its norm, and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, bare: bool) -> None:
        super().__init__()
        out = 4 * width
        self.bare = bare
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        if not bare:
            self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(out)
            self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = conv if bare else nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Any:
        if self.bare:  # the shortcut's convolution is computed, and its sum left out
            y = self.conv3(self.conv2(self.conv1(x)))
            return y if self.downsample is None else _Both.apply(y, self.downsample(x))
        identity = x
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.downsample is not None:
            identity = self.downsample(x)
        y += identity
        return self.relu(y)


class _Both(torch.autograd.Function):
    """The first of two tensors; its gradient goes to both, as that of their sum does."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return first.view_as(first)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return dy, dy


class ResNet(nn.Module):
    """ResNet with bottleneck blocks; (3, 4, 6, 3) of width 64 are ResNet-50."""

    def __init__(
        self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000, bare: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.Identity() if bare else nn.BatchNorm2d(width)
        self.relu = nn.Identity() if bare else nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        layers, channels = [], width
        for stage, count in enumerate(blocks):
            for k in range(count):
                layers.append(_Bottleneck(channels, width << stage, 2 if stage and not k else 1, bare))
                channels = 4 * (width << stage)
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layers(x).mean((2, 3)))


class _LayerNormOfChannels(nn.Module):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, channels: int, bare: bool) -> None:
        super().__init__()
        self.norm = nn.Identity() if bare else nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Any:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int, bare: bool) -> None:
        super().__init__()
        self.bare = bare
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.Identity() if bare else nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.act = nn.Identity() if bare else nn.GELU()
        self.project = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.project(self.act(self.expand(y)))
        y = y.permute(0, 3, 1, 2)
        return y if self.bare else x + y


class ConvNeXt(nn.Module):
    """ConvNeXt; (3, 3, 9, 3) of width 96 are ConvNeXt-Tiny."""

    def __init__(
        self, blocks: tuple[int, ...] = (3, 3, 9, 3), width: int = 96, classes: int = 1000, bare: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), _LayerNormOfChannels(width, bare)]
        for stage, count in enumerate(blocks):
            channels = width << stage
            if stage:
                layers += [_LayerNormOfChannels(channels // 2, bare), nn.Conv2d(channels // 2, channels, 2, 2)]
            layers += [_ConvNeXtBlock(channels, bare) for _ in range(count)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.Identity() if bare else nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.norm(self.layers(x).mean((2, 3))))


def _twice(channels: int, out: int, bare: bool) -> nn.Sequential:
    """Two convolutions, each with norm and activation."""
    layers: list[nn.Module] = []
    for first in (channels, out):
        layers.append(nn.Conv3d(first, out, 3, padding=1, bias=False))
        if not bare:
            layers += [nn.BatchNorm3d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet3d(nn.Module):
    """A 3-D U-Net: down, and up again beside what came by."""

    def __init__(self, levels: int = 4, width: int = 16, classes: int = 3, bare: bool = False) -> None:
        super().__init__()
        widths = [width << k for k in range(levels)]
        self.down = nn.ModuleList(_twice(a, b, bare) for a, b in zip([1, *widths], widths, strict=False))
        self.pool = nn.MaxPool3d(2)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(a, b, 2, 2) for a, b in pairs)
        self.join = nn.ModuleList(_twice(2 * b, b, bare) for _, b in pairs)
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, x: Tensor) -> Any:
        passed: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if not level else self.pool(x))
            passed.append(x)
        passed.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), passed.pop()], 1))
        return self.head(x)


# What is timed: the network, and its shapes by name.
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[tuple[int, ...], ...]]] = {
    "ResNet-50": (ResNet, ((8, 3, 128, 128), (16, 3, 224, 224))),
    "ConvNeXt-Tiny": (ConvNeXt, ((8, 3, 128, 128),)),
    "3-D U-Net": (UNet3d, ((1, 1, 64, 64, 64),)),
}

# Small ones of the same form, each with an input.
SMALL: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet": lambda: (ResNet((1, 2), 8, 5), torch.randn(4, 3, 32, 32)),
    "convnext": lambda: (ConvNeXt((1, 2), 8, 5), torch.randn(4, 3, 32, 32)),
    "unet": lambda: (UNet3d(2, 4, 2), torch.randn(2, 1, 8, 8, 8)),
}
