"""A layer of every kind, with the shape of an input for it."""

from fastbn import layers

LAYERS = {
    "BatchNorm": (layers.BatchNorm(2), (4, 2, 3)),
    "BatchNorm1d": (layers.BatchNorm1d(2), (4, 2)),
    "BatchNorm2d": (layers.BatchNorm2d(2), (4, 2, 3, 3)),
    "BatchNorm3d": (layers.BatchNorm3d(2), (4, 2, 3, 2, 2)),
    "ghost": (layers.BatchNorm1d(2, virtual_batch_size=2), (4, 2)),
    "renorm": (layers.BatchNorm1d(2, renorm=(2.0, 1.0)), (4, 2)),
    "InstanceNorm1d": (layers.InstanceNorm1d(2), (4, 2, 3)),
    "InstanceNorm2d of one": (layers.InstanceNorm2d(2, affine=True), (2, 3, 3)),
    "InstanceNorm3d": (layers.InstanceNorm3d(2), (4, 2, 3, 2, 2)),
    "GroupNorm": (layers.GroupNorm(1, 2), (4, 2, 3)),
    "LayerNorm": (layers.LayerNorm(3), (4, 3)),
    "RMSNorm": (layers.RMSNorm(3), (4, 3)),
    "LayerNorm2d": (layers.LayerNorm2d(2), (4, 2, 3, 3)),
    "RMSNorm2d": (layers.RMSNorm2d(2), (4, 2, 3, 3)),
    "GlobalResponseNorm": (layers.GlobalResponseNorm(2), (4, 2, 3)),
    "FilterResponseNorm2d": (layers.FilterResponseNorm2d(2), (4, 2, 3, 3)),
    "LocalResponseNorm": (layers.LocalResponseNorm(3), (4, 2, 3)),
}
