"""Folding: against torch's convolutions and batch norm, and a linear map in NumPy."""

import numpy as np
import pytest

import fastbn

CLOSE = {np.float32: 1e-6, np.float64: 1e-14}  # relative to the largest output


def statistics(channels, affine=True, bias=True, dtype=np.float64):
    rng = np.random.default_rng(5)
    mean, var = rng.normal(0, 1, channels).astype(dtype), rng.uniform(0.5, 2, channels).astype(dtype)
    weight, shift = (rng.normal(1, 0.5, channels).astype(dtype) for _ in range(2))
    return mean, var, weight if affine else None, shift if affine and bias else None, 1e-3


def normalized(x, bn):
    mean, var, weight, bias, eps = (v if v is None or np.isscalar(v) else v.astype(np.float64) for v in bn)
    return fastbn.batch_norm(x, mean, var, weight, bias, eps=eps)


def assert_close(y, expected, dtype):
    assert y.shape == expected.shape
    assert abs(y - expected).max() <= CLOSE[dtype] * abs(expected).max()


@pytest.mark.system("torch")
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolution(rank, transposed, groups, before, dtype):
    import torch

    rng = np.random.default_rng(rank)
    inputs, outputs, kernel = 4, 8, (2, 3, 2)[:rank]
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    weight = rng.normal(0, 1, (*shape, *kernel)).astype(dtype)
    bias = rng.normal(0, 1, outputs).astype(dtype) if groups != 2 else None
    bn = statistics(inputs if before else outputs, affine=groups != 4, bias=rank != 2, dtype=dtype)
    folded_weight, folded_bias = fastbn.fold(weight, bias, bn, transposed=transposed, groups=groups, before=before)
    assert (folded_weight.dtype, folded_bias.dtype) == (dtype, dtype)

    # Of transposed convolutions, those with this padding let every output see the whole kernel.
    padding = [k - 1 for k in kernel] if transposed else 0 if before else 1
    name = f"conv{'_transpose' * transposed}{rank}d"

    def convolved(x, weight, bias):
        w, b = torch.from_numpy(weight.astype(np.float64)), None if bias is None else torch.from_numpy(bias).double()
        return getattr(torch.nn.functional, name)(torch.from_numpy(x), w, b, padding=padding, groups=groups).numpy()

    x = rng.normal(0, 1, (2, inputs, 5, 6, 4)[: rank + 2])
    expected = convolved(normalized(x, bn), weight, bias) if before else normalized(convolved(x, weight, bias), bn)
    assert_close(convolved(x, folded_weight, folded_bias), expected, dtype)


@pytest.mark.system("torch")
def test_transposed_convolution_of_any_stride_with_batch_norm_behind_it():
    import torch

    rng = np.random.default_rng(0)
    conv = torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2).double()
    norm = torch.nn.BatchNorm2d(6).double().eval()
    layer = fastbn.BatchNorm2d(6, dtype=np.float64)
    layer.load_state_dict(
        dict(zip(("running_mean", "running_var", "weight", "bias"), statistics(6), strict=False)), False
    )
    norm.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    x = torch.from_numpy(rng.normal(0, 1, (2, 4, 5, 5)))
    with torch.no_grad():
        expected = norm(conv(x)).numpy()
        weight, bias = fastbn.fold(conv.weight.numpy(), conv.bias.numpy(), layer, transposed=True, groups=2)
        conv.weight[...], conv.bias[...] = torch.from_numpy(weight), torch.from_numpy(bias)
        assert_close(conv(x).numpy(), expected, np.float64)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("before", [False, True])
def test_linear(before, dtype):
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(0, 1, (7, 5)).astype(dtype), rng.normal(0, 1, 7).astype(dtype)
    layer = fastbn.BatchNorm1d(5 if before else 7, dtype=dtype).eval()
    layer.running_mean[...], layer.running_var[...], layer.weight, layer.bias, _ = statistics(layer.num_features)
    w, b = fastbn.fold(weight, bias, layer, before=before)
    x = rng.normal(0, 1, (9, 5))
    exact = [None if v is None else v.astype(np.float64) for v in (layer.running_mean, layer.running_var)]
    bn = (*exact, layer.weight, layer.bias, layer.eps)
    expected = normalized(x, bn) @ weight.T + bias if before else normalized(x @ weight.T + bias, bn)
    assert_close(x @ w.astype(np.float64).T + b, expected, dtype)


