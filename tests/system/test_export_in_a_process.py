"""`fastbn export` in a process that computes and compiles meanwhile: libraries and results are those of a quiet one."""

import threading

import numpy as np
import pytest
from numba import njit
from numba.core import config

import fastbn
from fastbn._export import library


@pytest.mark.full
def test_several_at_once_beside_calls_and_compilation(tmp_path):
    def exported(name):
        library.export(library.Order(["rms_norm"], ["float32"], [], "aarch64", tmp_path / name))
        return (tmp_path / name / "libfastbn.o").read_bytes()

    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    expected, level = fastbn.layer_norm(x, 64).tobytes(), config.OPT
    alone, made, faults, done = exported("alone"), {}, [], threading.Event()

    def guarded(work):
        try:
            work()
        except BaseException as error:
            faults.append(repr(error))

    def export(k):
        made[k] = exported(str(k))

    def call():
        k = 0
        while not done.is_set():
            assert fastbn.layer_norm(x, 64).tobytes() == expected
            fastbn.batch_norm(np.ones((k % 37 + 2, 8), np.float32), training=True, activation="relu")
            k += 1

    def compile_anew():
        for _ in range(3):
            compiled = njit(lambda x: fastbn.layer_norm(x, 64))
            assert compiled(x).tobytes() == expected

    exports = [threading.Thread(target=guarded, args=(lambda k=k: export(k),)) for k in range(2)]
    others = [threading.Thread(target=guarded, args=(work,)) for work in (call, compile_anew)]
    for thread in (*exports, *others):
        thread.start()
    for thread in exports:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    assert faults == []
    assert made == {0: alone, 1: alone}
    assert level == config.OPT
