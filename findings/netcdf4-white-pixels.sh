#!/usr/bin/env bash
# netCDF4 1.7.5.1.post1, xarray 2026.9.0, numpy 2.4.6.  Pixels of uint8 written without a word about missing values are read back masked where
# they are 255, which netCDF4 takes for never written: the mean of 255 and 1 is 1, that of a white image masked.  Of int8 it is -127.
# xarray reads the same file as it was written, and so was expected: bytes have no value to spare, and none was named.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install netCDF4==1.7.5.1.post1 xarray==2026.9.0 numpy==2.4.6 pandas==2.3.3
expect 'uint8: netCDF4 [None, None, 1, 1], mean 1.0; xarray [255, 255, 1, 1], mean 128.0
int8: netCDF4 [None, None, 1, 1], mean 1.0; xarray [-127, -127, 1, 1], mean -63.0
white: netCDF4 --, xarray 255.0' <<'PY'
import netCDF4
import numpy as np
import xarray

with netCDF4.Dataset("pixels.nc", "w") as file:
    file.createDimension("i", 4)
    for name, kind, values in (
        ("uint8", "u1", [255, 255, 1, 1]),
        ("int8", "i1", [-127, -127, 1, 1]),
        ("white", "u1", [255] * 4),
    ):
        file.createVariable(name, kind, ("i",))[:] = np.array(values, kind)
with netCDF4.Dataset("pixels.nc") as file, xarray.open_dataset("pixels.nc") as other:
    for name in ("uint8", "int8"):
        first, second = file[name][:], other[name]
        told = f"netCDF4 {first.tolist()}, mean {first.mean()}", f"xarray {second.values.tolist()}, mean {second.mean():.1f}"
        print(f"{name}: {'; '.join(told)}")
    print(f"white: netCDF4 {file['white'][:].mean()}, xarray {other['white'].mean():.1f}")
PY
