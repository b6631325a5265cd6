"""Damaged files of every format: a clear error or the arrays, never another exception, and nothing executed."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbn import files

DATA = Path(__file__).parents[1] / "values" / "files" / "data"
FILES = (
    "chainer.npz", "darknet.cfg", "flax.msgpack", "gguf_rms.gguf", "haiku.pickle", "keras.keras", "keras.weights.h5",
    "keras_legacy.h5", "mindspore.ckpt", "mxnet-0000.params", "onnx_11.onnx", "onnx_21.onnx", "openvino.xml",
    "paddle_2.pdparams", "torch.pt", "torch_legacy.pt", "torch_strided.pt",
)  # fmt: skip
BESIDE = {"darknet.cfg": "darknet.weights", "openvino.xml": "openvino.bin", "mxnet-0000.params": "mxnet-symbol.json"}


def read_all(path):
    """What a user would do; a damaged file may also be read, if the damage is to a number."""
    try:
        with files.read(path, max_bytes=1 << 24) as file:
            for name in file.arrays:
                assert file.arrays[name].nbytes < 1 << 26
    except ValueError as error:
        if path.stem not in str(error):  # the file is named
            raise
        return
    with files.read(path) as file, contextlib.suppress(ValueError):
        assert isinstance(file.unknown, dict)
        file.layers()


def damaged(content, changes, cut):
    content = bytearray(content)
    for at, value in changes:
        content[at % len(content)] = value
    return bytes(content[: max(1, round(len(content) * cut))])


CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))),
    max_size=6,
)
CUTS = st.one_of(st.just(1.0), st.floats(0, 1))


@pytest.mark.parametrize("name", FILES)
def test_damaged(name, tmp_path):
    content = (DATA / name).read_bytes()
    if name in BESIDE:
        (tmp_path / BESIDE[name]).write_bytes((DATA / BESIDE[name]).read_bytes())

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(CHANGES, CUTS)
    def run(changes, cut):
        path = tmp_path / name
        path.write_bytes(damaged(content, changes, cut))
        read_all(path)

    run()


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
def test_damaged_often(name, tmp_path):
    """400 inputs a file."""
    content = (DATA / name).read_bytes()
    if name in BESIDE:
        (tmp_path / BESIDE[name]).write_bytes((DATA / BESIDE[name]).read_bytes())

    @settings(max_examples=400, suppress_health_check=list(HealthCheck))
    @given(CHANGES, CUTS)
    def run(changes, cut):
        path = tmp_path / name
        path.write_bytes(damaged(content, changes, cut))
        read_all(path)

    run()


@pytest.mark.parametrize("change", [(868, 1), (214, 3)], ids=["an axis that is a float", "an epsilon that is a string"])
def test_attributes_of_another_type_are_refused(change, tmp_path):
    path = tmp_path / "onnx_21.onnx"
    path.write_bytes(damaged((DATA / path.name).read_bytes(), [change], 1.0))
    with files.read(path) as file, pytest.raises(ValueError, match=r"attribute '\w+' has type \d; expected \d"):
        file.layers()
