"""What is said of arguments that do not fit, and of files that lead in circles or out of their folder."""

import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import fastbn
from fastbn import files

DATA = Path(__file__).parents[1] / "values" / "files" / "data"


@pytest.fixture
def file():
    with files.read(DATA / "torch.pt") as opened:
        yield opened


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"axis": 5}, ValueError, "axis is 5; expected 1 or -1"),
        ({"axis": "a"}, TypeError, "axis is 'a'"),
        ({"eps": "a"}, ValueError, "eps is 'a'; expected a number of at least 0"),
        ({"eps": -1}, ValueError, "eps is -1; expected a number of at least 0"),
        ({"eps": float("nan")}, ValueError, "eps is nan"),
        ({"eps": np.complex64(1 + 2j)}, ValueError, "eps is .*complex64.*; expected a number of at least 0"),
        ({"kinds": ["bn"]}, TypeError, "kinds is of type list; expected"),
        ({"kinds": {"layer": 1}}, TypeError, r"kinds\['layer'\] is of type int; expected what makes"),
        ({"kinds": {1: fastbn.LayerNorm}}, TypeError, "kinds has the key 1; expected names of norms, or patterns"),
        ({"kinds": {"layer": lambda shape: 3}}, TypeError, "an object of type int for layer"),
        ({"kinds": {"layer": lambda shape: fastbn.LayerNorm(3)}}, ValueError, "^layer: cannot load the state into"),
    ],
)
def test_arguments_of_layers(file, arguments, error, message):
    with pytest.raises(error, match=message):
        file.layers(**arguments)


def test_an_error_of_kinds_tells_the_norm(file):
    with pytest.raises(ValueError, match="expected a divisor of the 8 channels") as told:
        file.layers(kinds={"group": lambda shape: fastbn.GroupNorm(3, *shape)})
    assert told.value.__notes__ == ["while kinds made the layer group of a weight of shape (8,)"]


def test_arguments_of_state_fold_and_write(file, tmp_path):
    for layers in ([1], {"bn": 3}):
        with pytest.raises(TypeError, match=r"expected a (mapping from names to layers|layer of fastbn)"):
            file.state(layers)
    with pytest.raises(TypeError, match=r"pairs is of type str; expected \{norm: dict\(weight=name\)\}"):
        file.fold("bn=conv.weight")
    for pair in ({"weight": ["a"]}, {"weight": None}, {"weight": "conv.weight", "bias": 3}, {"bias": "conv.bias"}):
        with pytest.raises(ValueError, match=r"a pair is .*; expected dict\(weight=name, bias=name"):
            file.fold({"bn": pair})
    with pytest.raises(TypeError, match="arrays is of type list; expected a mapping from names to arrays"):
        files.write(tmp_path / "a.npz", [np.ones(2)])
    with pytest.raises(TypeError, match="the name 1 is of type int"):
        files.write(tmp_path / "a.npz", {1: np.ones(2)})
    for suffix in ("npz", "safetensors"):
        with pytest.raises(ValueError, match="has half a character, a surrogate; expected text that UTF-8 can hold"):
            files.write(tmp_path / f"a.{suffix}", {"a\udc80": np.ones(2)})
    assert not list(tmp_path.iterdir())


def test_a_path_is_text_or_bytes(tmp_path):
    path = os.fsencode(tmp_path / "a.npz")
    files.write(path, {"a": np.ones(2)})
    with files.read(path) as file:
        assert file.arrays["a"].tolist() == [1, 1]
    with (tmp_path / "a.npz").open("rb") as stream:
        for wrong in (stream, io.BytesIO(), 3, None):
            for call in (files.read, lambda path: files.write(path, {}, format="npz")):
                with pytest.raises(TypeError, match=f"path is of type {type(wrong).__name__}; expected the path of a"):
                    call(wrong)
    for call in (files.read, lambda path: files.write(path, {}, format="npz")):
        with pytest.raises(ValueError, match="path is empty; expected the path of a file"):
            call("")


@pytest.mark.parametrize("name", ["conv.weight", "conv.bias"])
@pytest.mark.parametrize("dtype", [np.int8, np.complex64])
def test_what_cannot_take_over_a_norm_is_named(tmp_path, name, dtype):
    """Weights of a quantized model, for one."""
    arrays = {"conv.weight": np.ones((4, 3, 1, 1), np.float32), "conv.bias": np.ones(4, np.float32)}
    arrays |= {f"bn.{role}": np.ones(4, np.float32) for role in ("weight", "bias", "running_mean", "running_var")}
    files.write(tmp_path / "a.safetensors", {**arrays, name: arrays[name].astype(dtype)})
    with files.read(tmp_path / "a.safetensors") as file:
        assert len(file.layers()) == 1
        with pytest.raises(ValueError, match=f"{name} has dtype {np.dtype(dtype)}; expected floats of 16, 32 or 64 b"):
            file.fold({"bn": {"weight": "conv.weight"}})


def test_statistics_that_are_complex_are_named(tmp_path):
    arrays = {"bn.running_mean": np.ones(4), "bn.running_var": np.ones(4, np.complex64)}
    files.write(tmp_path / "a.safetensors", arrays)
    with (
        files.read(tmp_path / "a.safetensors") as file,
        pytest.raises(ValueError, match=r"bn.running_var has dtype complex64; expected real numbers of the norm bn"),
    ):
        file.layers()


def test_an_index_that_names_itself_or_another_one(tmp_path):
    path = tmp_path / "m.safetensors.index.json"
    (tmp_path / "other.json").write_text(json.dumps({"weight_map": {"w": path.name}}))
    for name in (path.name, "other.json"):
        path.write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(ValueError, match=f"m.safetensors.index.json: it names {name}, which is an index itself"):
            files.read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    """Opening it would wait for someone who writes."""
    os.mkfifo(tmp_path / "m.pt")
    told = []

    def read():
        try:
            files.read(tmp_path / "m.pt")
        except ValueError as error:
            told.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(120)
    assert "no regular file" in told[0]


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="is a folder without _METADATA; expected a file, or a checkpoint of orbax"):
        files.read(tmp_path)


@pytest.mark.parametrize(("name", "other"), [("darknet.cfg", "darknet.weights"), ("openvino.xml", "openvino.bin")])
def test_a_file_beside_another_may_not_be_a_link_that_leads_elsewhere(tmp_path, name, other):
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(DATA / name, folder)
    shutil.copy(DATA / other, tmp_path)
    (folder / other).symlink_to(tmp_path / other)
    with pytest.raises(ValueError, match="not in its own folder"):
        files.read(folder / name)


def test_max_bytes_counts_what_is_read_again_once(tmp_path):
    path = tmp_path / "m.npz"
    np.savez_compressed(path, a=np.zeros(1000), b=np.zeros(1000))
    with files.read(path, max_bytes=17_000) as file:
        for _ in range(3):
            assert sum(array.nbytes for array in file.arrays.values()) == 16_000
    with files.read(path, max_bytes=15_000) as file, pytest.raises(ValueError, match="after 8128 before it"):
        dict(file.arrays)