def test_is_rounded_once():
    mean, var, weight = statistics(4)[:3]
    w, b = np.random.default_rng(3).normal(0, 1, (2, 4, 3)).astype(np.float16)
    exact = fastbn.fold(w.T.astype(np.float64), b[:3, 0].astype(np.float64), (mean[:3], var[:3], weight[:3]))
    half = fastbn.fold(w.T, b[:3, 0], (mean[:3], var[:3], weight[:3]))
    for a, e in zip(half, exact, strict=True):
        np.testing.assert_array_equal(a, e.astype(np.float16))


def test_layer_of_running_instance_norm():
    layer = fastbn.InstanceNorm1d(3, track_running_stats=True, dtype=np.float64).eval()
    layer.running_mean[...], layer.running_var[...] = statistics(3)[:2]
    w, b = fastbn.fold(np.eye(3), None, layer)
    x = np.random.default_rng(4).normal(0, 1, (2, 3, 5))
    assert_close(w @ x + b[:, None], layer(x), np.float64)


W = np.ones((4, 2, 3))


@pytest.mark.parametrize(
    ("error", "message", "weight", "bias", "bn", "more"),
    [
        (ValueError, "keeps no running statistics", W, None, fastbn.BatchNorm1d(4, track_running_stats=False), {}),
        (
            ValueError,
            "activation 'relu', which no convolution takes over; expected .*bn.running_mean",
            W,
            None,
            fastbn.BatchNorm1d(4, activation="relu"),
            {},
        ),
        (
            ValueError,
            "activation 'relu', which lies between",
            W,
            None,
            fastbn.BatchNorm1d(2, activation="relu"),
            {"before": True},
        ),
        (TypeError, "bn is of type LayerNorm; expected", W, None, fastbn.LayerNorm(4), {}),
        (TypeError, "bn is of type NoneType; expected", W, None, None, {}),
        (TypeError, "bn is of type tuple; expected", W, None, (np.ones(4),), {}),
        (
            ValueError,
            r"running_mean has shape \(4,\); expected \(2,\)",
            W,
            None,
            fastbn.BatchNorm1d(4),
            {"before": True},
        ),
        (ValueError, r"running_var has shape \(3,\)", W, None, (np.ones(4), np.ones(3)), {}),
        (ValueError, r"running_mean is None", W, None, (None, np.ones(4)), {}),
        (ValueError, r"weight has shape \(1,\)", W, None, (np.ones(4), np.ones(4), np.ones(1)), {}),
        (ValueError, r"running_var \+ eps is -1.0", W, None, (np.ones(4), -np.ones(4), None, None, 0), {}),
        (ValueError, "eps is -1", W, None, (np.ones(4), np.ones(4), None, None, -1), {}),
        (ValueError, r"conv_bias has shape \(3,\); expected \(4,\)", W, np.ones(3), fastbn.BatchNorm1d(4), {}),
        (
            ValueError,
            r"conv_bias has shape \(4,\); expected \(2,\)",
            W,
            np.ones(4),
            fastbn.BatchNorm1d(2),
            {"transposed": 1},
        ),
        (ValueError, "groups is 3; expected a divisor of 4", W, None, fastbn.BatchNorm1d(4), {"groups": 3}),
        (ValueError, "groups is 0", W, None, fastbn.BatchNorm1d(4), {"groups": 0}),
        (TypeError, "groups is 1.5", W, None, fastbn.BatchNorm1d(4), {"groups": 1.5}),
        (ValueError, r"conv_weight has shape \(4,\)", np.ones(4), None, fastbn.BatchNorm1d(4), {}),
        (TypeError, "conv_weight has dtype int64", np.ones((4, 4), np.int64), None, fastbn.BatchNorm1d(4), {}),
    ],
)
def test_refuses_by_name(error, message, weight, bias, bn, more):
    with pytest.raises(error, match=message):
        fastbn.fold(weight, bias, bn, **more)
