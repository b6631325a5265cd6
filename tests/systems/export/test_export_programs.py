"""Programs in C and C++ with a library for this machine: strict compilers, threads, and what its README says to do."""

import re
import shutil
import subprocess

import pytest

from fastbn._export import library
from fastbn.cli.export import LAYOUTS

STRICT = "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"

THREADS = """\
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastbn.h"

enum { THREADS = 8, TIMES = 20, BATCH = 5, CHANNELS = 70, PLANE = 123, SIZE = BATCH * CHANNELS * PLANE };

struct call {
    float x[SIZE], y[SIZE];
    double mean[CHANNELS], rstd[CHANNELS];
    int status;
};

static void normalize(struct call *c)
{
    size_t size = fastbn_batch_norm_train_nhwc_f32_workspace(BATCH, CHANNELS, PLANE);
    void *work = malloc(size);
    c->status = fastbn_batch_norm_train_nhwc_f32(c->x, c->y, NULL, NULL, BATCH, CHANNELS, PLANE, 1e-5, 0.1, NULL, NULL,
                                                 c->mean, c->rstd, work);
    free(work);
}

static void *several_times(void *given)
{
    struct call *c = given;
    for (int k = 0; k < TIMES && c->status == 0; k++)
        normalize(c);
    return NULL;
}

int main(void)
{
    static struct call calls[THREADS], alone;
    pthread_t threads[THREADS];
    int different = 0;
    for (int t = 0; t < THREADS; t++)
        for (int k = 0; k < SIZE; k++)
            calls[t].x[k] = (float)((k * 37 + t * 11) % 101);
    for (int t = 0; t < THREADS; t++)
        pthread_create(&threads[t], NULL, several_times, &calls[t]);
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    for (int t = 0; t < THREADS; t++) {
        alone = calls[t];
        memset(alone.y, 0, sizeof alone.y);
        normalize(&alone);
        different += calls[t].status != 0 || memcmp(&alone, &calls[t], sizeof alone) != 0;
    }
    printf("%d different\\n", different);
    return different != 0;
}
"""


def needed(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed, so no program was made")
    return path


def run(*words, folder):
    done = subprocess.run([*words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    library.export(library.Order(("batch_norm",), ("float32",), LAYOUTS, "host", folder))
    return folder


def test_eight_threads_that_call_at_once_get_what_each_gets_alone(folder):
    (folder / "threads.c").write_text(THREADS)
    run(needed("gcc"), *STRICT, "-pthread", "threads.c", "libfastbn.a", "-o", "threads", folder=folder)
    assert run("./threads", folder=folder) == "0 different\n"


def test_strict_compilers_have_nothing_to_say(folder):
    for name in ("example.c", "selftest.c"):
        assert run(needed("gcc"), *STRICT, "-c", name, "-o", "/dev/null", folder=folder) == ""
    (folder / "program.cpp").write_text('#include "fastbn.h"\nint main() { return FASTBN_OK; }\n')
    for standard in ("c++98", "c++11"):
        strict = f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror"
        assert run(needed("g++"), *strict, "program.cpp", "libfastbn.so", "-o", "/dev/null", folder=folder) == ""
    (folder / "program.c").write_text('#include "fastbn.h"\nint main(void) { return FASTBN_OK; }\n')
    assert run("gcc", "-std=c89", *STRICT[1:], "-c", "program.c", "-o", "/dev/null", folder=folder) == ""


def test_what_the_readme_says_to_do_does(folder):
    readme = (folder / "README.md").read_text()
    commands = re.findall(r"`(cc .*?)`", readme)
    commands += re.findall(r"^ +(cc .*)$", (folder / "example.c").read_text(), re.M)
    needed("cc")
    assert len(commands) == 2
    for command in commands:
        run("sh", "-c", command, folder=folder)
    for name in re.findall(r"^- `(.*?)`:", readme, re.M):
        assert (folder / name).exists()
