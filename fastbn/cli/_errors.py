"""What goes wrong before a command can do its work, each told in one line."""

from importlib.util import find_spec
from pathlib import Path

DISTRIBUTIONS = {"sklearn": "scikit-learn"}


class CommandError(Exception):
    """A message for the user; the command ends with exit code 2."""


def require(extra: str, *modules: str) -> None:
    """Refuse to start when a module that belongs to `extra` is not installed."""
    missing = [DISTRIBUTIONS.get(name, name) for name in modules if find_spec(name) is None]
    if missing:
        raise CommandError(f'{" and ".join(missing)} not installed; run: pip install "fastbn[{extra}]"')


def unreadable(path: Path, error: OSError) -> str:
    """What is told of a file that the system does not give."""
    return f"cannot read {error.filename or path}: {error.strerror or error}"


def require_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before the work that the file is to hold."""
    existed = path.exists()
    try:
        path.open("ab").close()  # opening is the only test that counts permissions, quotas and read-only disks
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
    if not existed:
        path.unlink()


def require_writable_png(path: Path) -> None:
    """The same for a picture, whose name must say that it is a PNG."""
    if path.suffix.lower() != ".png":
        raise CommandError(f"cannot write {path}: the picture is a PNG, so the name must end in .png")
    require_writable(path)
