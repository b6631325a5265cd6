"""Files that the systems themselves wrote, read without these systems: a norm gives what the system gave.

The files and outputs in data/ were written by the scripts in tests/support/files, at the versions that these name.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import fastbn
from fastbn import files

DATA = Path(__file__).parent / "data"


def assert_same(layer, x, y):
    """To 1e-6 of the largest value; where the system itself is further from the truth than that, as near as it is."""
    truth = np.asarray(layer(x.astype(np.float64)))
    scale = max(1.0, float(np.abs(truth).max()))
    ours, theirs = np.abs(layer(x) - truth).max(), np.abs(y - truth).max()
    assert ours <= 1e-6 * scale
    assert np.abs(layer(x) - y).max() <= max(1e-6 * scale, 1.01 * theirs + ours)
    assert theirs <= 1e-5 * scale  # whatever the cause: another eps or another variance would be further off


def check(name, outputs, of, **options):
    """Every norm of `of`, by its name in the file and in the outputs; the arrays go back as they were."""
    seen = np.load(DATA / outputs)
    with files.read(DATA / name) as file:
        layers = file.layers(**options)
        for key, told in of.items():
            x = seen[f"{told}.x"] if f"{told}.x" in seen else seen["x"]
            y = seen[f"{told}.y"] if f"{told}.y" in seen else seen[told]
            assert_same(layers[key], x, y)
        for key, value in file.state(layers).items():
            assert value.dtype == file.arrays[key].dtype
            np.testing.assert_array_equal(value, file.arrays[key])
        assert layers.keys() == of.keys()
        return file.format


TORCH_KINDS = {
    "group": lambda shape: fastbn.GroupNorm(4, *shape),
    "instance": lambda shape: fastbn.InstanceNorm2d(*shape, affine=True),
    "layer": fastbn.LayerNorm,
    "rms": fastbn.RMSNorm,
}


@pytest.mark.parametrize("name", ["torch.pt", "torch_legacy.pt", "torch_checkpoint.pth"])
def test_torch(name):
    with files.read(DATA / name) as file:
        assert file.unknown.keys() == TORCH_KINDS.keys()
        layers = file.layers(kinds=TORCH_KINDS)
        assert list(layers) == ["bn", "bn2", "bn3", "group", "instance", "layer", "rms"]
        assert int(layers["bn"].num_batches_tracked) == 17
        layers = file.layers(eps=1e-3)
        seen = np.load(DATA / "torch.outputs.npz")
        assert_same(layers["bn2"], seen["bn2.x"], seen["bn2.y"])
    of = {name: name for name in ("bn", "bn3", "group", "instance", "layer", "rms")}
    with files.read(DATA / name) as file:
        layers = file.layers(kinds=TORCH_KINDS)
        for key in of:
            assert_same(layers[key], seen[f"{key}.x"], seen[f"{key}.y"])


@pytest.mark.parametrize("name", ["torch_strided.pt", "torch_strided_legacy.pt"])
def test_shared_storages_strides_and_dtypes(name):
    expected = np.load(DATA / "torch_strided.outputs.npz")
    with files.read(DATA / name) as file:
        assert {*file.arrays} | {"float8"} == {*expected}
        for key, value in file.arrays.items():
            np.testing.assert_array_equal(value.astype(expected[key].dtype), expected[key], err_msg=key)
        assert file.arrays["bfloat16"].dtype == file.arrays.dtype("bfloat16")
        assert file.arrays["half"].dtype == np.float16
        assert list(file.layers()) == ["bn"]


ONNX_OLD = {
    "/before/BatchNormalization": "before",
    "/group/InstanceNormalization": "group",
    "/instance/InstanceNormalization": "instance",
    "/layer/LayerNormalization": "layer",
    "/bn3/BatchNormalization": "bn3",
    "/bn4/BatchNormalization": "bn4",
}
ONNX_NEW = {
    "node__native_batch_norm_legit_no_training__0": "before",
    "node_group_norm": "group",
    "node_instance_norm": "instance",
    "node_layer_norm": "layer",
    "node_mul_1": "rms",
}
ONNX = {
    "onnx_11": {k.replace("layer/LayerNormalization", "layer/Add_1"): v for k, v in ONNX_OLD.items()},
    "onnx_17": ONNX_OLD,
    "onnx_18": {k.replace("group_norm", "InstanceNormalization_32"): v for k, v in ONNX_NEW.items()},
    "onnx_21": ONNX_NEW,
    "onnx_23": {k.replace("mul_1", "rms_norm"): v for k, v in ONNX_NEW.items()},
}


@pytest.mark.parametrize("name", list(ONNX))
def test_onnx(name):
    assert check(f"{name}.onnx", f"{name}.outputs.npz", ONNX[name]) == "onnx"


FLAX_KINDS = {"final": lambda shape: fastbn.LayerNorm(shape, 1e-6)}


def test_flax():
    assert check("flax.msgpack", "flax.outputs.npz", {"stem": "stem", "final": "final"}, kinds=FLAX_KINDS) == "flax"
    with files.read(DATA / "flax_bfloat16.msgpack") as file, files.read(DATA / "flax.msgpack") as full:
        for key, value in file.arrays.items():
            np.testing.assert_array_equal(value, full.arrays[key].astype(value.dtype))
            assert value.dtype.name == "bfloat16"


@pytest.mark.parametrize("name", ["nnx.pickle", "nnx.msgpack", "nnx_value.msgpack"])
def test_nnx(name):
    check(name, "nnx.outputs.npz", {"bn": "bn"})


@pytest.mark.parametrize("name", ["haiku.pickle", "haiku_dict.pickle", "haiku_numpy.pickle"])
def test_haiku(name):
    check(name, "haiku.outputs.npz", {"stem": "stem"})


KERAS = {"stem_bn": "stem_bn", "group": "group", "layer": "layer", "rms": "rms", "bn2": "bn2", "bn3": "bn3"}
KERAS_MORE = {"bn4": "bn4", "inner_bn": "inner_bn", "renorm": "renorm"}


@pytest.mark.parametrize("name", ["keras.keras", "keras_legacy.h5"])
def test_keras(name):
    assert check(name, "keras.outputs.npz", KERAS) == name.split(".")[0].replace("legacy", "h5")
    more = name.replace("keras", "keras_more", 1)
    check(more, "keras_more.outputs.npz", KERAS_MORE)
    with files.read(DATA / more) as file:
        assert list(file.unknown) == ["scaled"]
        assert "not centred" in file.unknown["scaled"]


def test_keras_weights_without_a_config():
    """eps, groups and which of gamma and beta there is are not in the file."""
    of = {"group": "group", "layer": "layer", "rms": "rms"}
    kinds = {"group": lambda shape: fastbn.GroupNorm(4, *shape, 1e-3, axis=-1)}
    with files.read(DATA / "keras.weights.h5") as file:
        assert file.format == "keras_weights"
        assert file.unknown.keys() == {"group", "bn2", "bn3"}
        layers = file.layers(kinds=kinds)
        seen = np.load(DATA / "keras.outputs.npz")
        for key in of:
            assert_same(layers[key], seen[f"{key}.x"], seen[f"{key}.y"])
        assert layers["stem_bn"].eps == 1e-3
        assert_same(file.layers(eps=2e-3)["stem_bn"], seen["stem_bn.x"], seen["stem_bn.y"])
    more = {key: key for key in KERAS_MORE}
    check("keras_more.weights.h5", "keras_more.outputs.npz", more)


def windows(x, size):
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))


@pytest.mark.parametrize("name", ["keras.keras", "keras_legacy.h5"])
def test_keras_folds_by_its_config(name):
    seen = np.load(DATA / "keras.outputs.npz")
    with files.read(DATA / name) as file:
        folded = file.fold()
        legacy = file.format == "keras_h5"
        assert {key for key in file.arrays if key not in folded} >= {
            "model_weights/bn2/bn2/beta"
            if legacy
            else next(key for key in file.arrays if "batch_normalization/vars/0" in key)
        }
    of = ("conv2d", "conv2d_1", "conv2d_transpose")

    def arrays(k, layer):
        if legacy:
            return folded[f"model_weights/{layer}/{layer}/kernel"], folded[f"model_weights/{layer}/{layer}/bias"]
        return folded[f"layers/{of[k]}/vars/0"], folded[f"layers/{of[k]}/vars/1"]

    kernel, bias = arrays(0, "stem")
    y = np.einsum("nhwcij,ijco->nhwo", windows(seen["x"], 3), kernel) + bias
    np.testing.assert_allclose(y, seen["stem_bn.y"], atol=1e-5)
    kernel, bias = arrays(1, "conv2")
    np.testing.assert_allclose(seen["rms.y"] @ kernel[0, 0] + bias, seen["bn2.y"], atol=1e-5)
    kernel, bias = arrays(2, "up")
    y = np.einsum("nhwc,ijoc->nhiwjo", seen["bn2.y"], kernel).reshape(seen["bn3.y"].shape) + bias
    np.testing.assert_allclose(y, seen["bn3.y"], atol=1e-5)


@pytest.mark.parametrize("name", ["keras_before.keras", "keras_before_legacy.h5"])
def test_keras_folds_into_the_layer_behind(name):
    seen = np.load(DATA / "keras_before.outputs.npz")
    with files.read(DATA / name) as file:
        folded = file.fold()
    norms = [key for key in folded if "bn_" in key or "batch_normalization" in key]
    assert len(norms) == 4  # zeros pad the output of the third
    assert all("/bn_same/" in key or "batch_normalization_2" in key for key in norms)

    def arrays(layer, own):
        """Its kernel and bias, by the layer's name or by its place."""
        found = [value for key, value in folded.items() if f"/{layer}/" in key or f"/{own}/vars/" in key]
        return sorted(found, key=lambda value: -value.ndim)

    kernel, bias = arrays("valid", "conv2d")
    y = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows(seen["bn_valid.x"], 3), kernel) + bias, 0)
    np.testing.assert_allclose(y, seen["bn_depthwise.x"], atol=1e-5)
    kernel, bias = arrays("depthwise", "depthwise_conv2d")
    y = np.einsum("nhwcij,ijcm->nhwcm", windows(seen["bn_depthwise.x"], 2), kernel).reshape(seen["bn_same.x"].shape)
    np.testing.assert_allclose(np.maximum(y + bias, 0), seen["bn_same.x"], atol=1e-5)
    kernel, bias = arrays("dense", "dense")
    np.testing.assert_allclose(np.tanh(seen["bn_dense.x"] @ kernel + bias), seen["y"], atol=1e-5)


