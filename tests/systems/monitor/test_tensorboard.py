"""fastbn.monitor's files as TensorBoard itself reads them, and its numbers of torch modules."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fastbn


def test_tensorboard_reads_what_was_written(tmp_path):
    layer, x = fastbn.BatchNorm1d(3), np.random.default_rng(0).normal(5, 2, (64, 3)).astype(np.float32)
    with fastbn.monitor.Monitor({"block/norm": layer}, tmp_path, every=2) as monitor:
        for _ in range(5):
            layer.zero_grad()
            layer.backward(layer(x))
            monitor.step()
    read = EventAccumulator(str(tmp_path)).Reload()
    names = {f"block/norm/{metric}" for metric in fastbn.monitor.METRICS}
    assert set(read.Tags()["scalars"]) == names
    events = read.Scalars("block/norm/weight_gradient")
    assert [event.step for event in events] == [0, 2, 4]
    assert events[-1].value == pytest.approx(monitor.latest["block/norm"]["weight_gradient"], rel=1e-6)


def test_a_summary_writer_of_the_users(tmp_path):
    from tensorboardX import SummaryWriter

    layer = fastbn.LayerNorm(3)
    with fastbn.monitor.Monitor([layer], SummaryWriter(str(tmp_path))) as monitor:
        layer(np.ones((2, 3), np.float32))
        monitor.step()
    assert "0.LayerNorm/dead" in EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
