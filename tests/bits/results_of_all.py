"""A program that prints a digest of what every function of fastbn returns: run by test_numpy_paths.py."""

import hashlib

import numpy as np

import fastbn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 6, 5, 7), np.float32) * 3 + 10
DY = RNG.standard_normal(X.shape, np.float32)
DDX = RNG.standard_normal(X.shape, np.float32)
ROWS, DROWS, DDROWS = X.reshape(24, 35), DY.reshape(24, 35), DDX.reshape(24, 35)
W, B = RNG.standard_normal(6, np.float32) + 2, RNG.standard_normal(6, np.float32)
WR, BR = RNG.standard_normal(35, np.float32) + 2, RNG.standard_normal(35, np.float32)
MEAN, VAR = np.full(6, 9.5, np.float32), np.full(6, 8.0, np.float32)
WHERE = RNG.random(X.shape) < 0.7
MORE = RNG.integers(-1000, 1000, X.shape)
F = fastbn


def pairs():
    """Forward functions and what their backward and double backward take."""
    yield "batch_norm", (X, W, B), DY, DDX, {}, (W,)
    yield "group_norm", (X, 3, W, B), DY, DDX, {}, (W,)
    yield "instance_norm", (X, W, B), DY, DDX, {}, (W,)
    yield "layer_norm", (ROWS, 35, WR, BR), DROWS, DDROWS, {}, (WR,)
    yield "rms_norm", (ROWS, 35, WR), DROWS, DDROWS, {}, (WR,)
    yield "add_layer_norm", (ROWS, DROWS, 35, WR, BR), DDROWS, None, {}, (WR,)
    yield "add_rms_norm", (ROWS, DROWS, 35, WR), DDROWS, None, {}, (WR,)
    yield "channel_layer_norm", (X, W, B), DY, None, {}, (W,)
    yield "channel_rms_norm", (X, W), DY, None, {}, (W,)


def results():
    """The name of each function, and what it returns."""
    for name, args, dy, ddx, named, weights in pairs():
        forward = getattr(F, f"{name}_forward")(*args, **named)
        yield f"{name}_forward", forward
        if name.startswith("add_"):
            _, total, *statistics = forward
            yield f"{name}_backward", getattr(F, f"{name}_backward")(dy, None, total, *statistics, *weights)
            yield name, getattr(F, name)(*args)
            continue
        yield f"{name}_backward", getattr(F, f"{name}_backward")(dy, args[0], *forward[1:], *weights)
        if ddx is not None:
            yield (
                f"{name}_double_backward",
                getattr(F, f"{name}_double_backward")(ddx, dy, args[0], *forward[1:], *weights),
            )
        if name not in ("batch_norm", "instance_norm"):
            yield name, getattr(F, name)(*args)
    for activation in ("relu", "silu", "gelu", "gelu_tanh", "sigmoid"):
        yield f"batch_norm {activation}", F.batch_norm(X, MEAN, VAR, W, B, activation=activation)
    yield "batch_norm", F.batch_norm(X, MEAN, VAR, W, B)
    yield "instance_norm", F.instance_norm(X, None, None, W, B)
    yield "ghost_batch_norm_forward", (ghost := F.ghost_batch_norm_forward(X, 2, W, B))
    yield "ghost_batch_norm_backward", F.ghost_batch_norm_backward(DY, X, *ghost[1:3], 2, W)
    yield "batch_renorm_forward", (renorm := F.batch_renorm_forward(X, MEAN.copy(), VAR.copy(), W, B))
    yield "batch_renorm_backward", F.batch_renorm_backward(DY, X, *renorm[1:], W)
    yield "weight_standardization", F.weight_standardization(X)
    yield "weight_standardization_forward", (standard := F.weight_standardization_forward(X))
    yield "weight_standardization_backward", F.weight_standardization_backward(DY, X, *standard[1:])
    yield "global_response_norm", F.global_response_norm(X, W, B)
    yield "global_response_norm_forward", (response := F.global_response_norm_forward(X, W, B))
    yield "global_response_norm_backward", F.global_response_norm_backward(DY, X, *response[1:], W)
    tau = np.zeros(6, np.float32)
    yield "filter_response_norm", F.filter_response_norm(X, W, B, tau)
    yield "filter_response_norm_forward", (filtered := F.filter_response_norm_forward(X, W, B, tau))
    yield "filter_response_norm_backward", F.filter_response_norm_backward(DY, X, *filtered[1:], W, B, tau)
    for beta in (0.75, 0.6, 1.0):
        for dtype in (np.float16, np.float32, np.float64):
            x, dy = X.astype(dtype), DY.astype(dtype)
            yield f"local_response_norm {beta} {dtype.__name__}", F.local_response_norm(x, 3, 0.1, beta)
            yield (
                f"local_response_norm_backward {beta} {dtype.__name__}",
                F.local_response_norm_backward(dy, x, 3, 0.1, beta),
            )
    layer = F.BatchNorm2d(4)
    layer.running_mean[...], layer.running_var[...], layer.weight[...] = MEAN[:4], VAR[:4], W[:4]
    yield "fold", F.fold(DDX, B[:4], layer)
    yield from of_moments()


def of_moments():
    ways = {"all": {}, "where": {"where": WHERE}, "weights": {"weights": np.abs(DDX)}}
    for way, named in ways.items():
        for axis in (1, -1, (1, 3), ()):
            for x in (X, X.astype(np.float64) * 1e3, X.astype(np.float16), MORE):
                moments = F.Moments(axis).update(x, **named)
                moments += F.Moments(axis).update(X, **named)
                state = [np.float64(v) for v in moments.to_dict().get("float", {"": 0}).values()]
                name = f"Moments {way} {axis} {x.dtype}"
                yield name, (moments.mean, moments.var(1), moments.std(), moments.normalize(x), *state)
    yield "dataset_statistics", (F.dataset_statistics(X).std(),)
    huge = F.Moments().update(X.astype(np.float64) * 1e300)
    yield "Moments huge", (huge.std(), huge.normalize(X.astype(np.float64) * 1e300))
    for axis in (1, 3):
        for layout in (None, "channels_last"):
            m, s = (v[: X.shape[axis]] for v in (np.arange(7.0), np.arange(7.0) + 0.3))
            for x in (MORE, MORE.astype(np.uint8), X):
                name = f"normalize {axis} {layout} {x.dtype}"
                yield name, (y := F.normalize(x, m, s, axis=axis, scale=1 / 255, layout=layout))
                yield f"de{name}", F.denormalize(y, 1.0, 2.0, dtype=np.uint8)


def digest(value):
    h = hashlib.sha256()
    for v in value if isinstance(value, tuple | list) else (value,):
        h.update(np.ascontiguousarray(v).tobytes() if v is not None else b"none")
    return h.hexdigest()


if __name__ == "__main__":
    for name, value in results():
        print(name, digest(value))
