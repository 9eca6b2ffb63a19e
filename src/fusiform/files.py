"""Writing files so that nobody finds half of one or what a killed process left, and where downloaded ones lie."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from typing import IO, Any

from fusiform.errors import OutputError, UsageError


def check_place(path: str | os.PathLike[str], endings: Collection[str], advice: str) -> None:
    """Make sure, before any work is done, that a file can be written there; an existing one will be replaced.

    Raises UsageError, which ends in ``advice``, for a name with none of the ``endings`` (in lower case, with their
    dots), and OutputError where nothing can be written.
    """
    import tempfile  # only when asked for: each import counts against the time to the first answer

    path = Path(path)
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: {advice}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}): choose another place") from None


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` under a temporary name in the same folder and rename it; an existing file is replaced whole.

    Raises OutputError where that cannot be done; nothing is left behind then.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with create(part) as file:
            file.write(data)
            put(file, part, path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}): choose another place") from None
    finally:
        with suppress(OSError):  # it is in its place, or its folder is none
            part.unlink()


def move(source: Path, place: Path) -> None:
    """Move a file or folder to its place in the same file system; what was there before goes.

    Raises OutputError where that cannot be done.
    """
    try:
        if place.is_dir() and not place.is_symlink():
            import shutil  # only when asked for: each import counts against the time to the first answer

            shutil.rmtree(place)
        os.replace(source, place)  # noqa: PTH105  # says that it replaces
    except OSError as error:
        raise OutputError(f"cannot write {place} ({error.strerror or error}): choose another place for --out") from None


def create(path: Path) -> BufferedWriter:
    """Open a new file, which is held for as long as it is open; OSError where that cannot be done.

    Between the two ``remove_leftovers`` of another process may take it for a leftover: then it is made once more.
    """
    while True:
        file = path.open("xb")
        if hold(file.fileno()) and path.exists():
            return file
        file.close()
        _until_gone(path)


def put(file: IO[Any], part: Path, place: Path) -> None:
    """Rename a file that was written to its place; what was there is replaced. It is held until it has its name."""
    file.flush()
    if os.name == "nt":  # renames no open file, and has no locks
        file.close()
    os.replace(part, place)  # noqa: PTH105  # says that it replaces


def _until_gone(path: Path) -> None:
    """Wait for who removes a file or folder, for a second at most: whoever does may be stopped half-way."""
    import time  # only when asked for: each import counts against the time to the first answer

    for _ in range(100):
        if not path.exists():
            return
        time.sleep(0.01)


def hold(descriptor: int) -> bool:
    """Lock an open file or folder for as long as it is open, at most until this process is gone, however it ends.

    False where another process has it. Systems and file systems without locks know no difference: True.
    """
    try:
        import fcntl  # only when asked for: each import counts against the time to the first answer

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """``hold`` a new folder for a block, so that it is not taken for a leftover; it is made again where it just was."""
    while True:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            folder.mkdir()
            continue
        except OSError:  # Windows opens no folder
            yield folder
            return
        if hold(descriptor) and folder.exists():
            break
        os.close(descriptor)
        _until_gone(folder)
    try:
        yield folder
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove what killed processes left of files, and of folders, whose names match: those that nobody holds.

    Where a system has no locks, nothing is removed.
    """
    try:
        import fcntl
    except ImportError:
        return
    import shutil

    for left in folder.glob(pattern):
        with suppress(OSError):  # another process removed it, or may alone
            descriptor = os.open(left, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(descriptor), left.lstat()):
                    continue  # another process removed it, and its owner has made it anew
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()
            finally:
                os.close(descriptor)


def cache_dir() -> Path:
    r"""The folder of downloaded and unpacked files, which need not exist yet.

    ``FUSIFORM_CACHE``, or the platform's place: ``$XDG_CACHE_HOME/fusiform`` (``~/.cache/fusiform``), on macOS
    ``~/Library/Caches/fusiform``, on Windows ``%LOCALAPPDATA%\fusiform``.
    """
    if chosen := os.environ.get("FUSIFORM_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fusiform"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fusiform"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the convention says to ignore a relative one
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "fusiform"
