"""fastbn.monitor beside all that is done to layers meanwhile: copies, other monitors, exceptions, masks, odd inputs."""

import copy
import gc
import pickle

import numpy as np
import pytest

import fastbn
from fastbn.monitor import Monitor


def data(shape=(64, 3), mean=5.0, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(mean, 2.0, shape).astype(dtype)


def untouched(layer):
    return not {"forward", "_gradients"} & set(vars(layer))


@pytest.mark.parametrize("first_closed", [0, 1])
def test_two_monitors_of_one_layer(first_closed):
    layer, x = fastbn.BatchNorm1d(3), data()
    monitors = [Monitor({"a": layer}, every=2), Monitor({"b": layer}, every=1)]
    layer(x)
    for monitor in monitors:
        monitor.step()
    assert monitors[0].latest["a"] == monitors[1].latest["b"] != {}
    layer(2 * x)  # the first one does not look
    for monitor in monitors:
        monitor.step()
    assert monitors[1].latest["b"]["input_var"] == pytest.approx(4 * monitors[0].latest["a"]["input_var"])
    monitors[first_closed].close()
    layer(3 * x)
    other = monitors[not first_closed]
    other.step()
    assert next(iter(other.latest.values()))["input_mean"] == pytest.approx(3 * x.mean(), rel=1e-5)
    other.close()
    assert untouched(layer)


def test_one_layer_under_two_names():
    layer = fastbn.LayerNorm(3)
    with Monitor([layer, layer]) as monitor:
        layer.backward(layer(data()))
        monitor.step()
    assert monitor.latest["0.LayerNorm"] == monitor.latest["1.LayerNorm"] != {}
    assert untouched(layer)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_not_watched(copied):
    layer, x = fastbn.BatchNorm1d(3), data()
    with Monitor({"norm": layer}) as monitor:
        other = copied(layer)
        assert untouched(other)
        layer(x)
        other(2 * x)
        other.backward(x)
        monitor.step()
    assert monitor.latest["norm"]["input_mean"] == pytest.approx(x.mean(), rel=1e-6)
    assert "input_gradient" not in monitor.latest["norm"]


def test_a_monitor_that_is_forgotten_looks_no_longer():
    layer = fastbn.BatchNorm1d(3)
    Monitor([layer])
    gc.collect()
    layer.backward(layer(data()))
    with Monitor([layer]) as monitor:  # as when a cell of a notebook is run again
        layer(data())
        monitor.step()
    assert monitor.latest["0.BatchNorm1d"]
    assert untouched(layer)


def test_closed_means_closed():
    layer = fastbn.BatchNorm1d(3)
    monitor = Monitor([layer], every=1)
    monitor.close()
    monitor.close()
    assert untouched(layer)
    with pytest.raises(ValueError, match="the monitor is closed; expected a new one"):
        monitor.step()
    assert untouched(layer)


def test_an_exception_within_a_step():
    layer, x = fastbn.BatchNorm1d(3), data()
    with pytest.raises(ZeroDivisionError), Monitor([layer]):
        layer(x / (1 // 0))
    assert untouched(layer)
    with Monitor([layer]) as monitor:
        with pytest.raises(ValueError, match="num_features"):
            layer(data((64, 4)))
        layer.backward(layer(x))  # the step, once more
        monitor.step()
    assert len(monitor.latest["0.BatchNorm1d"]) == len(fastbn.monitor.METRICS)


def test_a_writer_that_fails_fails_one_step_alone():
    layer, steps = fastbn.BatchNorm1d(3), []

    class Writer:
        def write(self, step, records):
            steps.append(step)
            if step == 0:
                raise OSError("no space left")

        def close(self):
            pass

    with Monitor([layer], Writer(), every=1) as monitor:
        layer(data())
        with pytest.raises(OSError, match="no space"):
            monitor.step()
        layer(data())
        monitor.step()
    assert steps == [0, 1]
    assert monitor.latest["0.BatchNorm1d"]


def test_of_several_calls_the_last_one_counts():
    layer, x = fastbn.LayerNorm(3), data()
    with Monitor([layer]) as monitor:
        contexts = [layer.forward(k * x)[1] for k in (1, 2)]
        gradients = [layer.backward(k * x, context) for k, context in zip((2, 1), contexts[::-1], strict=True)]
        monitor.step()
    seen = monitor.latest["0.LayerNorm"]
    assert seen["input_mean"] == pytest.approx(2 * x.mean(), rel=1e-6)
    assert seen["input_gradient"] == pytest.approx(np.linalg.norm(gradients[0]), rel=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", [fastbn.BatchNorm1d(3), fastbn.LayerNorm(3)], ids=["batch", "layer"])
def test_a_large_mean_costs_nothing(mean, dtype, layer):
    x = data((500, 3), mean, dtype)
    with Monitor([layer]) as monitor:
        layer(x)
        monitor.step()
    (seen,) = monitor.latest.values()
    exact = x.astype(np.longdouble)
    accuracy = 1e-12 if isinstance(layer, fastbn.LayerNorm) else 1e-7  # of the spread: batch norm's own statistics
    assert seen["input_mean"] == pytest.approx(float(exact.mean()), rel=1e-15, abs=2 * accuracy)
    assert seen["input_var"] == pytest.approx(float(exact.var()), rel=accuracy)


@pytest.mark.parametrize("layer", [fastbn.BatchNorm1d(3), fastbn.LayerNorm(3)], ids=["batch", "layer"])
@pytest.mark.parametrize("shape", [(40, 3), (40, 1), (3,)])
def test_what_a_mask_leaves_out_does_not_count(layer, shape):
    x, where = data((40, 3)), np.random.default_rng(1).random(shape) < 0.6
    where[:2] = True
    every = np.broadcast_to(where, x.shape)
    x[~every] = np.nan
    with Monitor([layer]) as monitor:
        y, _ = layer.forward(x, where=where)
        monitor.step()
    (seen,) = monitor.latest.values()
    for name, value in (("input", x), ("output", y)):
        counted = value[every].astype(float)
        assert seen[f"{name}_mean"] == pytest.approx(counted.mean(), rel=1e-6, abs=1e-6)
        assert seen[f"{name}_var"] == pytest.approx(counted.var(), rel=1e-6)


def test_a_channel_is_dead_where_all_that_counts_is_the_same():
    x = data((8, 4, 5))
    layer, where = fastbn.BatchNorm1d(4), np.ones((8, 4, 5), bool)
    layer.weight = [1, 0, 1, 0]
    where[0] = False
    with Monitor({"norm": layer}, every=1) as monitor:
        for mask in (None, where):
            layer.forward(x, where=mask)
            monitor.step()
            assert monitor.latest["norm"]["dead"] == 0.5


@pytest.mark.parametrize(
    "x",
    [
        data((6, 4, 5)).transpose(2, 1, 0),
        data((10, 4, 6))[::2],
        np.broadcast_to(data((5, 4, 1)), (5, 4, 6)),
        data((5, 4, 6)).astype(">f4"),
        data((5, 4, 6), dtype=np.float16),
        data((5, 4, 6)).tolist(),
    ],
    ids=["transposed", "strided", "broadcast", "big-endian", "float16", "list"],
)
@pytest.mark.parametrize(
    "norm",
    [
        fastbn.BatchNorm1d,
        pytest.param(fastbn.InstanceNorm1d, marks=pytest.mark.full),
        pytest.param(lambda c: fastbn.GroupNorm(2, c), marks=pytest.mark.full),
    ],
)
def test_arrays_of_any_kind(norm, x):
    layer = norm(4)
    with Monitor([layer]) as monitor:
        y = layer(x)
        dx = layer.backward(y)
        monitor.step()
    (seen,) = monitor.latest.values()
    assert seen["input_var"] == pytest.approx(np.var(np.asarray(x), dtype=np.float64), rel=1e-4)
    assert seen["output_mean"] == pytest.approx(np.mean(y, dtype=np.float64), rel=1e-6, abs=1e-9)
    assert seen["input_gradient"] == pytest.approx(np.linalg.norm(dx.astype(float)), rel=1e-6)


def test_nothing_to_look_at():
    layer = fastbn.LayerNorm(3)
    with np.errstate(all="raise"), Monitor({"norm": layer}) as monitor:
        layer.backward(layer(np.zeros((0, 3), np.float32)))
        monitor.step()
    assert monitor.latest == {"norm": {}}


def test_one_sample_without_an_axis_for_samples():
    layer, x = fastbn.InstanceNorm1d(3, affine=True, track_running_stats=True), data((3, 20))
    with Monitor({"norm": layer}) as monitor:
        layer.backward(layer(x))
        monitor.step()
    away = (layer.running_mean - x.mean(1)) / x.std(1)
    assert monitor.latest["norm"]["mean_drift"] == pytest.approx(np.sqrt(np.mean(away**2)), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"virtual_batch_size": 8}, {"renorm": (2.0, 1.0)}, {"on_single": "zero"}, {"momentum": None}],
    ids=["plain", "ghost", "renorm", "single", "cumulative"],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_drift_is_from_the_batch_whatever_normalized_it(options, frozen):
    layer = fastbn.BatchNorm1d(3, **options)
    if frozen:
        layer.freeze()
    x = data((1, 3)) if "on_single" in options else data((64, 3))
    with Monitor({"norm": layer}) as monitor:
        layer(x)
        monitor.step()
    var = np.maximum(x.astype(float).var(0), np.finfo(np.float32).tiny)
    away = (layer.running_mean - x.astype(float).mean(0)) / np.sqrt(var)
    assert monitor.latest["norm"]["mean_drift"] == pytest.approx(np.sqrt(np.mean(away**2)), rel=1e-4)
    assert monitor.latest["norm"]["input_mean"] == pytest.approx(x.mean(), rel=1e-5)


def test_constant_inputs():
    layer = fastbn.BatchNorm1d(3)
    with Monitor({"norm": layer}) as monitor:
        layer(np.full((8, 3), 7.0, np.float32))
        monitor.step()
    assert monitor.latest["norm"]["input_var"] == 0
    assert monitor.latest["norm"]["dead"] == 1


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("norm", TypeError, "layers is of type str; expected layers"),
        (None, TypeError, "layers is of type NoneType; expected layers"),
        ({"a": None}, TypeError, "layer 'a' is of type NoneType; expected a normalization layer"),
        ({1: fastbn.LayerNorm(3), "1": fastbn.LayerNorm(3)}, ValueError, "layers has two names that read alike"),
    ],
)
def test_what_is_no_layer(layers, error, message):
    with pytest.raises(error, match=message):
        Monitor(layers)


def test_an_open_file_is_no_writer(tmp_path):
    with (tmp_path / "run.csv").open("w") as file, pytest.raises(TypeError, match=r"writer is .*expected a path"):
        Monitor([fastbn.LayerNorm(3)], file)


def test_a_refused_writer_leaves_the_layer_alone():
    layer = fastbn.LayerNorm(3)
    with pytest.raises(TypeError):
        Monitor([layer], 3.5)
    assert untouched(layer)
