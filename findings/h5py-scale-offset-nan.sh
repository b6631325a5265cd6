#!/usr/bin/env bash
# h5py 3.16.0, numpy 2.4.6.  HDF5's scale-offset filter, by which h5py keeps so many decimal digits of floats, stores a NaN as the least value
# of its chunk: a missing reading comes back as a number, and counts in every mean.  A NaN was expected, as infinity comes back as
# infinity.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install h5py==3.16.0 numpy==2.4.6
expect 'float32: with infinity [-40.0, 20.5, inf, 21.5], with NaN [-40.0, 20.5, -40.0, 21.5]
float64: with infinity [-40.0, 20.5, inf, 21.5], with NaN [-40.0, 20.5, -40.0, 21.5]' <<'PY'
import h5py
import numpy as np


def stored(values, kind):
    with h5py.File("readings.h5", "w") as file:
        file.create_dataset("x", data=np.array(values, kind), scaleoffset=1)
    with h5py.File("readings.h5") as file:
        return file["x"][:].tolist()


for kind in ("float32", "float64"):
    results = (f"with {name} {stored([-40, 20.5, v, 21.5], kind)}" for name, v in (("infinity", np.inf), ("NaN", np.nan)))
    print(f"{kind}: {', '.join(results)}")
PY
