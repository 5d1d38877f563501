"""NewFile: a file that gets its name when it is complete."""

import contextlib
import errno
import os
import secrets
import socket
import stat
import zlib
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where a file in use cannot be removed
    fcntl: Any = None  # type: ignore[no-redef]


MOST_NAMES = 100  # names to try for an incomplete file


class NewFile:
    """A file that is not complete yet, beside its final place.

    Its name cannot be guessed, and it is locked as long as this process lives: what is
    not locked was left behind by one that was killed, and the next removes it.

    Parameters
    ----------
    path : path-like
        The name of the complete file. An older file of this name stays until then.

    Attributes
    ----------
    stream : file
        To write to, in binary mode.
    """

    def __init__(self, path):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise OSError(
                errno.EINVAL, "There is something that is no file", os.fspath(path)
            )
        _remove_litter(self.path.parent)
        self.name, self.stream = _locked_file(self.path.parent)

    def publish(self):
        """Give the complete file its name."""
        try:
            self.stream.flush()
            self._keep_mode()
            if os.name == "nt":  # an open file keeps its name there
                self.stream.close()
            os.replace(self.name, self.path)
        except BaseException:
            self.remove()
            raise
        self.stream.close()

    def _keep_mode(self):
        """Let the file be read by no more users than the one that it replaces."""
        if os.name != "nt" and self.path.exists():
            mode = stat.S_IMODE(self.path.stat().st_mode)
            os.fchmod(self.stream.fileno(), mode)

    def remove(self):
        """Remove the file."""
        # Closing writes what is buffered, for which there may be no space.
        with contextlib.suppress(OSError):
            self.stream.close()
        self.name.unlink(missing_ok=True)


def write_whole(path, data):
    """Write a file so that it is there whole, or as it was before.

    Where ``path`` is a link, the file that it points at is replaced.
    """
    with named_errors(path):
        file = NewFile(os.path.realpath(path))
        try:
            file.stream.write(data)
            file.stream.flush()
            os.fsync(file.stream.fileno())
        except BaseException:
            file.remove()
            raise
        file.publish()


@contextlib.contextmanager
def named_errors(path):
    """Name the file in errors of the system that name none, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _locked_file(folder):
    """Make a new file in a folder, under a name of its own, and lock it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_BINARY"):  # not every system has them
        flags |= getattr(os, name, 0)
    for _ in range(MOST_NAMES):
        path = folder / f"{_prefix()}{os.getpid()}-{secrets.token_hex(8)}.part"
        stream = os.fdopen(os.open(path, flags, 0o666), "w+b")
        lock(stream)
        # Another process may have removed it as a leftover before it was locked.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                return path, stream
        stream.close()
    raise OSError(f"Files made in {os.fspath(folder)!r} disappear at once.")


def _prefix():
    """Return how names of this machine's incomplete files begin.

    Locks and process ids of another machine that shares the folder say nothing here.
    """
    return f".reactood-{zlib.crc32(socket.gethostname().encode()):08x}-"


def lock(stream):
    """Lock an open file; return whether that worked, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks
        return None
    return True


def _remove_litter(folder):
    """Remove the incomplete files of processes that are gone."""
    for path in folder.glob(f"{_prefix()}*.part"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.name.removeprefix(_prefix()).partition("-")[0])
            with open(path, "r+b") as stream:  # "r+b" does not wait for a pipe
                locked = lock(stream)
                # Process ids are reused: a living process may be another one. Without
                # locks, such a file is kept.
                if locked or (locked is None and not _is_alive(pid)):
                    path.unlink()


def _is_alive(pid):
    if (
        os.name == "nt"
    ):  # signal 0 would end the process there, and files in use are kept anyway
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
