"""Files that reach for other files, or claim what they do not have."""

import gc
import os
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastbn import files

DATA = Path(__file__).parents[1] / "values" / "files" / "data"


def read_all(path, **options):
    with files.read(path, **options) as file:
        return {name: file.arrays[name] for name in file.arrays}


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message) as told:
        read_all(path, **options)
    assert path.name in str(told.value)


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


def model_with(location, **more):
    tensor = TensorProto(name="w", data_type=1, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    value = helper.make_tensor_value_info("x", 1, [2, 2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [value], [tensor])
    return helper.make_model(graph).SerializeToString()


def test_external_data_of_onnx_stays_in_its_folder(secret):
    path = secret / "m.onnx"
    (secret / "link").symlink_to(secret.parent / "secret")
    for location in ("../secret", str(secret.parent / "secret"), "link"):
        path.write_bytes(model_with(location))
        refused(path, "not in its own folder")
    (secret / "beside").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    path.write_bytes(model_with("beside", offset="8"))
    with files.read(path) as file:
        np.testing.assert_array_equal(file.arrays["w"], [[2, 3], [4, 5]])
    path.write_bytes(model_with("beside", offset="16"))
    with files.read(path) as file, pytest.raises(ValueError, match="cut short"):
        file.arrays["w"]
    path.write_bytes(model_with("beside", length="4"))
    refused(path, "takes 16 bytes")


def test_onnx_claims_are_checked(tmp_path):
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "w")
    tensor.dims[:] = [10**10]
    graph = helper.make_graph([], "g", [], [], [tensor])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    refused(tmp_path / "m.onnx", "takes 40000000000 bytes, but has 12")


@pytest.mark.parametrize("kind", ["soft", "external", "storage", "virtual"])
def test_hdf5_does_not_lead_elsewhere(secret, kind):
    path = secret / "m.weights.h5"
    with h5py.File(secret.parent / "other.h5", "w") as other:
        other["x"] = np.ones(4, np.float32)
    with h5py.File(path, "w") as file:
        if kind == "soft":
            file["a"] = h5py.SoftLink("/b")
        elif kind == "external":
            file["a"] = h5py.ExternalLink("../other.h5", "/x")
        elif kind == "storage":
            file.create_dataset("a", (4,), "f4", external=[(str(secret.parent / "secret"), 0, 16)])
        else:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(secret.parent / "other.h5"), "x", (4,))
            file.create_virtual_dataset("a", layout)
    refused(path, "leads elsewhere|lies in another file")


def test_hdf5_claims_are_checked(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (10**10,), "f4")  # never written: a value that fills it
    refused(path, "takes 40000000000 bytes, but has 0")
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (10**9,), "f4", chunks=(1 << 20,), compression="gzip")
    refused(path, "which no compression gives")
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.zeros(1 << 20, np.float32), compression="gzip")
    refused(path, "max_bytes", max_bytes=1 << 20)
    with h5py.File(path, "w") as file:
        file["a/b"] = np.ones(2)
        file["a/again"] = file["a"]
    refused(path, "is in itself")


@pytest.mark.parametrize("text", ['<!DOCTYPE net [<!ENTITY a "b">]>', "<!DOCTYPE net>"])
def test_xml_declares_nothing(tmp_path, text):
    (tmp_path / "m.bin").write_bytes(b"")
    (tmp_path / "m.xml").write_text(f'<?xml version="1.0"?>{text}<net><layers/></net>')
    refused(tmp_path / "m.xml", "declares")


