"""Where compiled kernels are kept: only where nobody else may write, for what is read there is run."""

import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from numba.core import config

from fastbn.kernels import sources

_OTHERS, _OWNER = "other users may write to it", "it belongs to another user"


class Folders(NamedTuple):
    """Of compiled kernels: the one that is written to (None: there is none), those that are read, those refused."""

    kept: Path | None
    read: tuple[Path, ...]
    refused: tuple[str, ...] = ()


@cache
def ours():
    """The first of NUMBA_CACHE_DIR, the package and the user's cache folder that can be written to.

    The first two are read even if they cannot be: an image may be full of kernels.
    """
    name = f"kernels_{sources.digest()[:16]}"  # not of its path: a frozen application has another one in every run
    found = []
    if config.CACHE_DIR:
        found.append((Path(config.CACHE_DIR, name), Path(config.CACHE_DIR), True))
    here = Path(__file__).parent
    if here.is_dir() and not getattr(sys, "frozen", False):
        found.append((here / "__pycache__", here / "__pycache__", True))
    home = _home()
    if home is not None:
        found.append((home / name, home / name, False))
    return _chosen(found)


def only(folder):
    """The same of a single folder."""
    return _chosen([(folder, folder, True)])


def _chosen(found):
    """Of (folder, the one that is the user's own choice, whether to read it if another is written to)."""
    kept, read, refused = None, [], []
    for folder, top, always in found:
        if kept and not always:
            continue
        writable = kept is None and _can_be_written(folder)
        doubt = _doubt_of_folder(top) or _doubt_of_folder(folder)
        if doubt:
            refused += [] if kept else [doubt]
            continue
        read.append(folder)
        if writable:
            kept = folder
    return Folders(kept, tuple(read), tuple(refused))


def _home():
    try:
        from numba.misc.appdirs import AppDirs

        folder = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)
    except Exception:  # of whatever kind: it is private to Numba
        return None
    return folder if folder.is_absolute() else None


def _can_be_written(folder):
    try:
        make(folder)
        tempfile.TemporaryFile(dir=folder).close()  # the only test that counts permissions, quotas, read-only disks
    except OSError:
        return False
    return True


def make(folder):
    """Make a folder, and those above it, to which nobody else may write, whatever the process's umask."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(mode=0o755, exist_ok=True)


def _doubt_of_folder(folder):
    try:
        status = folder.stat()
    except OSError:  # there is none, so nobody has put anything there
        return None
    reason = _doubt(folder, status, others_may_add=bool(status.st_mode & stat.S_ISVTX))
    return reason and f"{folder}: {reason}"


def doubt_of_file(path, status):
    """Why a file must not be run, if it must not: in a folder such as /tmp it may be anyone's."""
    reason = _doubt(path, status, others_may_add=False)
    return reason and f"{path}: {reason}"


def _doubt(path, status, others_may_add):
    if os.name != "posix":  # elsewhere the mode says nothing
        return None
    if status.st_uid not in _trusted_users():
        return _OWNER
    if others_may_add:
        return None
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_alone(path, status)):
        return _OTHERS
    return None


@cache
def _owner_of_package():
    """May change the kernels' sources, and so whatever they do."""
    try:
        return os.stat(__file__).st_uid
    except OSError:
        return 0


def _trusted_users():
    return 0, os.geteuid(), _owner_of_package()


def _is_alone(path, status):
    """Whether a group is its user's own, as many systems give each user one, and no list names anyone else."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
        lists = os.listxattr(path) if hasattr(os, "listxattr") else []
    except (KeyError, OSError):
        return False
    same = group.gr_name == user.pw_name and group.gr_gid == user.pw_gid and set(group.gr_mem) <= {user.pw_name}
    return same and "system.posix_acl_access" not in lists
