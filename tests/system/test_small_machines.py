"""What `fastbn info` says on machines that have little: one core, little memory, no threads, nowhere to write."""

import os

import pytest
from processes import on_layer, python

from fastbn import _config as config
from fastbn import _limits

INFO = "import sys; from fastbn.cli import main; sys.exit(main(['info']))"
GROUP = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/\n", f"{GROUP}/memory.max": "max\n"}, None),
        ({"/proc/self/cgroup": "0::/a/b\n", f"{GROUP}/a/memory.max": "536870912\n"}, 512 << 20),
        (
            {
                "/proc/self/cgroup": "5:memory:/docker/x\n4:cpu:/\n",  # the path as the host sees it
                f"{GROUP}/memory/memory.limit_in_bytes": "268435456\n",
                f"{GROUP}/cpu/memory.limit_in_bytes": "1\n",
            },
            256 << 20,
        ),
        ({"/proc/self/cgroup": "5:memory:/\n", f"{GROUP}/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        ({"/proc/self/cgroup": "0::/\n", f"{GROUP}/memory.max": "nonsense\n"}, None),
    ],
)
def test_memory_of_a_container(control_groups, files, limit):
    control_groups(files)
    told = _limits.memory()
    assert told == ((limit, True) if limit else (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), False))


def test_little_memory_is_told_with_what_to_do(control_groups):
    control_groups({"/proc/self/cgroup": "0::/\n", f"{GROUP}/memory.max": f"{512 << 20}\n"})
    assert config.config()["memory"] == "512 MB, by the control group"
    text = "\n".join(config.advice())
    for part in ("Of 512 MB", "fastbn warmup", "NUMBA_CACHE_DIR", "fastbn export"):
        assert part in text
    control_groups({f"{GROUP}/memory.max": f"{1 << 30}\n"})
    assert not any("export" in line for line in config.advice())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinities")
def test_one_core_needs_no_threading_layer():
    def one_cpu():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    told = {**on_layer("workqueue"), "NUMBA_NUM_THREADS": None, "FASTBN_NUM_THREADS": None}
    out, err = python(INFO, before=one_cpu, **told)
    assert err == ""
    assert "1 usable of" in out
    assert "A better threading layer" not in out


def test_a_cache_that_cannot_be_written_to_is_told_with_what_to_do(monkeypatch):
    monkeypatch.setattr(config, "cache_folder", lambda: ("/somewhere", False))
    assert any("or to one that fastbn warmup filled elsewhere" in line for line in config.advice())