def torch_pickle(*, shape=(2,), stride=(1,), offset=0, elements=4):
    """The pickle of a state with one tensor, as torch writes it."""

    def global_(module, name):
        return b"c" + module.encode() + b"\n" + name.encode() + b"\n"

    def value(v):
        return pickle.dumps(v, 2)[2:-1]

    storage = (
        b"(" + value("storage") + global_("torch", "FloatStorage") + value("0") + value("cpu") + value(elements) + b"tQ"
    )
    arguments = b"(" + storage + value(offset) + value(shape) + value(stride) + b"\x89" + value({}) + b"t"
    tensor = global_("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"
    return b"\x80\x02}(" + value("w") + tensor + b"u."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 3}, "takes elements 3 to 5 of a storage of 4"),
        ({"offset": -1}, "at least 0"),
        ({"stride": (-1,)}, "at least 0"),
        ({"stride": (4,)}, "takes elements 0 to 5"),
        ({"stride": (1, 1)}, "not of one length"),
        ({"shape": (1 << 40, 1 << 40)}, "more elements than any file has"),
        ({"shape": (1 << 61,), "stride": (8,)}, "of a storage of 4"),
        ({"shape": (10**10,), "stride": (0,)}, "over a storage of 4"),
        ({"elements": 1 << 40}, "claims 4398046511104 bytes but has 16"),
        ({"elements": -1}, "at least 0"),
        ({"shape": (True,)}, "integers"),
    ],
)
def test_tensors_stay_in_their_storage(tmp_path, changes, message):
    def write(**changes):
        with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
            archive.writestr("m/data.pkl", torch_pickle(**changes))
            archive.writestr("m/data/0", np.arange(4, dtype=np.float32).tobytes())

    write(offset=1)
    with files.read(tmp_path / "m.pt") as file:
        np.testing.assert_array_equal(file.arrays["w"], [1, 2])
    write(**changes)
    refused(tmp_path / "m.pt", message)


def test_big_endian_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", torch_pickle())
        archive.writestr("m/data/0", bytes(16))
        archive.writestr("m/byteorder", b"big")
    refused(tmp_path / "m.pt", "big-endian")
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(40))
    refused(tmp_path / "m.gguf", "big-endian")
    np.savez(tmp_path / "m.npz", a=np.arange(3, dtype=">f4"))
    with files.read(tmp_path / "m.npz") as file:  # NumPy's own format tells the order of each array
        np.testing.assert_array_equal(file.arrays["a"], [0, 1, 2])


@pytest.mark.parametrize(
    "name", sorted(path.name for path in DATA.iterdir() if path.is_file() and "outputs" not in path.name)
)
def test_a_file_of_half_its_length_is_told(tmp_path, name):
    for other in DATA.iterdir():
        if other.is_file() and other.stem == Path(name).stem:
            (tmp_path / other.name).write_bytes(other.read_bytes())
    content = (DATA / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    if name != "mxnet-symbol.json":
        with pytest.raises(ValueError, match=Path(name).stem):
            read_all(tmp_path / name)


def test_a_format_that_is_asked_for_must_be_there():
    refused(DATA / "torch.pt", "of the format 'torch'; expected 'onnx'", format="onnx")
    with pytest.raises(ValueError, match="expected one of"):
        files.read(DATA / "torch.pt", format="torchscript")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which files are open is told by Linux alone")
def test_what_is_refused_is_closed():
    """Also while the error is kept, as a notebook and a debugger keep it."""
    gc.collect()  # files that a test before this one left open would else be closed meanwhile
    errors, before = [], len(os.listdir("/proc/self/fd"))
    for path in sorted(DATA.iterdir()):
        for name in ("safetensors", "torch", "orbax"):
            try:
                with files.read(path, format=name):
                    pass
            except (ValueError, ImportError) as error:
                errors.append(error)
    assert len(errors) > 50
    assert len(os.listdir("/proc/self/fd")) == before


def test_model_bytes_are_only_those_of_the_norms(tmp_path):
    """A 16 MB checkpoint, of which the norms are a few kB."""
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", torch_pickle(elements=1 << 22))
        archive.writestr("m/data/0", bytes(1 << 24))
    with files.read(tmp_path / "m.pt") as file:
        assert file.arrays["w"].shape == (2,)
        assert file._source.bytes_read < 1000
