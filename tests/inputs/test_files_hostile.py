"""Pickles that are made to take memory or time: refused, each within a second or two and some megabytes."""

import io
import pickle
import subprocess
import sys
import time
import zipfile

import internals
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbn import files

START = b"\x80\x02"


def text(content):
    return b"X" + len(content.encode()).to_bytes(4, "little") + content.encode()


def name_of(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def tensor(offset=b"K\x00", shape=b"K\x01\x85"):
    storage = (
        b"(" + text("storage") + name_of("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
    )  # of 4 elements
    return name_of("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + offset + shape + b"K\x01\x85\x89NtR"


# A tuple of a tuple twice, and so on: 300 bytes, of which the text, the hash or a copy would take 2**60 steps.
DOUBLED = b"K\x01\x85" + b"q\x00h\x00\x86" * 60
MANY = 300_000
LONG = b"]q\x00(" + b"N" * 1_000_000 + b"e0"
SUBCLASS = name_of("torch._tensor", "_rebuild_from_type_v2")
NUMPY_ARRAY = name_of("numpy.core.multiarray", "_reconstruct") + name_of("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R"


def called_on_one(module, name, argument):
    """A function called on the same value, which memo 0 holds, again and again."""
    return START + argument + name_of(module, name) + b"q\x010(" + b"h\x01h\x00\x85R" * MANY + b"t."


def array_of(dtype):
    return (
        START + b"}" + text("w") + NUMPY_ARRAY + b"(K\x01K\x01\x85" + name_of("numpy", "dtype") + text(dtype)
    ) + b"\x85R\x89U\x04aaaatbs."


PICKLES = {
    "a name": (START + DOUBLED + text("a") + b"\x93.", "whose name is no text"),
    "a shape": (START + b"}" + text("w") + tensor(shape=DOUBLED) + b"s.", "expected integers of at least 0"),
    "an offset": (START + b"}" + text("w") + tensor(offset=DOUBLED) + b"s.", "the offset of tensor 'w'"),
    "a key": (
        START + name_of("collections", "OrderedDict") + b"]" + DOUBLED + b"N\x86a\x85R.",
        "a key that is of type tuple",
    ),
    "an encoding": (START + name_of("_codecs", "encode") + text("a") + DOUBLED + b"\x86R.", "no text of latin1"),
    "sets of one list": (called_on_one("builtins", "set", LONG), "over 500000 values"),
    "dicts of one list": (
        called_on_one(
            "collections",
            "OrderedDict",
            b"]q\x00(" + b"".join(b"J" + k.to_bytes(4, "little") + b"N\x86" for k in range(100_000)) + b"e0",
        ),
        "over 500000 values",
    ),
    "bytes of one text": (called_on_one("_codecs", "encode", text("a" * (1 << 20)) + b"q\x000"), "read 0"),
    "arguments": (
        START + b"(" + b"N" * 1_000_000 + b"t" + name_of("builtins", "tuple") + b"q\x010q\x00h\x01h\x00R.",
        "with 1000000 arguments; expected at most 16",
    ),
    "a list in itself": (START + b"]q\x00(h\x00" + b"N" * 1_000_000 + b"e.", "containers hold themselves"),
    "a long name": (START + b"}" + text("a" * (1 << 20)) + b"Ns.", "a name of over 4096 characters"),
    "keys of one hash": (
        START
        + b"}("
        + b"".join(b"\x8a\x0a" + (k * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for k in range(1, 100_000))
        + b"u.",
        "a dict has the key 2305843009213693951; expected integers of at most",
    ),
    "calls in calls": (
        START + SUBCLASS + b"q\x000(NNNNt" + b"q\x010(h\x00Nh\x01Nt" * 3000 + b"q\x010h\x00h\x01R.",
        "a subclass of tensors that is made of itself",
    ),
    "digits": (array_of("f" + "9" * 10_000), "expected numbers"),
    "digits of another kind": (array_of("f\u00b2"), "expected numbers"),
    "a mark that is remembered": (START + b"(q\x000h\x00h\x00t.", "no mark where one is needed"),
    "a mark that is doubled": (START + b"(2t.", "takes a value where there is none"),
}

PROGRAM = """
import resource, sys
from fastbn import files
from fastbn.files import _dicts, _torch

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # of its own, however busy the machine is
for path in sys.argv[1:]:
    try:
        with files.read(path) as file:
            print(f"read {len(file.arrays)}, {len(file.unknown)}, {len(file.layers())}")
    except ValueError as error:
        print(type(error).__name__, error)
"""


def test_hostile_pickles_take_neither_time_nor_memory(tmp_path):
    """In a process of 2 GB, in time: together they take about 5 s, where some took hours."""
    pytest.importorskip("resource", reason="limits of memory are POSIX's")
    paths = {}
    for name, (content, _) in PICKLES.items():
        paths[name] = tmp_path / f"{name}.pt"
        with zipfile.ZipFile(paths[name], "w") as archive:
            archive.writestr("m/data.pkl", content)
            archive.writestr("m/data/0", bytes(16))
    command = [sys.executable, "-c", PROGRAM, *map(str, paths.values())]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(zip(PICKLES, done.stdout.splitlines(), strict=True))
    for name, (_, message) in PICKLES.items():
        assert message in lines[name], (name, lines[name])


def test_an_array_of_over_a_megabyte_that_protocol_2_wrote(tmp_path):
    """Protocol 2 has no bytes: it writes them as text and a call that encodes it."""
    rng = np.random.default_rng(0)
    state = {"fc.weight": rng.normal(size=(600, 1000)).astype(np.float32), "fc.bias": np.ones(3)}
    state["fc.fortran"] = np.asfortranarray(state["fc.weight"][:5])
    path = tmp_path / "state.pickle"
    path.write_bytes(pickle.dumps(state, 2))
    with files.read(path) as file:
        assert {name: array.shape for name, array in file.arrays.items()} == {k: v.shape for k, v in state.items()}
        for name, array in file.arrays.items():
            np.testing.assert_array_equal(array, state[name])
    content = path.read_bytes()
    at = content.index("é".encode())  # one of the characters that take two bytes
    path.write_bytes(content[:at] + b"\xc4\x80" + content[at + 2 :])  # a character that stands for no byte
    with files.read(path) as file, pytest.raises(ValueError, match=r"state.pickle.*stands for no bytes"):
        dict(file.arrays)


def test_a_pickle_in_a_zip_tells_the_place_in_it(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m/data.pkl", START + b"}h\x07.")
    (tmp_path / "m.pt").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"m.pt, byte \d+ of its pickle: the pickle (asks for|is damaged)"):
        files.read(tmp_path / "m.pt")


def test_json_that_takes_time_or_has_too_many_digits(tmp_path):
    path = tmp_path / "m.safetensors"

    def write(header):
        path.write_bytes(len(header).to_bytes(8, "little") + header)

    write(b'{"a":' + b"9" * 10_000 + b"}")
    with pytest.raises(ValueError, match=r"m.safetensors: the header is no JSON"):
        files.read(path)
    write(b"{" + b",".join(b'"%d":0' % k for k in range(200_000)) + b',"199999":0}')
    with pytest.raises(ValueError, match="has the key '199999' twice"):  # which a look at each pair would not find soon
        files.read(path)


def test_an_npz_with_text_or_objects_is_read_but_for_these(tmp_path):
    path = tmp_path / "m.npz"
    norm = {"bn.running_mean": np.ones(2), "bn.running_var": np.ones(2)}
    pairs = np.zeros(3, np.dtype([("a", "f4"), ("b", "f4")]))
    np.savez(path, **norm, names=np.array(["a", "b"]), config=np.array({"a": 1}, object), pairs=pairs)
    with files.read(path) as file:
        assert list(file.layers()) == ["bn"]
        assert {"names", "config", "pairs"} <= file.arrays.keys()
        for name in ("names", "config", "pairs"):
            with pytest.raises(ValueError, match=f"m.npz: array '{name}' has dtype .*; expected numbers"):
                file.arrays[name]


def test_what_is_needed_to_open_a_file_inflates_to_no_more_than_is_allowed(tmp_path):
    """A zip of 150 kB of which one member would take 150 MB."""
    path = tmp_path / "m.zip"

    def write(name, *others):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for other in others:
                archive.writestr(other, "{}")
            with archive.open(name, "w") as member:
                for _ in range(150):
                    member.write(bytes(1 << 20))

    write("m/data.pkl")
    with pytest.raises(ValueError, match=r"member 'm/data.pkl' is compressed or encrypted; expected it stored"):
        files.read(path)
    write("model.weights.h5", "config.json")
    with pytest.raises(
        ValueError, match="inflates to 157286400 bytes; expected at most 134217728, or more by max_bytes="
    ):
        files.read(path)
    with pytest.raises(ValueError, match="max_bytes=1000"):
        files.read(path, max_bytes=1000)


PIECES = (
    *(bytes([code]) for code in b"(.012NR)tlde}]abusQ\x85\x86\x87\x81\x88\x89\x93\x94"),
    *(b"K" + bytes([number]) for number in (0, 1, 4, 255)),
    *(code + b"\x00" for code in (b"q", b"h")),
    *(code + b"\x01" for code in (b"q", b"h")),
    b"r\x00\x00\x00\x00", b"j\x01\x00\x00\x00", b"J\xff\xff\xff\xff", b"M\x00\x01", b"\x8a\x01\xff", b"G" + bytes(8),
    b"U\x02f4", b"C\x04aaaa", *map(text, ("", "w", "0", "f4", "<", "storage", "cpu", "latin1", "running_mean")),
    *(name_of(*name.rsplit(".", 1)) for name in sorted(internals.names_in_pickles)), tensor(),
)  # fmt: skip


def check_any_order(path, count):
    @settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=30), st.booleans())
    def run(pieces, in_zip):
        content = START + b"".join(pieces) + b"."
        path.write_bytes(content)
        if in_zip:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("m/data.pkl", content)
                archive.writestr("m/data/0", bytes(16))
        try:
            with files.read(path) as file:
                dict(file.arrays)
                file.layers(eps=1.0)
        except ValueError as error:
            if path.name not in str(error) and "running_" not in str(error):
                raise

    run()


def test_opcodes_in_any_order_end_in_an_error_or_arrays(tmp_path):
    """300 pickles of up to 30 of the machine's opcodes and all of its names."""
    check_any_order(tmp_path / "m.pt", 300)


@pytest.mark.full
def test_opcodes_in_any_order_often(tmp_path):
    """20,000 of them."""
    check_any_order(tmp_path / "m.pt", 20_000)


def test_the_norms_of_many_arrays_are_found_in_time(tmp_path):
    """20,000 batch norms of Haiku, of which each was once compared with all the others."""
    one = np.ones(1, np.float32)
    tree = {
        "params": {f"m{k}": {"scale": one, "offset": one} for k in range(20_000)},
        "state": {f"m{k}/~/{which}_ema": {"average": one} for k in range(20_000) for which in ("mean", "var")},
    }
    path = tmp_path / "m.pickle"
    path.write_bytes(pickle.dumps(tree, 4))
    with files.read(path) as file:
        begin = time.process_time()
        norms, _ = file._norms()
        assert time.process_time() - begin < 30
    assert len(norms) == 20_000
    assert all(len(norm.arrays) == 4 for norm in norms.values())
