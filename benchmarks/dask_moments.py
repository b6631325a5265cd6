"""Statistics of float32 data from zarr on disk, on a Dask cluster of two processes, beside the mean that Dask takes.

python benchmarks/dask_moments.py [GB]: `fastbn.dask.moments` and `da.mean` over the same chunks, by turns; the best
time of each, and the largest memory of a worker.  1 GB by default.  Needs dask, distributed and zarr.
"""

import argparse
import tempfile
import time
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from dask.distributed import Client, LocalCluster

import fastbn

CHUNK = (16, 64, 56, 56)  # 12.8 MB


def write(path: str, gigabytes: float) -> tuple[int, ...]:
    """Random numbers, the same in every chunk, which reading and summing take no notice of."""
    count = max(4, round(gigabytes * 1e9 / (4 * np.prod(CHUNK))))
    shape = (count * CHUNK[0], *CHUNK[1:])
    array = zarr.create_array(path, shape=shape, chunks=CHUNK, dtype="f4", compressors=None)
    block = np.random.default_rng(0).standard_normal(CHUNK, np.float32) + 1
    for k in range(count):
        array[k * CHUNK[0] : (k + 1) * CHUNK[0]] = block
    return shape


def peak() -> int:
    """The largest resident memory of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gigabytes", nargs="?", type=float, default=1.0, help="of data (%(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="of each way (%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.zarr")
        shape = write(path, args.gigabytes)
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
        with cluster, Client(cluster) as client:
            array = da.from_zarr(path)
            ways = {"da.mean": lambda: array.mean((0, 2, 3)), "fastbn": lambda: fastbn.dask.moments(array, axis=1)}
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            idle = max(client.run(peak).values())
            for turn in range(args.turns + 1):  # the first compiles, and reads into the page cache
                for name, way in ways.items():
                    start = time.perf_counter()
                    result = way().compute()
                    if turn:
                        seconds[name].append(time.perf_counter() - start)
            most = max(client.run(peak).values())
        print(f"{shape}, {4 * np.prod(shape) / 1e9:.2f} GB, chunks of {4 * np.prod(CHUNK) / 1e6:.1f} MB: {result}")
        for name, told in seconds.items():
            print(f"{name:8} {min(told):8.3f} s {min(told) / min(seconds['da.mean']):6.2f} of da.mean")
        print(f"largest memory of a worker: {most / 1e6:.0f} MB, of which {idle / 1e6:.0f} MB before anything was read")


if __name__ == "__main__":
    main()
