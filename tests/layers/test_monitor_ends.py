"""fastbn.monitor: whatever happens at the end of a step, the layers are left as they were."""

import gc
import weakref

import numpy as np
import pytest

import fastbn
from fastbn.monitor import Monitor


def data(shape=(64, 3), seed=0):
    return np.random.default_rng(seed).normal(5.0, 2.0, shape).astype(np.float32)


def untouched(layer):
    return not {"forward", "_gradients"} & set(vars(layer))


def test_gradients_in_long_double():
    layers = {"wide": fastbn.LayerNorm(3, dtype=np.longdouble), "usual": fastbn.LayerNorm(3)}
    with Monitor(layers) as monitor:
        for layer in layers.values():
            layer.backward(layer(data()))
        monitor.step()
    assert monitor.latest["wide"] == pytest.approx(monitor.latest["usual"], rel=1e-6)


@pytest.mark.parametrize("end", ["step", "close"])
def test_a_gradient_that_cannot_be_read_leaves_no_layer_watched(end):
    layers = [fastbn.LayerNorm(3), fastbn.LayerNorm(3)]
    monitor = Monitor(layers)
    for layer in layers:
        layer.backward(layer(data()))
    layers[0].grads["weight"] = "by a user's mistake"
    if end == "step":
        with pytest.raises(TypeError):
            monitor.step()
    else:
        monitor.close()
    assert all(map(untouched, layers))
    monitor.close()


def test_a_closed_monitor_keeps_no_batch():
    class Array(np.ndarray):
        """One that can be referred to weakly."""

    layer, x = fastbn.LayerNorm(3), data().view(Array)
    monitor = Monitor([layer])
    layer.forward(x)
    seen = weakref.ref(x)
    del x
    monitor.close()
    gc.collect()
    assert seen() is None


def test_a_class_is_no_writer():
    class Writer:
        def write(self, step, records):
            pass

        def close(self):
            pass

    with pytest.raises(TypeError, match=r"^writer is <class .*Writer'>; expected a path"):
        Monitor([fastbn.LayerNorm(3)], Writer)
    with Monitor([fastbn.LayerNorm(3)], Writer()) as monitor:
        monitor.step()


def test_a_path_to_csv_in_capitals(tmp_path):
    with Monitor([fastbn.LayerNorm(3)], tmp_path / "RUN.CSV"):
        pass
    assert (tmp_path / "RUN.CSV").read_text().startswith("step,layer,")
