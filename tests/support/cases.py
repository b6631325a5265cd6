"""The operations and shapes that the tests of values and of gradients share, and how far off a result may be."""

from dataclasses import dataclass
from math import prod

import draws
import numpy as np
import pytest

from fastbn import reference

OFFSETS = (0.0, 1e3, 1e6)  # means, of data with unit spread
FLOATS = (np.float32, np.float64)
OPERATIONS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")


@dataclass(frozen=True)
class Case:
    """An operation on a shape, and a way to call its three functions that is the same for every operation."""

    op: str
    shape: tuple[int, ...]
    arg: int | tuple[int, ...] | None = None  # num_groups or normalized_shape
    axis: int = 1

    def __str__(self):
        words = [self.op, "x".join(map(str, self.shape))]
        if self.arg is not None:
            words.append(f"of {self.arg}")
        if self.axis != 1:
            words.append(f"axis {self.axis}")
        return " ".join(words)

    @property
    def by_channel(self):
        return self.op in ("batch_norm", "group_norm", "instance_norm")

    @property
    def args(self):
        return () if self.arg is None else (self.arg,)

    @property
    def keywords(self):
        return {"axis": self.axis} if self.by_channel else {}

    @property
    def parameter_shape(self):
        if self.by_channel:
            return (self.shape[self.axis],)
        return self.arg if isinstance(self.arg, tuple) else (self.arg,)

    @property
    def statistics_shape(self):
        samples, *channels = self.shape[0], *self.parameter_shape
        return {
            "batch_norm": tuple(channels),
            "group_norm": (samples, self.arg),
            "instance_norm": (samples, *channels),
        }.get(self.op, self.shape[: len(self.shape) - len(channels)])

    def parameters(self, dtype, seed=1):
        """Weights of both signs away from zero, and biases no larger: w h + b cannot cancel everywhere."""
        rng = draws.generator(seed)
        shape = self.parameter_shape
        weight = rng.uniform(0.5, 1.5, shape) * rng.choice((-1, 1), shape)
        bias = rng.uniform(-0.5, 0.5, shape)
        named = {"weight": weight.astype(dtype), "bias": bias.astype(dtype)}
        if self.op == "rms_norm":
            del named["bias"]
        return named

    def data(self, dtype, offset=0.0, seed=0):
        """Unit spread around the offset."""
        return (draws.generator(seed).standard_normal(self.shape) + offset).astype(dtype)

    def upstream(self, dtype):
        return self.data(dtype, seed=2)

    def forward(self, library, x, **named):
        """(y, statistics): what comes after y, (mean, rstd) or (rstd,)."""
        y, *statistics = getattr(library, f"{self.op}_forward")(x, *self.args, **self.keywords, **named)
        return y, tuple(statistics)

    def normalize(self, library, x, **named):
        """y alone, with batch norm in training."""
        training = {"training": True} if self.op == "batch_norm" else {}
        return getattr(library, self.op)(x, *self.args, **training, **self.keywords, **named)

    def backward(self, library, dy, x, statistics, **named):
        """(dx, dweight, dbias) or (dx, dweight)."""
        return getattr(library, f"{self.op}_backward")(dy, x, *statistics, **self.keywords, **named)