@pytest.mark.parametrize("name", ["keras_more.keras", "keras_more_legacy.h5"])
def test_keras_folds_depthwise_and_nested(name):
    seen = np.load(DATA / "keras_more.outputs.npz")
    with files.read(DATA / name) as file:
        folded = file.fold()
    kernel = next(value for key, value in folded.items() if "depthwise" in key and value.ndim == 4)
    bias = next(value for key, value in folded.items() if "depthwise" in key and value.ndim == 1)
    y = np.einsum("nhwcij,ijcm->nhwcm", windows(seen["x"], 3), kernel).reshape(seen["bn4.y"].shape) + bias
    np.testing.assert_allclose(y, seen["bn4.y"], atol=1e-5)
    inner = [value for key, value in folded.items() if ("inner_dense" in key or "sequential/layers/dense" in key)]
    kernel, bias = sorted(inner, key=lambda value: -value.ndim)
    np.testing.assert_allclose(seen["bn4.y"].mean((1, 2)) @ kernel + bias, seen["inner_bn.y"], atol=1e-5)


def test_mxnet_counts_gamma_as_the_symbol_says():
    assert check("mxnet-0000.params", "mxnet.outputs.npz", {"fixed": "fixed", "free": "free"}) == "mxnet"
    check("mxnet_gluon.params", "mxnet.outputs.npz", {"0": "gluon"})
    with files.read(DATA / "mxnet_alone.params") as file:
        assert file.layers() == {}
        assert all("fix_gamma" in why for why in file.unknown.values())
        layers = file.layers(kinds={"free": lambda shape: fastbn.BatchNorm(*shape, 2e-3)})
        seen = np.load(DATA / "mxnet.outputs.npz")
        assert_same(layers["free"], seen["x"], seen["free"])


