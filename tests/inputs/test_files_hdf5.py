"""HDF5 as h5py writes it, read without h5py; what is damaged or made to mislead ends in time and in an error."""

import subprocess
import sys
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from fastbn import files

DATA = Path(__file__).parents[1] / "values" / "files" / "data"
DTYPES = ("f2", "f4", "f8", ">f4", ">f8", "i1", ">i2", "i4", "i8", "u1", "u2", ">u4", "u8", "?")
FILTERS = (
    {},
    {"compression": "gzip"},
    {"shuffle": True},
    {"fletcher32": True},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
)


def written(path, fill, **options):
    with h5py.File(path, "w", **options) as file:
        fill(file)
    return path


def read_all(path):
    with files.read(path, max_bytes=1 << 24) as file:
        return dict(file.arrays)


def refused(path, message):
    with pytest.raises(ValueError, match=message) as told:
        read_all(path)
    assert path.name in str(told.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_byte_orders(dtype, tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(dtype)
    path = written(tmp_path / "a.h5", lambda file: file.create_dataset("a/b", data=x))
    with files.read(path) as file:
        assert file.arrays["a/b"].dtype == x.dtype
        np.testing.assert_array_equal(file.arrays["a/b"], x)


def test_bfloat16_scalars_empty_arrays_and_what_is_no_number(tmp_path):
    half = np.linspace(-3, 3, 12).astype(ml_dtypes.bfloat16).reshape(3, 4)

    def fill(file):
        file["half"], file["scalar"], file["empty"], file["text"] = half, np.float32(3), np.zeros((0, 3)), "text"

    with files.read(written(tmp_path / "a.h5", fill)) as file:
        assert {*file.arrays} == {"half", "scalar", "empty"}
        assert file.arrays["half"].dtype == half.dtype
        np.testing.assert_array_equal(file.arrays["half"], half)
        assert file.arrays["scalar"] == 3
        assert file.arrays["empty"].shape == (0, 3)


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("chunks", [(8, 9), (37, 50), (1, 50), (5, 1)], ids=str)
def test_chunks_and_filters(filters, chunks, tmp_path):
    x = np.random.default_rng(0).integers(0, 5, (37, 50))

    def fill(file):
        for dtype in ("f4", "f8", "u1"):
            file.create_dataset(dtype, data=x.astype(dtype), chunks=chunks, **filters)

    with files.read(written(tmp_path / "a.h5", fill)) as file:
        for dtype, value in file.arrays.items():
            assert value.dtype == dtype
            np.testing.assert_array_equal(value, x)


@pytest.mark.parametrize("count", [3, 2000])
def test_groups_of_many_names(count, tmp_path):
    def fill(file):
        for k in range(count):
            file[f"group {k % 7}/name {k}"] = np.array([k])

    with files.read(written(tmp_path / "a.h5", fill)) as file:
        assert {name: int(value[0]) for name, value in file.arrays.items()} == {
            f"group {k % 7}/name {k}": k for k in range(count)
        }


def test_the_newest_form_is_read_where_it_is_the_same_and_else_refused(tmp_path):
    path = written(tmp_path / "a.h5", lambda file: file.update({"a": np.arange(4.0)}), libver="latest")
    with files.read(path) as file:
        np.testing.assert_array_equal(file.arrays["a"], np.arange(4.0))
    many = {str(k): np.arange(4.0) for k in range(20)}
    path = written(tmp_path / "b.h5", lambda file: file.update(many), libver="latest")
    refused(path, "newer releases of HDF5; expected the older one, as copying by h5py")
    path = written(
        tmp_path / "c.h5", lambda file: file.create_dataset("a", data=np.eye(9), chunks=(2, 2)), libver="latest"
    )
    refused(path, "newest form")


def test_filters_of_others_and_chunks_that_are_missing_are_refused(tmp_path):
    refused(
        written(tmp_path / "a.h5", lambda file: file.create_dataset("a", data=np.eye(9), compression="lzf")),
        r"filters \[32000\]; expected deflate, shuffle and fletcher32 alone",
    )

    def fill(file):
        file.create_dataset("a", (4, 4), "f4", chunks=(2, 2), compression="gzip")[:2] = 1

    refused(written(tmp_path / "b.h5", fill), r"no chunk at \(2, 0\)")


def test_a_checksum_that_is_another_is_told(tmp_path):
    x = np.arange(64, dtype=np.float32)
    path = written(tmp_path / "a.h5", lambda file: file.create_dataset("a", data=x, chunks=(64,), fletcher32=True))
    content = bytearray(path.read_bytes())
    content[content.index(x.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    refused(path, "its checksum is another")


def tree_that_leads_to_itself(content):
    at = content.index(b"TREE")
    content[at + 5] = 1  # its level
    content[at + 32 : at + 40] = at.to_bytes(8, "little")


def header_that_goes_on_in_itself(content):
    """The root's first message becomes one that tells where its header goes on: there."""
    at = int.from_bytes(content[64:72], "little") + 16
    content[at : at + 24] = b"\x10\0\x10\0\0\0\0\0" + at.to_bytes(8, "little") + (24).to_bytes(8, "little")


def names_of_a_gigabyte(content):
    at = content.index(b"HEAP")
    content[at + 8 : at + 16] = (1 << 30).to_bytes(8, "little")


def nodes_of_more_entries(content):
    at = content.index(b"SNOD")
    content[at + 6 : at + 8] = b"\xff\xff"


@pytest.mark.parametrize(
    "harm", [tree_that_leads_to_itself, header_that_goes_on_in_itself, names_of_a_gigabyte, nodes_of_more_entries]
)
def test_structures_that_mislead(harm, tmp_path):
    content = bytearray((DATA / "keras.weights.h5").read_bytes())
    harm(content)
    (tmp_path / "a.h5").write_bytes(content)
    refused(tmp_path / "a.h5", "damaged|to itself|to each other|is needed")


FLIPPED = """
import contextlib, random, resource, sys
from pathlib import Path
from fastbn import files

data, path, count, seconds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))  # of its own, however busy the machine is
rng = random.Random(0)
for name in ("keras.keras", "keras.weights.h5", "keras_legacy.h5", "tf_keras.h5"):
    whole = (data / name).read_bytes()
    for _ in range(count):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        path.write_bytes(content)
        try:
            with files.read(path, max_bytes=1 << 24) as file:
                dict(file.arrays), file.unknown
                with contextlib.suppress(ValueError):  # of a norm that lacks an array, or has a negative variance
                    file.layers()
        except ValueError as error:
            if path.name not in str(error):
                raise
"""


def flipped(tmp_path, count, seconds):
    pytest.importorskip("resource", reason="limits of memory are POSIX's")
    command = [sys.executable, "-c", FLIPPED, str(DATA), str(tmp_path / "flipped"), str(count), str(seconds)]
    done = subprocess.run(command, timeout=10 * seconds, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_flipped_bytes_end_in_time(tmp_path):
    """60 copies of each of four files, in a process of 4 GB and a minute of its own time."""
    flipped(tmp_path, 60, 60)


@pytest.mark.full
def test_flipped_bytes_end_in_time_often(tmp_path):
    flipped(tmp_path, 2000, 300)
