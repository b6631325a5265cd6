"""fastbn inspect and fastbn fold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastbn import cli, files

DATA = Path(__file__).parent / "data"


def health(tmp_path, capsys, **changes):
    state = {
        "bn.weight": np.full(4, 2.0, np.float32),
        "bn.bias": np.ones(4, np.float32),
        "bn.running_mean": np.full(4, 0.5, np.float32),
        "bn.running_var": np.full(4, 2.0, np.float32),
        "bn.num_batches_tracked": np.array(3, np.int64),
    }
    state |= {f"bn.{name}": np.asarray(value) for name, value in changes.items()}
    files.write(tmp_path / "s.safetensors", state)
    assert cli.main(["inspect", str(tmp_path / "s.safetensors"), "--json"]) == 0
    (norm,) = json.loads(capsys.readouterr().out)["norms"]
    assert cli.main(["inspect", str(tmp_path / "s.safetensors")]) == 0
    table = capsys.readouterr().out
    assert all(found["finding"] in table and found["text"] in table for found in norm["health"])
    return {found["finding"]: found["where"] for found in norm["health"]}


def f4(*values):
    return np.array(values, np.float32)


def test_a_norm_in_good_health_has_no_finding(tmp_path, capsys):
    assert health(tmp_path, capsys) == {}
    assert health(tmp_path, capsys, running_var=f4(1e4, 1e4, 1e4, 1e4)) == {}


@pytest.mark.parametrize(
    ("finding", "where", "changes"),
    [
        (
            "untrained",
            "",
            {"running_mean": f4(0, 0, 0, 0), "running_var": f4(1, 1, 1, 1), "num_batches_tracked": np.int64(0)},
        ),
        ("dead", "1 of 4", {"running_var": f4(1, 1, 1e-12, 1)}),
        ("dead", "2 of 4", {"weight": f4(1, 0, 0, 1)}),
        ("negative", "1 of 4", {"running_var": f4(1, -654, 1, 1)}),
        ("not finite", "2 of 4", {"running_mean": f4(1, np.nan, 1, np.inf)}),
        ("eps decides", "1 of 4", {"running_var": f4(1, 1e-6, 1, 1)}),
        ("half", "float16, up to 0.31 off", {"running_mean": np.full(4, 101.5, np.float16)}),
        ("float16", "1 of 4", {"weight": f4(1, 1e5, 1, 1)}),
        ("float16", "1 of 4", {"bias": f4(1, 1e-9, 1, 1)}),
        ("cut off", "2 of 4", {"running_var": np.array([1e4, 1, 1e4, 9992], np.float16)}),
        ("large mean", "1 of 4", {"running_mean": f4(1, 1e4, 1, 1)}),
    ],
)
def test_each_finding(tmp_path, capsys, finding, where, changes):
    assert health(tmp_path, capsys, **changes)[finding] == where


def test_a_picture_is_drawn(tmp_path, capsys):
    assert cli.main(["inspect", str(DATA / "torch.pt"), "--png", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "1e-05 (assumed)" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "variances", [[[1, 2], [-1, 1], [np.nan, 1], [0, 1]], [[-1, -1]], []], ids=["some", "all", "none"]
)
def test_a_picture_of_statistics_that_no_scale_can_show(tmp_path, capsys, variances):
    state = {"norm.weight": np.ones(2)}
    for k, variance in enumerate(variances):
        name = "$x_{$\n\u4e00" * k + f"bn{k}"  # neither mathematics nor signs that the font lacks
        state |= {f"{name}.running_mean": np.ones(2), f"{name}.running_var": np.array(variance, float)}
    files.write(tmp_path / "s.safetensors", state)
    assert cli.main(["inspect", str(tmp_path / "s.safetensors"), "--png", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert f"{len(variances)} normalizations, 1 unknown" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind are POSIX's")
def test_a_reader_that_has_seen_enough(tmp_path):
    """As in: fastbn inspect FILE | head."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fastbn", "inspect", str(DATA / "torch.pt")]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=300)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_negative_variance_is_no_dead_channel(tmp_path, capsys):
    state = {"bn.running_mean": np.ones(3), "bn.running_var": np.array([-1.0, 1.0, 1.0])}
    files.write(tmp_path / "s.safetensors", state)
    assert cli.main(["inspect", str(tmp_path / "s.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "negative (1 of 3)" in out
    assert "dead" not in out


def test_names_do_not_command_the_terminal(tmp_path, capsys):
    files.write(tmp_path / "s.safetensors", {"\x1b[2J\u202e[red]\n.weight": np.ones(3)})
    assert cli.main(["inspect", str(tmp_path / "s.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[2J\\u202e[red]\\n:" in out
    assert all(c.isprintable() or c == "\n" for c in out)


def test_what_cannot_be_read_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "s").write_bytes(b"\xff\xd8 a picture")
    assert cli.main(["inspect", str(tmp_path / "s")]) == 2
    assert "none of the formats" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_fold_of_a_state_by_pairs(tmp_path, capsys):
    pairs = ["bn=conv.weight", "bn2=down.weight,groups=2", "bn3=up.weight,transposed,groups=2"]
    command = ["fold", str(DATA / "torch.pt"), "-o", str(tmp_path / "o.safetensors")]
    assert cli.main([*command, *(part for pair in pairs for part in ("--pair", pair))]) == 0
    told = {
        "bn": {"weight": "conv.weight"},
        "bn2": {"weight": "down.weight", "groups": 2},
        "bn3": {"weight": "up.weight", "transposed": True, "groups": 2},
    }
    with files.read(DATA / "torch.pt") as file, files.read(tmp_path / "o.safetensors") as folded:
        expected = file.fold(told)
        assert {name: value.tobytes() for name, value in folded.arrays.items()} == {
            name: value.tobytes() for name, value in expected.items()
        }
        assert not [name for name in folded.arrays if name.startswith("bn")]


def test_fold_of_onnx_is_onnx(tmp_path, capsys):
    assert cli.main(["fold", str(DATA / "onnx_17.onnx"), "-o", str(tmp_path / "o.onnx")]) == 0
    assert "3 of 3 batch norms folded" in capsys.readouterr().out
    with files.read(tmp_path / "o.onnx") as file:
        assert sorted(file.layers()) == [
            "/group/InstanceNormalization", "/instance/InstanceNormalization", "/layer/LayerNormalization",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.safetensors"], "--pair NORM=WEIGHT"),
        (["-o", "x.npz", "--pair", "bn"], "expected NORM=WEIGHT"),
        (["-o", "x.npz", "--pair", "bn=a", "--pair", "bn=b"], "same norm"),
        (["-o", "x.npz", "--pair", "other=conv.weight"], "no batch norm of the file"),
        (["-o", "x.npz", "--pair", "bn=other"], "no array of the file"),
        (["-o", "x.npz", "--pair", "bn=down.weight"], "8 channels"),
        (["-o", "x.pt", "--pair", "bn=conv.weight"], "expected .safetensors or .npz"),
        (["-o", "x.npz", "--pair", "bn=bn.weight"], "expected the weight of a convolution or linear map"),
    ],
)
def test_what_fold_refuses(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fold", str(DATA / "torch.pt"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_fold_of_a_quantized_model_is_refused_in_one_line(tmp_path, capsys):
    path, out = tmp_path / "s.npz", tmp_path / "o.npz"
    norm = {f"bn.{role}": np.ones(4) for role in ("weight", "bias", "running_mean", "running_var")}
    files.write(path, {"conv.weight": np.ones((4, 3), np.int8), **norm})
    assert cli.main(["fold", str(path), "-o", str(out), "--pair", "bn=conv.weight"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("fastbn fold: conv.weight has dtype int8; expected floats of 16, 32 or 64 bits")
    assert told.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("command", [["inspect", ""], ["fold", "", "-o", "o.npz"], ["fold", "s.npz", "-o", ""]])
def test_a_path_that_is_empty_is_not_the_folder_at_hand(command, capsys):
    """As of a variable that is not set."""
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2
    assert "names nothing; expected a path" in capsys.readouterr().err


def test_fold_does_not_overwrite_the_file_itself(tmp_path, capsys):
    path = tmp_path / "s.npz"
    files.write(path, {"a": np.ones(3)})
    os.link(path, tmp_path / "same.npz")
    for out in (path, tmp_path / "same.npz"):
        assert cli.main(["fold", str(path), "-o", str(out), "--pair", "a=b"]) == 2
        assert "the file itself" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["inspect", "{}"], ["fold", "{}", "-o", "out.npz"]])
def test_a_file_that_is_not_there_is_one_sentence(command, tmp_path, capsys):
    path = str(tmp_path / "nofile")
    assert cli.main([part.format(path) for part in command]) == 2
    assert capsys.readouterr().err == f"fastbn {command[0]}: cannot read {path}: No such file or directory\n"


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path, capsys):
    out = tmp_path / "none" / "out.npz"
    command = ["fold", str(DATA / "torch.pt"), "-o", str(out), "--pair", "bn=conv.weight"]
    assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert told == f"fastbn fold: cannot write {out}: No such file or directory\n"


def test_what_an_index_names_is_not_overwritten(tmp_path, capsys):
    state = {"bn.running_mean": np.ones(2), "bn.running_var": np.ones(2), "conv.weight": np.ones((2, 3))}
    files.write(tmp_path / "a.safetensors", state)
    content = (tmp_path / "a.safetensors").read_bytes()
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "a.safetensors")}))
    pair = ["--pair", "bn=conv.weight"]
    assert cli.main(["fold", str(index), "-o", str(tmp_path / "a.safetensors"), *pair]) == 2
    assert "is one of the files that the index names" in capsys.readouterr().err
    assert (tmp_path / "a.safetensors").read_bytes() == content
    assert cli.main(["fold", str(index), "-o", str(tmp_path / "b.safetensors"), *pair]) == 0


def test_a_file_without_batch_norms_says_so(tmp_path, capsys):
    assert cli.main(["fold", str(DATA / "gguf_rms.gguf"), "-o", str(tmp_path / "a.npz")]) == 2
    assert "there is no batch norm to fold; the norms in this file are of the kinds: rms" in capsys.readouterr().err


def test_a_name_that_the_terminal_has_no_signs_for(tmp_path):
    files.write(tmp_path / "s.safetensors", {"\u5c64.running_mean": np.ones(2), "\u5c64.running_var": np.ones(2)})
    command = [sys.executable, "-m", "fastbn", "inspect", str(tmp_path / "s.safetensors")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u5c64" in done.stdout
