"""NumPy's error settings are the user's: whatever they are, fastbn's own arithmetic neither warns nor raises."""

import numpy as np
import pytest

import fastbn
from fastbn import layers

SHAPE = (6, 4, 3, 5)


def awkward(dtype):
    """Channels that are dead, tiny, huge and ordinary."""
    x = np.random.default_rng(0).normal(size=SHAPE)
    x[:, 0] = 0
    x[:, 1] *= 1e-30 if dtype != np.float16 else 1e-7
    x[:, 2] *= 1e30 if dtype != np.float16 else 6e4
    return np.clip(x, np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)


OTHERS = [pytest.param(dtype, marks=pytest.mark.full) for dtype in (np.float16, np.float64)]
EVERY = pytest.mark.parametrize("kept", [np.float32, *OTHERS], ids=lambda d: np.dtype(d).name)


@pytest.fixture(params=[np.float32, *OTHERS], ids=lambda d: np.dtype(d).name)
def x(request):
    return awkward(request.param)


def running(dtype):
    return np.full(4, 1e-7, dtype), np.full(4, 1e-7, dtype)


def same_under_every_setting(call):
    with np.errstate(all="ignore"):
        quiet = call()
    with np.errstate(all="raise"):
        loud = call()
    for a, b in zip(quiet, loud, strict=True):
        np.testing.assert_array_equal(a, b)


def flat(values):
    return [v for v in values if v is not None]


@EVERY
def test_running_statistics(x, kept):
    def train():
        mean, var = running(kept)
        y = fastbn.batch_norm(x, mean, var, training=True)
        z = fastbn.instance_norm(x, mean, var)
        u, *_ = fastbn.ghost_batch_norm_forward(x, 4, None, None, mean, var)
        v, *_ = fastbn.batch_renorm_forward(x, mean, var)
        return y, z, u, v, mean, var

    same_under_every_setting(train)


def test_a_dead_channel_never_ends_training():
    """Its running variance passes through the smallest numbers of the type on its way to zero."""
    x = np.zeros((16, 2), np.float32)
    x[:, 0] = np.random.default_rng(0).normal(size=16)
    for layer in (
        layers.BatchNorm1d(2),
        layers.BatchNorm1d(2, virtual_batch_size=8),
        layers.BatchNorm1d(2, dtype="f2"),
    ):
        with np.errstate(all="raise"):
            for _ in range(1200):
                layer(x)
            layer.eval()(x)
        assert layer.running_var[1] < 1e-6


@pytest.mark.full
@EVERY
def test_gradients(x, kept):
    w, b = np.array([1e-7, 1, 6e4, 0], kept), np.array([0, 1e-7, 1, 6e4], kept)

    def both_ways():
        y, mean, rstd = fastbn.batch_norm_forward(x, w, b)
        constant = fastbn.batch_norm_backward(x, x, mean, rstd, w, training=False)
        back = fastbn.batch_norm_backward(x, x, mean, rstd, w, bias=b, activation="silu")
        _, *statistics = fastbn.group_norm_forward(x, 2, w, b)
        grouped = fastbn.group_norm_backward(x, x, *statistics, w)
        last = np.moveaxis(x, 1, -1)
        _, *statistics = fastbn.layer_norm_forward(last, 4, w, b)
        return [y, *constant, *back, *grouped, *fastbn.layer_norm_backward(last, last, *statistics, w)]

    same_under_every_setting(both_ways)


@EVERY
def test_sums_that_leave_the_range_of_their_type(kept):
    """Of statistics and gradients, both layouts, whole and step by step: parts have a sum, their total has none."""
    large = 0.6 * float(np.finfo(kept).max)

    def all_of_them():
        results = []
        for shape, axis in ((4, 3, 40), 1), ((4, 40, 3), -1), ((1, 1, 1 << 19), 1), ((1, 1 << 19, 1), -1):
            x = np.zeros(shape, kept)
            x.flat[: 1 << 19 : 40 if shape[0] == 4 else 1 << 15] = large
            channels = shape[axis]
            zeros, ones = np.zeros(channels), np.ones(channels)
            for training in (True, False):
                ways = {"axis": axis, "training": training}
                results += fastbn.batch_norm_backward(x, x, zeros, ones, np.ones(channels, kept), **ways)
            results += fastbn.group_norm_forward(x, 1, axis=axis)
            moments = fastbn.Moments(axis=axis).update(x)
            results += [moments.mean, moments.var()]
        return results

    same_under_every_setting(all_of_them)


@pytest.mark.full
def test_variants_and_second_derivatives(x):
    def all_of_them():
        results = []
        for name, args in {
            "channel_layer_norm": (),
            "channel_rms_norm": (),
            "global_response_norm": (),
            "filter_response_norm": (),
            "local_response_norm": (3,),
            "weight_standardization": (),
        }.items():
            forward = getattr(fastbn, f"{name}_forward", None)
            if forward is None:
                results += [fastbn.local_response_norm(x, *args), fastbn.local_response_norm_backward(x, x, *args)]
                continue
            y, *statistics = forward(x, *args)
            results += [y, *flat(getattr(fastbn, f"{name}_backward")(x, x, *statistics))]
        _, mean, rstd = fastbn.batch_norm_forward(x)
        return [*results, *flat(fastbn.batch_norm_double_backward(x, x, x, mean, rstd))]

    same_under_every_setting(all_of_them)


def test_moments_and_folding(x):
    def statistics():
        moments = fastbn.Moments().update(x).merge(fastbn.Moments().update(x[:3]))
        whole = fastbn.dataset_statistics(x, axis=1)
        mean, var = whole.mean, whole.var()
        folded = fastbn.fold(x[:, :, 0, 0], None, (mean.repeat(2)[:6], var.repeat(2)[:6]))
        weighted = fastbn.Moments().update(x, weights=np.full(SHAPE, 1e-200))
        return moments.mean, moments.var(), moments.std(), mean, var, *folded, weighted.mean, weighted.var()

    same_under_every_setting(statistics)


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNorm2d(4),
        layers.BatchNorm2d(4, renorm=(3.0, 5.0)),
        layers.BatchNorm2d(4).freeze(),
        layers.InstanceNorm2d(4, affine=True, track_running_stats=True),
        layers.GroupNorm(2, 4),
        layers.LayerNorm(5),
        layers.RMSNorm(5),
        layers.FilterResponseNorm2d(4),
        layers.GlobalResponseNorm(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers(layer, x):
    def step():
        layer.zero_grad()
        layer.train()
        y = layer(x)
        dx = layer.backward(x)
        return [y, dx, *(g.copy() for g in layer.grads.values())]

    state = layer.state_dict()

    def once_more():
        layer.load_state_dict(state)
        return [*step(), layer.eval()(x)]

    same_under_every_setting(once_more)


def test_what_is_put_into_a_layer_of_a_smaller_type():
    """Loaded, assigned, or the statistics of a population: what leaves the type's range shows there."""
    wide = np.array([1e300, 1e-300, 1.0, -1e300])
    batches = [np.stack([wide, -wide]) * 0.5, np.stack([wide, wide])]

    def states():
        layer = layers.BatchNorm1d(4)
        layer.load_state_dict({"weight": wide}, strict=False)
        layer.bias = wide
        fastbn.population_statistics([layer], batches, layer)
        return layer.state_dict().values()

    same_under_every_setting(states)
