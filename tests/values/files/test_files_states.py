"""States of torch, safetensors and .npz: what is read is what was written, and what a norm does is what it did."""

import json
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

import fastbn
from fastbn import files

DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "u8", "?")


def arrays_of_every_dtype():
    rng = np.random.default_rng(0)
    result = {f"a.{dtype}": (rng.normal(size=(3, 4)) * 9).astype(dtype) for dtype in DTYPES}
    return result | {
        "bf": rng.normal(size=5).astype(ml_dtypes.bfloat16),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "turned": rng.normal(size=(3, 4)).astype(np.float32).T,
        "strided": rng.normal(size=(6, 4))[::2, ::-1],
    }


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
def test_what_is_written_is_read(tmp_path, name):
    arrays = arrays_of_every_dtype()
    files.write(tmp_path / name, arrays)
    assert os.listdir(tmp_path) == [name]
    with files.read(tmp_path / name) as file:
        assert list(file.arrays) == list(arrays)
        for key, value in arrays.items():
            read = file.arrays[key]
            assert read.dtype == value.dtype
            assert read.shape == value.shape
            assert read.tobytes() == np.ascontiguousarray(value).tobytes(), key


def test_a_file_that_cannot_be_written_leaves_nothing_and_the_old_one_as_it_was(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write(path, {"x": np.ones(3)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="dtype object"):
        files.write(path, {"x": np.array([None])})
    with pytest.raises(ValueError, match=r"read only"):
        files.write(tmp_path / "a.pt", {"x": np.ones(3)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def a_state(rng, channels=4):
    return {
        "conv.weight": rng.normal(size=(channels, 3, 3, 3)).astype(np.float32),
        "bn.weight": rng.normal(size=channels).astype(np.float32),
        "bn.bias": rng.normal(size=channels).astype(np.float32),
        "bn.running_mean": rng.normal(size=channels).astype(np.float32),
        "bn.running_var": rng.uniform(1, 2, channels).astype(np.float32),
        "bn.num_batches_tracked": np.array(12, np.int64),
        "norm.weight": rng.normal(size=8).astype(np.float32),
        "fc.weight": rng.normal(size=(2, 8)).astype(np.float32),
        "fc.bias": rng.normal(size=2).astype(np.float32),
    }


def test_a_batch_norm_is_found_and_its_arrays_go_back(tmp_path):
    state = a_state(np.random.default_rng(1))
    files.write(tmp_path / "s.npz", state)
    with files.read(tmp_path / "s.npz") as file:
        layers = file.layers()
        assert list(layers) == ["bn"]
        assert list(file.unknown) == ["norm"]
        layer = layers["bn"]
        assert not layer.training
        assert int(layer.num_batches_tracked) == 12
        x = np.random.default_rng(2).normal(size=(2, 4, 5))
        expected = fastbn.batch_norm(x, *(state[f"bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))
        np.testing.assert_array_equal(layer(x), expected)
        back = file.state(layers)
        assert set(back) == {key for key in state if key.startswith("bn.")}
        assert all(back[key].tobytes() == state[key].tobytes() and back[key].dtype == state[key].dtype for key in back)
        layer.running_mean[...] = 5
        assert (file.state(layers)["bn.running_mean"] == 5).all()
        with pytest.raises(ValueError, match="weight of bn has 8 values; expected 4"):
            file.state({"bn": fastbn.BatchNorm(2 * layer.running_mean.size)})  # whose values are all the same


def test_kinds_make_what_the_file_does_not_tell(tmp_path):
    state = a_state(np.random.default_rng(1))
    files.write(tmp_path / "s.npz", state)
    with files.read(tmp_path / "s.npz") as file:
        layer = file.layers(kinds={"nor*": lambda shape: fastbn.RMSNorm(shape, 1e-6, offset=1.0)})["norm"]
        x = np.random.default_rng(2).normal(size=(2, 8))
        np.testing.assert_allclose(layer(x), fastbn.rms_norm(x, 8, 1 + state["norm.weight"], 1e-6), rtol=1e-6)
        assert file.layers(eps=1e-3)["bn"].eps == 1e-3
        with pytest.raises(ValueError, match="no norm is called"):
            file.layers(kinds={"other": fastbn.LayerNorm})
        with pytest.raises(ValueError, match="whose bias the file does not hold"):
            file.layers(kinds={"norm": fastbn.LayerNorm})  # a layer norm has a bias, which the file does not


def test_a_state_is_folded_by_pairs_and_asks_for_them(tmp_path):
    rng = np.random.default_rng(3)
    state = a_state(rng)
    files.write(tmp_path / "s.safetensors", state)
    with files.read(tmp_path / "s.safetensors") as file:
        with pytest.raises(ValueError, match=r"bn \(4 channels\): conv.weight"):
            file.fold()
        folded = file.fold({"bn": {"weight": "conv.weight"}})
    assert list(folded) == ["conv.weight", "norm.weight", "fc.weight", "fc.bias", "conv.bias"]
    tuple_of_bn = tuple(state[f"bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    weight, bias = fastbn.fold(state["conv.weight"], None, tuple_of_bn)
    np.testing.assert_array_equal(folded["conv.weight"], weight)
    np.testing.assert_array_equal(folded["conv.bias"], bias)


def test_negative_variances_are_refused(tmp_path):
    state = a_state(np.random.default_rng(1)) | {"bn.running_var": np.array([1, -654, 1, 1], np.float32)}
    files.write(tmp_path / "s.npz", state)
    with files.read(tmp_path / "s.npz") as file, pytest.raises(ValueError, match=r"bn.running_var is -654.0"):
        file.layers()


def test_a_float_counter_and_mixed_dtypes_lose_nothing(tmp_path):
    state = {
        "bn.weight": np.array([1.5, 2], ml_dtypes.bfloat16),
        "bn.bias": np.array([0.5, 2], ml_dtypes.bfloat16),
        "bn.running_mean": np.array([101.5, 0.1], np.float32),
        "bn.running_var": np.array([1.1, 2], np.float32),
        "bn.num_batches_tracked": np.array(7.0, np.float32),
    }
    files.write(tmp_path / "s.safetensors", state)
    with files.read(tmp_path / "s.safetensors") as file:
        layers = file.layers()
        assert layers["bn"].dtype == np.float32
        assert int(layers["bn"].num_batches_tracked) == 7
        for key, value in file.state(layers).items():
            assert value.dtype == state[key].dtype
            assert value.tobytes() == state[key].tobytes()


def test_an_index_reads_its_shards_and_nothing_outside_its_folder(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    state = a_state(np.random.default_rng(1))
    halves = list(state)[:4], list(state)[4:]
    for k, names in enumerate(halves):
        files.write(inside / f"m-{k}.safetensors", {name: state[name] for name in names})
    weight_map = {name: f"m-{k}.safetensors" for k, names in enumerate(halves) for name in names}
    index = inside / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with files.read(index) as file:
        assert {name: value.tobytes() for name, value in file.arrays.items()} == {
            k: v.tobytes() for k, v in state.items()
        }
        assert list(file.layers()) == ["bn"]
    files.write(tmp_path / "secret.safetensors", state)
    os.symlink(tmp_path / "secret.safetensors", inside / "link.safetensors")
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "link.safetensors"):
        index.write_text(json.dumps({"weight_map": {"bn.weight": name}}))
        with pytest.raises(ValueError, match="not in its own folder"):
            files.read(index)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_executes_nothing(tmp_path):
    for protocol in range(2, 6):
        (tmp_path / "p").write_bytes(pickle.dumps({"a": Touch(tmp_path / "touched")}, protocol))
        with pytest.raises(ValueError, match=r"asks for '(io|builtins|_io|__builtin__).open'.*nothing was executed"):
            files.read(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "p", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"a": Touch(tmp_path / "touched")}, 2))
    with pytest.raises(ValueError, match="open'"):
        files.read(tmp_path / "p")
    assert not (tmp_path / "touched").exists()


def test_objects_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Touch(tmp_path / "touched")], dtype=object))
    with files.read(tmp_path / "a.npz") as file, pytest.raises(ValueError, match=r"'x' has dtype object"):
        file.arrays["x"]
    assert not (tmp_path / "touched").exists()


def bomb(tmp_path):
    np.savez_compressed(tmp_path / "z.npz", a=np.zeros(1 << 18), b=np.zeros(1 << 18))
    return tmp_path / "z.npz"


def test_max_bytes_bounds_what_is_inflated(tmp_path):
    with files.read(bomb(tmp_path), max_bytes=3 << 20) as file:
        assert file.arrays["a"].size == 1 << 18
        with pytest.raises(ValueError, match=r"z.npz.*'b' inflates to .* max_bytes=3145728"):
            file.arrays["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0 a picture", "none of the formats"),
        (struct.pack("<Q", 10**10) + b'{"a":' + b" " * 90, "header"),
        (
            struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}',
            "no JSON|cut short",
        ),
        (b"\x80\x04\x8e" + struct.pack("<Q", 10**10) + b"abc", "claims 10000000000 bytes"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "claims 4294967295 bytes"),
    ],
)
def test_files_that_are_none_are_told_by_name_and_take_no_memory(tmp_path, content, message):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.*({message})"):
        files.read(path)


def test_a_key_that_comes_twice_is_refused(tmp_path):
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "s").write_bytes(struct.pack("<Q", len(text)) + text + b"x")
    with pytest.raises(ValueError, match="the key 'a' twice"):
        files.read(tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("a.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", b"")
    with pytest.raises(ValueError, match=r"'a.npy' comes twice"):
        files.read(tmp_path / "z")


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    cyclic = {}
    cyclic["again"] = cyclic
    (tmp_path / "p").write_bytes(pickle.dumps(cyclic))
    with pytest.raises(ValueError, match="hold themselves"):
        files.read(tmp_path / "p")


@pytest.mark.full
def test_dicts_that_multiply_end(tmp_path):
    value = {"x": np.ones(1)}
    for _ in range(40):
        value = {"a": value, "b": value}
    (tmp_path / "p").write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match=r"more than|over"):
        files.read(tmp_path / "p")


def test_a_file_cut_short_while_open_is_an_error(tmp_path):
    files.write(tmp_path / "s.safetensors", {"a": np.ones(100000)})
    with files.read(tmp_path / "s.safetensors") as file:
        os.truncate(tmp_path / "s.safetensors", 1000)
        with pytest.raises(ValueError, match="cut short while it was open"):
            file.arrays["a"]


def test_only_what_is_asked_for_is_read(tmp_path):
    state = a_state(np.random.default_rng(0)) | {"huge": np.zeros(1 << 21)}
    files.write(tmp_path / "s.safetensors", state)
    with files.read(tmp_path / "s.safetensors") as file:
        file.layers()
        assert file._source.bytes_read < 4096


def test_an_eps_that_systems_differ_in_is_asked_for(tmp_path):
    names = {"gamma": 1, "beta": 0, "moving_mean": 2, "moving_variance": 3}
    files.write(tmp_path / "s.npz", {f"bn/{name}": np.full(4, value, np.float32) for name, value in names.items()})
    with files.read(tmp_path / "s.npz") as file:
        assert file.layers() == {}
        assert "Keras 1e-3, MindSpore 1e-5" in file.unknown["bn"]
        assert file.layers(eps=1e-3)["bn"].eps == 1e-3