def test_chainer():
    of = {"bn": "bn", "layer": "layer"}
    assert check("chainer.npz", "chainer.outputs.npz", of, kinds={"layer": fastbn.LayerNorm}) == "chainer"


@pytest.mark.parametrize("name", ["paddle.pdparams", "paddle_2.pdparams"])
def test_paddle(name):
    of = {"bn": "bn", "bn1": "bn1", "layer": "layer"}
    assert check(name, "paddle.outputs.npz", of, kinds={"layer": fastbn.LayerNorm}) == "paddle"
    seen = np.load(DATA / "paddle.outputs.npz")
    with files.read(DATA / name) as file:
        folded = file.fold({"bn": {"weight": "conv.weight"}, "bn1": {"weight": "linear.weight"}})
    y = np.einsum("nchw,oc->nohw", seen["image"], folded["conv.weight"][:, :, 0, 0])
    np.testing.assert_allclose(y + folded["conv.bias"][:, None, None], seen["bn.y"], atol=1e-5)
    y = seen["rows"] @ folded["linear.weight"] + folded["linear.bias"]  # (in, out)
    np.testing.assert_allclose(y, seen["bn1.y"], atol=1e-5)


def test_mindspore():
    kinds = {"layer": lambda shape: fastbn.LayerNorm(shape, 1e-7)}
    of = {"bn": "bn", "layer": "layer"}
    assert check("mindspore.ckpt", "mindspore.outputs.npz", of, kinds=kinds) == "mindspore"


