"""fastbn.monitor: what is seen of layers while they train."""

import csv
import io
import pickle

import numpy as np
import pytest

import fastbn


def data(shape=(64, 3), mean=5.0, spread=2.0):
    return np.random.default_rng(0).normal(mean, spread, shape).astype(np.float32)


def train(layer, x, monitor, steps=1):
    for _ in range(steps):
        layer.zero_grad()
        y = layer(x)
        dx = layer.backward(y)
        monitor.step()
    return y, dx


def test_the_numbers_are_those_of_the_arrays():
    x, layer = data(), fastbn.BatchNorm1d(3)
    layer.running_mean[...], layer.running_var[...] = 1.0, 9.0
    mean, var = layer.running_mean.astype(float), layer.running_var.astype(float)
    with fastbn.monitor.Monitor([layer]) as monitor:
        y, dx = train(layer, x, monitor)
    seen = monitor.latest["0.BatchNorm1d"]
    mean, var = 0.9 * mean + 0.1 * x.mean(0), 0.9 * var + 0.1 * x.var(0, ddof=1)
    expected = {
        "input_mean": x.mean(),
        "input_var": x.var(),
        "output_mean": y.mean(),
        "output_var": y.var(),
        "saturation": np.mean(np.abs(y) > 3),
        "dead": 0.0,
        "mean_drift": np.sqrt(np.mean(((mean - x.mean(0)) / x.std(0)) ** 2)),
        "var_drift": np.mean(np.abs(np.log(var / x.var(0)))),
        "input_gradient": np.linalg.norm(dx),
        "weight_gradient": np.linalg.norm(layer.grads["weight"]),
        "bias_gradient": np.linalg.norm(layer.grads["bias"]),
    }
    assert set(seen) == set(fastbn.monitor.METRICS) == set(expected)
    for name, value in expected.items():
        assert seen[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.full
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_saturation_and_dead_channels(activation):
    layer = fastbn.BatchNorm1d(4, activation=activation)
    layer.weight, layer.bias = [1.0, 0.0, 10.0, 1.0], [-50.0, 0.0, 0.0, 50.0]
    with fastbn.monitor.Monitor({"norm": layer}) as monitor:
        y, _ = train(layer, data((64, 4)), monitor)
    flat = {None: np.abs(y) > 3, "relu": y == 0, "sigmoid": (y < 0.05) | (y > 0.95)}[activation]
    assert monitor.latest["norm"]["saturation"] == pytest.approx(flat.mean())
    assert monitor.latest["norm"]["dead"] == np.mean(y.std(0) == 0)


@pytest.mark.full
@pytest.mark.parametrize(
    "layer",
    [
        fastbn.LayerNorm(8),
        fastbn.GroupNorm(2, 6),
        fastbn.InstanceNorm2d(6),
        fastbn.RMSNorm(8),
        fastbn.BatchNorm2d(8, axis=-1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_layer(layer):
    with fastbn.monitor.Monitor(layer) as monitor:
        y, _ = train(layer, data((4, 6, 5, 8)), monitor)
    (seen,) = monitor.latest.values()
    assert seen["output_var"] == pytest.approx(y.var(), rel=1e-4)
    assert ("mean_drift" in seen) == (getattr(layer, "running_mean", None) is not None)


def test_every_so_many_steps_and_nothing_between():
    x, layer, written = data(), fastbn.BatchNorm1d(3), []

    class Writer:
        def write(self, step, records):
            written.append(step)

        def close(self):
            written.append("closed")

    with fastbn.monitor.Monitor([layer], Writer(), every=3) as monitor:
        for step in range(8):
            assert ("forward" in vars(layer)) == (step % 3 == 0)
            train(layer, x, monitor)
    assert written == [0, 3, 6, "closed"]
    assert "forward" not in vars(layer)
    assert "backward" not in vars(layer)


@pytest.mark.full
def test_results_are_the_same_watched_or_not():
    x = data((16, 4, 6, 6))
    watched, plain = fastbn.BatchNorm2d(4, activation="relu"), fastbn.BatchNorm2d(4, activation="relu")
    with fastbn.monitor.Monitor([watched]):
        y = watched(x, residual=x)
        gradients = watched.backward(y)
    np.testing.assert_array_equal(y, plain(x, residual=x))
    for ours, theirs in zip(gradients, plain.backward(y), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(watched.running_var, plain.running_var)


def test_a_watched_layer_can_be_saved():
    layer = fastbn.BatchNorm1d(3)
    with fastbn.monitor.Monitor([layer]):
        again = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(again(data()), layer(data()))


def test_a_layer_that_did_not_train_has_no_numbers():
    layer = fastbn.BatchNorm1d(3).eval()
    with fastbn.monitor.Monitor({"norm": layer}) as monitor:
        layer(data())
        monitor.step()
    assert monitor.latest == {"norm": {}}


def test_csv(tmp_path):
    layer, path = fastbn.LayerNorm(3), tmp_path / "run.csv"
    with fastbn.monitor.Monitor({"a, b": layer}, path, every=2) as monitor:
        train(layer, data(), monitor, steps=3)
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [(row["step"], row["layer"]) for row in rows] == [("0", "a, b"), ("2", "a, b")]
    assert float(rows[1]["output_var"]) == monitor.latest["a, b"]["output_var"]
    assert rows[0]["mean_drift"] == ""


def test_nan_is_told_as_it_is():
    x = data()
    x[0, 0] = np.nan
    layer = fastbn.BatchNorm1d(3)
    with np.errstate(all="raise"), fastbn.monitor.Monitor([layer]) as monitor:
        layer(x)
        monitor.step()
    assert np.isnan(monitor.latest["0.BatchNorm1d"]["input_mean"])


def test_the_live_table(capsys):
    layer = fastbn.BatchNorm1d(3)
    with fastbn.monitor.Monitor({"the norm": layer}, "live") as monitor:
        train(layer, data(), monitor)
    assert "the norm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), ValueError, "layers is empty"),
        ((3,), TypeError, "layers is of type int; expected layers"),
        (([np.zeros(3)],), TypeError, "layer '0.ndarray' is of type ndarray"),
        (([fastbn.LayerNorm(3)], 3.5), TypeError, "writer is 3.5; expected a path"),
        (([fastbn.LayerNorm(3)], None, 0), ValueError, "every is 0; expected at least 1"),
        (([fastbn.LayerNorm(3)], None, "x"), TypeError, "every is 'x'; expected an integer"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fastbn.monitor.Monitor(*arguments)