def by_channel(shape, groups=(), axis=1):
    """Batch, instance and group norm of a shape; statistics of a single value make sense for none of them.

    With channels on axis 0 there is no axis of samples, which only batch norm can do without.
    """
    batch = [Case("batch_norm", shape, axis=axis)]
    if axis == 0:
        return batch
    channels = shape[axis]
    plane = prod(shape[1:]) // channels
    instance = [Case("instance_norm", shape, axis=axis)] if plane > 1 else []
    return batch + instance + [Case("group_norm", shape, g, axis) for g in groups if channels // g * plane > 1]


def trailing(shape, normalized_shape):
    return [Case(op, shape, normalized_shape) for op in ("layer_norm", "rms_norm")]


AROUND_LANES = (15, 16, 17, 31, 32, 33, 63, 64, 65)
AROUND_TILES = (2047, 2049, 4096, 4097, 16383, 16384, 16385)

CHANNELS_FIRST = [
    *by_channel((2, 1), (1,)),
    *by_channel((7, 5), (1,)),
    *by_channel((64, 16), (1, 4)),
    *by_channel((33, 31), (1,)),
    *by_channel((1000, 3), (1,)),
    *by_channel((17, 257), (1,)),
    *by_channel((5, 6, 1, 1), (1, 2)),
    *by_channel((128, 64, 1, 1), (32,)),
    *(case for s in range(2, 16) for case in by_channel((3, 4, s), (2,))),
    *(case for s in AROUND_LANES for case in by_channel((2, 3, s), (1, 3))),
    *(case for s in AROUND_TILES for case in by_channel((2, 2, s), (1,))),
    *by_channel((4, 8, 7, 7), (1, 2, 8)),
    *by_channel((2, 16, 14, 14), (4,)),
    *by_channel((3, 5, 7, 11), (1, 5)),
    *by_channel((2, 6, 3, 5, 7), (3,)),
    *by_channel((1, 4, 9, 9), (2,)),  # one sample
    *by_channel((3, 1, 5, 7), (1,)),  # one channel
    *by_channel((1, 1, 2, 1), (1,)),
    *by_channel((2, 3, 127, 131), (1,)),
    *by_channel((1, 3, 100_003), (1, 3)),
    *by_channel((300, 6, 3), (2,)),
    *by_channel((16, 32, 28, 28), (8,)),
    *by_channel((3, 2, 512, 344), (1,)),  # a channel's slab is larger than a core's cache
]

CHANNELS_ELSEWHERE = [
    *by_channel((7, 5), axis=-1),
    *by_channel((5, 7), axis=0),
    *by_channel((5, 7, 3, 2), axis=0),
    *by_channel((3, 7, 5, 6), (1, 2, 6), axis=-1),
    *by_channel((3, 7, 6, 5), (3,), axis=2),
    *by_channel((3, 4, 6, 5, 2), (5,), axis=-2),
    *by_channel((3, 4, 6, 5, 2), (2,), axis=-3),
    *(case for c in AROUND_LANES for case in by_channel((2, 9, c), (1, c), axis=-1)),
    *by_channel((4, 14, 14, 96), (32,), axis=-1),
    *by_channel((2, 7, 7, 130), (13,), axis=-1),
    *by_channel((3, 50, 1), (1,), axis=-1),
    *by_channel((40, 1, 1, 34), (17,), axis=-1),
    *by_channel((1, 129, 127, 2), (1, 2), axis=-1),
    *by_channel((2, 9000, 17), (17,), axis=-1),
    *by_channel((2, 5, 16385), (1,), axis=-1),
    *by_channel((16, 28, 28, 64), (8,), axis=-1),
]

ROWS = [
    *(case for k in (*range(1, 15), *AROUND_LANES) for case in trailing((5, k), k)),
    *(case for k in AROUND_TILES for case in trailing((3, k), k)),
    *trailing((7,), 7),
    *trailing((1, 1), 1),
    *trailing((1, 768), 768),
    *trailing((300, 49), 49),
    *trailing((64, 1000), (1000,)),
    *trailing((3, 4, 5), 5),
    *trailing((3, 4, 5), (4, 5)),
    *trailing((3, 4, 5), (3, 4, 5)),
    *trailing((2, 3, 4, 3, 5), (4, 3, 5)),
    *trailing((2, 1, 13, 17), (13, 17)),
    *trailing((2, 100_003), 100_003),
    *trailing((100_003, 3), 3),
    *trailing((1024, 768), 768),
]

CASES = CHANNELS_FIRST + CHANNELS_ELSEWHERE + ROWS

# Past 24 MB stores may take another way; odd sizes, so that runs start anywhere.
HUGE = [
    *by_channel((2, 3, 1009, 1051), (1,)),
    *by_channel((2, 101, 109, 290), (29,), axis=-1),
    *by_channel((3, 401, 509, 10), axis=-1),
    *trailing((2003, 3163), 3163),
]

SMALL = [case for case in CASES if prod(case.shape) <= 120]
MEDIUM = [
    *by_channel((4, 6, 9, 11), (1, 3, 6)),
    *by_channel((4, 9, 11, 6), (2,), axis=-1),
    *trailing((4, 6, 35), 35),
    *trailing((5, 3, 7), (3, 7)),
]
LARGE = [*by_channel((16, 32, 28, 28), (8,)), *by_channel((16, 28, 28, 64), (8,), axis=-1), *trailing((1024, 768), 768)]

# Of channels-first shape, to be given channels last in memory
VIEWS = [
    *by_channel((2, 3, 5), (3,)),
    *by_channel((4, 6, 9, 11), (1, 3, 6)),
    *by_channel((1, 17, 12, 13), (17,)),
    *by_channel((2, 6, 3, 5, 7), (2,)),
    *by_channel((3, 130, 7, 7), (13,)),
    *by_channel((2, 2, 129, 131), (1,)),
    *by_channel((8, 64, 28, 28), (8,)),
]

# Normalized over the last axis, to be given with that axis second in memory, as channels first would have it
OVER_CHANNELS = [
    *trailing((2, 5, 3), 3),
    *trailing((2, 7, 5, 3), 3),
    *trailing((1, 9, 11, 17), 17),
    *trailing((3, 6, 7, 64), 64),
    *trailing((2, 3, 5, 7, 33), 33),
    *trailing((2, 129, 131, 4), 4),
]


def at_length(values, core):
    """The values as parameters, of which those that the core has not are left to `pytest --all`."""
    return [value if value in core else pytest.param(value, marks=pytest.mark.full) for value in values]


def ids(case):
    return str(case).replace(" ", "-")


def forward_tolerance(dtype, offset=0.0):
    """Relative to the largest |y|; a float64 mean is itself rounded, which no later step can undo."""
    return 5e-7 if dtype == np.float32 else 1e-12 + 4 * np.finfo(np.float64).eps * abs(offset)


def gradient_tolerance(dtype, offset=0.0):
    return 2e-6 if dtype == np.float32 else 4 * forward_tolerance(dtype, offset)


def gradient_scales(case, statistics, upstream=1.0):
    """The size of the terms of dx, dweight and dbias, given that of dy; normalized x has unit spread.

    Tolerances are relative to at least this much: dx of a pair of values, or a sum with luck in its signs, nearly
    cancels, and what remains says nothing of the size of a rounding.
    """
    terms = prod(case.shape) / prod(case.parameter_shape)
    sums = upstream * np.sqrt(terms)
    return upstream * np.max(statistics[-1], initial=0.0), sums, sums


def central_differences(case, dy, x, parameters, step=1e-5, **named):
    """The gradients of sum(dy y) by the reference's forward function, for x and each parameter."""
    values = {"x": x, **parameters}
    gradients = []
    for name, value in values.items():
        gradient = np.empty_like(value)
        for index in np.ndindex(value.shape):
            losses = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                losses.append(np.sum(dy * case.forward(reference, **(values | {name: moved}), **named)[0]))
            gradient[index] = (losses[0] - losses[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def assert_close(actual, expected, tolerance, scale=0.0):
    """Nowhere further off than `tolerance` times the largest expected value (or `scale`, if that is larger)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(np.max(np.abs(expected), initial=0.0), scale)
    error = np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0)
    assert error <= tolerance * scale, f"error {error:.3g} is {error / scale:.3g} of the scale, not {tolerance:.3g}"


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    # bit patterns, so that NaN equals itself and -0.0 differs from 0.0
    np.testing.assert_array_equal(
        np.ascontiguousarray(actual).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8)
    )


def channels_last_view(x):
    """The same values and shape, in memory ordered with axis 1 last."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def channels_first_view(x):
    """The same values and shape, in memory ordered with the last axis second."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 1)), 1, -1)


def strided(x):
    """The same values and shape, with a NaN after every element of the last axis."""
    view = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)[..., ::2]
    view[...] = x
    return view


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


def misaligned(a):
    view = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned or a.size == 0 or a.itemsize == 1
    return view


LAYOUTS = {
    "plain": np.ascontiguousarray,
    "channels-last-view": channels_last_view,
    "steps": strided,
    "Fortran": np.asfortranarray,
    "backwards": lambda x: np.flip(np.flip(x).copy()),
    "samples-backwards": lambda x: np.flip(np.flip(x, 0).copy(), 0),
    "window": lambda x: np.pad(x, 1)[(slice(1, -1),) * x.ndim],
}


def memory_order(x):
    """The strides of those axes where a stride means anything."""
    return [stride for stride, length in zip(x.strides, x.shape, strict=True) if length > 1]
