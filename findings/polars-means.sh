#!/usr/bin/env bash
# polars 2.1.0.  Three means of the same kind that are not taken alike: mean_horizontal adds 8-bit columns in 8 bits, so that the mean of
# 200 and 201 is 72.5; list.mean adds float32 one after the other in float32, so that the mean of a million times 0.1 is off by a
# hundredth; mean of a column is right in both.  200.5 and 0.1 were expected of all.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install polars==2.1.0
expect 'of two columns: 72.5, of one column: 200.5
of a list: 0.101, of a column: 0.1' <<'PY'
import polars as pl

pixels = pl.DataFrame({"a": [200], "b": [201]}, schema={"a": pl.UInt8, "b": pl.UInt8})
across = pixels.select(pl.mean_horizontal("a", "b")).item()
print(f"of two columns: {across}, of one column: {pl.Series([200, 201], dtype=pl.UInt8).mean()}")
column = pl.Series([0.1] * 10**6, dtype=pl.Float32)
print(f"of a list: {column.implode().list.mean().item():.3f}, of a column: {column.mean():.3g}")
PY
