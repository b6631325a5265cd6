#!/usr/bin/env bash
# rasterio 1.4.4 (its wheel's GDAL).  `statistics(band)` writes what it found into NAME.tif.aux.xml beside the file, although that was opened to
# be read; pixels that are written over later through rasterio itself leave it there, and the statistics of the old ones are returned for ever,
# unless `clear_cache=True` asks for new ones or the file is made anew.  Statistics of the pixels, or a note dropped with the write, were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install rasterio==1.4.4 numpy==2.4.6
expect 'files after reading: image.tif, image.tif.aux.xml
pixels 1007.5, statistics 7.5, with clear_cache 1007.5' <<'PY'
import os
import warnings

import numpy as np
import rasterio

warnings.simplefilter("ignore")  # no georeference
x = np.arange(16, dtype=np.float32).reshape(4, 4)
with rasterio.open("image.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="float32") as file:
    file.write(x, 1)
with rasterio.open("image.tif") as file:
    file.statistics(1)
print("files after reading:", ", ".join(sorted(name for name in os.listdir() if name.startswith("image"))))
with rasterio.open("image.tif", "r+") as file:
    file.write(x + 1000, 1)
with rasterio.open("image.tif") as file:
    kept = file.statistics(1).mean
    new = file.statistics(1, clear_cache=True).mean
    print(f"pixels {file.read(1).mean():.1f}, statistics {kept:.1f}, with clear_cache {new:.1f}")
PY