def test_gguf():
    of = {"blk.0.attn_norm": "attn", "output_norm": "output"}
    assert check("gguf_rms.gguf", "gguf.outputs.npz", of) == "gguf"
    check("gguf_layer.gguf", "gguf.outputs.npz", {"blk.0.attn_norm": "layer"})
    with files.read(DATA / "gguf_rms.gguf") as file, pytest.raises(ValueError, match="quantized"):
        file.arrays["blk.0.attn_k.weight"]


def test_openvino():
    """The shift of the last batch norm has taken in the bias of the map before it."""
    seen = np.load(DATA / "onnx_17.outputs.npz")
    names = {
        "/before/BatchNormalization": "before",
        "/group/Add": "group",
        "/instance/InstanceNormalization": "instance",
        "/layer/LayerNormalization": "layer",
    }
    for name, most in (("openvino.xml", None), ("openvino_half.xml", 1e-3)):  # its weights are float16
        with files.read(DATA / name) as file:
            assert file.format == "openvino"
            layers = file.layers()
            assert layers.keys() == {*names, "66"}
            for key, told in names.items():
                x, y = seen[f"{told}.x"], seen[f"{told}.y"]
                if most is None:
                    assert_same(layers[key], x, y)
                assert np.abs(layers[key](x) - y).max() <= (most or 1e-4) * np.abs(y).max()
    check("openvino_kept.xml", "openvino_kept.outputs.npz", {"bn": "bn"})


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        ("/before/BatchNormalization", "1, 3"),
        ("66", "1, 5, 1"),
        ("/group/Add", "1, 1, 8, 1"),
        ("/instance/InstanceNormalization", "8, 1"),
        ("/layer/LayerNormalization", "1, 1, 6, 1"),
    ],
)
def test_openvino_takes_a_bias_only_where_it_lies_as_the_weight_does(tmp_path, norm, shape):
    """As many numbers, but broadcast along other axes."""
    shutil.copy(DATA / "openvino.bin", tmp_path)
    text = (DATA / "openvino.xml").read_text()
    with files.read(DATA / "openvino.xml") as file:
        bias = file._norms()[0][norm].arrays["bias"]
    told = re.search(rf'(name="{bias}" type="Const"[^<]*<data element_type="f32" shape=")([^"]*)', text)
    (tmp_path / "openvino.xml").write_text(text[: told.start(2)] + shape + text[told.end(2) :])
    with files.read(tmp_path / "openvino.xml") as file:
        assert norm not in file.layers()


@pytest.mark.parametrize("name", ["darknet.weights", "darknet.cfg"])
def test_darknet(name):
    assert check(name, "darknet.outputs.npz", {"0.convolutional": "bn"}) == "darknet"
    seen = np.load(DATA / "darknet.outputs.npz")
    with files.read(DATA / name) as file:
        folded = file.fold()
        padded = np.pad(seen["image"], ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows_of = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    y = np.einsum("nchwij,ocij->nohw", windows_of, folded["0.convolutional.weights"])
    y = y + folded["0.convolutional.bias"][:, None, None]
    np.testing.assert_allclose(y, seen["bn.y"], atol=1e-5)


def test_legacy_files_of_tf_keras():
    of = {"stem_bn": "stem_bn", "layer": "layer"}
    assert check("tf_keras.h5", "tf_keras.outputs.npz", of) == "keras_h5"
    kinds = {"layer": lambda shape: fastbn.LayerNorm(shape, 1e-3)}  # of weights alone, the class is not known
    check("tf_keras_weights.h5", "tf_keras.outputs.npz", of, kinds=kinds)
    with files.read(DATA / "tf_keras.h5") as file:
        folded = file.fold()
    seen = np.load(DATA / "tf_keras.outputs.npz")
    kernel, bias = (folded[f"model_weights/stem/stem/{name}:0"] for name in ("kernel", "bias"))
    y = np.einsum("nhwcij,ijco->nhwo", windows(seen["x"], 3), kernel) + bias
    np.testing.assert_allclose(y, seen["stem_bn.y"], atol=1e-5)


def test_safetensors():
    seen = np.load(DATA / "package.outputs.npz")
    with files.read(DATA / "package.safetensors") as file:
        for key, value in file.arrays.items():
            np.testing.assert_array_equal(value.astype(np.float64), seen[key])
        assert file.arrays["bn.weight"].dtype.name == "bfloat16"
        assert file.arrays["float8"].dtype.name == "float8_e4m3fn"
    assert check("package.safetensors", "package.outputs.npz", {"bn": "bn"}) == "safetensors"
