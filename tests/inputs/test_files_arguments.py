"""What is said of arguments that do not fit, and of files that lead in circles or out of their folder."""

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
        ({"kinds": ["bn"]}, TypeError, "kinds is of type list; expected"),
        ({"kinds": {"layer": 1}}, TypeError, r"kinds\['layer'\] is of type int; expected what makes"),
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
    with pytest.raises(TypeError, match="arrays is of type list; expected a mapping from names to arrays"):
        files.write(tmp_path / "a.npz", [np.ones(2)])
    with pytest.raises(TypeError, match="the name 1 is of type int"):
        files.write(tmp_path / "a.npz", {1: np.ones(2)})
    assert not list(tmp_path.iterdir())


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
