"""How long reading the norms of a checkpoint of 400 MB takes, and how much memory, beside torch.load.

python benchmarks/reading_files.py: each way in a process of its own, by turns, the file in the page cache, imports not
counted.  Needs torch.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TURNS = 7
WAYS = ("fastbn arrays", "fastbn layers", "torch.load", "torch.load mmap")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write(path: str) -> None:
    import torch

    state = {}
    for k in range(100):
        state[f"{k}.conv.weight"] = torch.randn(1000, 1000)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{k}.bn.{name}"] = torch.rand(1000) + 0.5
        state[f"{k}.bn.num_batches_tracked"] = torch.tensor(5)
    torch.save(state, path)


def measure(way: str, path: str) -> None:
    if way.startswith("fastbn"):
        import fastbn.files
        from fastbn.files import _torch  # noqa: F401 - imports are not counted

        before, start = resident(), time.perf_counter()
        with fastbn.files.read(path) as file:
            kept = file.layers() if way.endswith("layers") else {n: file.arrays[n] for n in file.arrays if ".bn." in n}
    else:
        import torch

        before, start = resident(), time.perf_counter()
        state = torch.load(path, weights_only=True, mmap=way.endswith("mmap"))
        kept = {name: value.numpy().copy() for name, value in state.items() if ".bn." in name}
    print(time.perf_counter() - start, resident() - before, len(kept))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "checkpoint.pt")
        subprocess.run([sys.executable, __file__, "write", path], check=True)
        results: dict[str, list[tuple[float, int]]] = {way: [] for way in WAYS}
        for _ in range(TURNS):
            for way in WAYS:
                Path(path).read_bytes()  # into the page cache
                command = [sys.executable, __file__, way, path]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                results[way].append((float(out[0]), int(out[1])))
        for way, told in results.items():
            seconds, growth = min(t for t, _ in told), min(g for _, g in told)
            print(f"{way:16} {seconds * 1e3:8.1f} ms {growth / 2**20:8.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        measure(sys.argv[1], sys.argv[2])
