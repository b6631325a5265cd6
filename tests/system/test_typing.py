"""What a type checker knows of the public face: a user's program, checked as strictly as can be."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RIGHT = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastbn
from fastbn.layers import Layer

Array = NDArray[Any]
Statistics = NDArray[np.float64]

x = np.ones((4, 3), np.float32)
y, mean, rstd = fastbn.batch_norm_forward(x, activation="relu")
assert_type((y, mean, rstd), tuple[Array, Statistics, Statistics])
assert_type(fastbn.rms_norm_forward(x, 3), tuple[Array, Statistics])
assert_type(fastbn.channel_layer_norm_forward(x)[1], Statistics)
assert_type(fastbn.batch_norm_backward(y, x, mean, rstd), tuple[Array, Array, Array])
assert_type(fastbn.batch_norm_backward(y, x, mean, rstd, residual=x), tuple[Array, Array, Array, Array])
dx, dweight, dbias, dresidual = fastbn.group_norm_backward(y, x, mean, rstd, residual=x)
assert_type(fastbn.rms_norm_backward(y, x, rstd), tuple[Array, Array])
layers: list[Layer] = [
    fastbn.BatchNorm(3, activation=("leaky_relu", 0.1)),
    fastbn.GroupNorm(1, 3, axis=-1, activation="gelu"),
    fastbn.LayerNorm((3,), dtype="bfloat16"),
]
for layer in layers:
    x = layer(x)
    loaded = layer.load_state_dict(layer.state_dict(), prefix="")
    assert_type(loaded.missing_keys, list[str])
moments = fastbn.Moments(axis=(0, 1)).update(x)
assert_type(moments, fastbn.Moments)
assert_type(moments.mean, Statistics)
assert_type(moments.var(ddof=1), Statistics)
assert_type(fastbn.fold(x, None, fastbn.BatchNorm(4)), tuple[Array, Array])
"""

# Each of these lines is one error, of this kind.
WRONG = {
    'fastbn.BatchNorm(3, activation="swish")': "arg-type",
    'fastbn.layer_norm(x, 3, activation=("relu", 0.1))': "arg-type",
    "a, b, c = fastbn.batch_norm_backward(x, x, x, x, residual=x)": "misc",
    "a, b, c, d = fastbn.group_norm_backward(x, x, x, x)": "misc",
    "fastbn.GroupNorm(1.5, 3)": "arg-type",
    'fastbn.Moments(axis="last")': "arg-type",
    "fastbn.LayerNorm(3).weights": "attr-defined",
}


def checked(path):
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file="]
    command += [f"--cache-dir={path.parent / 'cache'}", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.full
def test_a_users_program_is_typed(tmp_path):
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(RIGHT)
    result = checked(right)
    assert result.returncode == 0, result.stdout + result.stderr
    wrong.write_text("\n".join(["import fastbn, numpy", "x = numpy.ones((4, 3))", *WRONG]) + "\n")
    errors = [line.split(":")[1] + line[line.rindex("[") :] for line in checked(wrong).stdout.splitlines()[:-1]]
    assert errors == [f"{number}[{kind}]" for number, kind in enumerate(WRONG.values(), 3)]
