"""Whose compiled kernels are run: nobody's but the user's own, root's, and the package owner's."""

import os
import shutil
import stat
from pathlib import Path

import pytest
from internals import folders
from processes import PACKAGE, python

CALL = """
    import numpy, fastbn
    from internals import rows
    print(*fastbn.layer_norm(numpy.array([[0.0, 2.0]]), 2, eps=0)[0])
    stats = rows.forward.serial.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
FOUND, COMPILED = "-1.0 1.0\n1 0\n", "-1.0 1.0\n0 1\n"
SOMEONE = 12345

needs_posix = pytest.mark.skipif(os.name != "posix", reason="the modes of files mean nothing here")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")


def call(folder, **how):
    return python(CALL, NUMBA_CACHE_DIR=folder, **how)


def told(err, path):
    return err.count("RuntimeWarning: fastbn does not run the compiled kernels in") == 1 and str(path) in err


def open_to_all(folder):
    folder.chmod(0o777)
    return folder


def given_away(folder):
    for path in (folder, *folder.rglob("*")):
        os.chown(path, SOMEONE, -1)
    return folder


def files_open_to_all(folder):
    """As in /tmp, where anyone may put a file of the right name."""
    folder.chmod(0o1777)
    entries = list(folder.rglob("*.nbc"))
    for entry in entries:
        entry.chmod(0o666)
    return entries[0].parent  # the file that is told is the one that is looked for first


HARM = {
    "others may write to the folder": open_to_all,
    "others may write to the folder of this release": pytest.param(
        lambda folder: open_to_all(next(folder.iterdir())), marks=pytest.mark.full
    ),
    "others may write to the files": pytest.param(files_open_to_all, marks=pytest.mark.full),
    "another user's": pytest.param(given_away, marks=[needs_root, pytest.mark.full]),
}


@needs_posix
@pytest.mark.parametrize("harm", HARM.values(), ids=[name.replace(" ", "-") for name in HARM])
def test_kernels_that_others_may_have_written_are_not_run(harm, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(PACKAGE / "fastbn", tmp_path / "site" / "fastbn", ignore=shutil.ignore_patterns("__pycache__"))
    assert call(folder, package=tmp_path / "site") == (COMPILED, "")
    path = harm(folder)
    out, err = call(folder, package=tmp_path / "site")
    assert out == COMPILED
    assert told(err, path)


@needs_posix
def test_folders_of_a_process_without_a_umask_are_its_own(tmp_path):
    """Some services start with one that takes nothing away: what they make must not be open to others."""
    before = {"before": lambda: os.umask(0)}
    for _ in range(2):
        out, err = call(tmp_path / "a" / "cache", **before)
    assert (out, err) == (FOUND, "")
    modes = {path.stat().st_mode & 0o022 for path in (tmp_path / "a").rglob("*")}
    assert modes == {0}


def chosen(monkeypatch, cache_dir):
    monkeypatch.setattr(folders.config, "CACHE_DIR", str(cache_dir))
    folders.ours.cache_clear()
    try:
        return folders.ours()
    finally:
        folders.ours.cache_clear()


@needs_posix
@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_folder_that_others_may_write_to_is_refused(monkeypatch, tmp_path, mode):
    tmp_path.chmod(mode)
    where = chosen(monkeypatch, tmp_path)
    assert where.refused == (f"{tmp_path}: other users may write to it",)
    assert tmp_path not in {folder.parent for folder in (where.kept, *where.read)}  # nor is anything kept there


@needs_root
def test_another_users_folder_is_refused_and_roots_is_read(monkeypatch, tmp_path):
    os.chown(tmp_path, SOMEONE, -1)
    assert chosen(monkeypatch, tmp_path).refused == (f"{tmp_path}: it belongs to another user",)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEONE)
    assert chosen(monkeypatch, tmp_path).read[0].parent == tmp_path
    os.chown(tmp_path, 0, -1)  # an image: root has filled it, and the service runs as someone else
    assert chosen(monkeypatch, tmp_path).read[0].parent == tmp_path


@needs_posix
def test_a_sticky_folder_serves(monkeypatch, tmp_path):
    """Such as /tmp: nobody can replace another's folder there."""
    tmp_path.chmod(0o1777)
    where = chosen(monkeypatch, tmp_path)
    assert where.kept.parent == tmp_path
    assert not where.refused
    assert stat.S_IMODE(where.kept.stat().st_mode) & 0o022 == 0


@needs_posix
def test_a_group_may_write_only_if_it_is_the_users_own(monkeypatch, tmp_path):
    import grp
    import pwd

    tmp_path.chmod(0o775)
    user = pwd.struct_passwd(("ann", "x", os.geteuid(), os.getegid(), "", "", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: user)
    gid = os.getegid()
    groups = [("ann", [], True), ("ann", ["ann"], True), ("ann", ["bob"], False), ("lab", [], False)]
    for name, members, alone in groups:
        monkeypatch.setattr(grp, "getgrgid", lambda _, g=(name, "x", gid, members): grp.struct_group(g))
        assert bool(chosen(monkeypatch, tmp_path).refused) is not alone


@needs_posix
def test_info_names_a_folder_that_is_not_read(monkeypatch, tmp_path, capsys):
    from internals import config

    tmp_path.chmod(0o777)
    monkeypatch.setattr(folders.config, "CACHE_DIR", str(tmp_path))
    folders.ours.cache_clear()
    try:
        assert f"Compiled kernels in {tmp_path}: other users may write to it, so they are not run:" in config.advice()
    finally:
        folders.ours.cache_clear()


def test_folders_are_made_with_all_above_them(tmp_path):
    folders.make(Path(tmp_path, "a", "b", "c"))
    folders.make(Path(tmp_path, "a", "b", "c"))
    assert (tmp_path / "a" / "b" / "c").is_dir()
