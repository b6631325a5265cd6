#!/usr/bin/env bash
# tensorboardX 2.6.5, tensorboard 2.21.0.  After SummaryWriter.flush(), "make sure that all pending events have been written to disk", the
# last ones are in no file, however long one waits, until the writer is closed.  All 15 were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install tensorboardX==2.6.5 tensorboard==2.21.0 numpy==2.4.6 "setuptools<81"
expect 'all there after flush: False, a second later: False, after close: True' <<'PY'
import tempfile
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

folder = tempfile.mkdtemp()
writer = SummaryWriter(folder)


def events():
    seen = EventAccumulator(folder).Reload()
    return len(seen.Scalars("loss")) if "loss" in seen.Tags()["scalars"] else 0


for step in range(15):
    writer.add_scalar("loss", step, step)
writer.flush()
after = events()
time.sleep(1)
later = events()
writer.close()
print(f"all there after flush: {after == 15}, a second later: {later == 15}, after close: {events() == 15}")
PY
