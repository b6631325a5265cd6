#!/usr/bin/env bash
# onnxruntime 1.32.0, blosc2 4.14.1, flax 0.12.8, jax 0.10.2, numpy 2.4.6, on a processor of the Intel byte order.  An array of float32
# in the other order, as FITS, netCDF-3 and HDF5 give them, goes into ONNX Runtime as if it were in this one; blosc2 stores it right
# and takes a wrong mean of it; flax's to_bytes writes it under the name float32.  No error, and the same values, were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnxruntime==1.32.0 blosc2==4.14.1 flax==0.12.8 jax==0.10.2 numpy==2.4.6
expect 'onnxruntime [4.6e-41, 9e-44]; blosc2 [1.0, 2.0], mean 2.3e-41; flax [4.6e-41, 9e-44]' <<'PY'
import blosc2
import flax.serialization
import numpy as np
import onnxruntime

x = np.array([1, 2], ">f4")


def short(values):
    return [float(f"{v:.1e}") for v in np.asarray(values, np.float64)]


given = onnxruntime.OrtValue.ortvalue_from_numpy(x).numpy()
stored = blosc2.asarray(x)
restored = flax.serialization.msgpack_restore(flax.serialization.msgpack_serialize({"mean": x}))["mean"]
print(
    f"onnxruntime {short(given)}; blosc2 {stored[:].tolist()}, mean {float(stored.mean()):.1e}; flax {short(restored)}"
)
PY
