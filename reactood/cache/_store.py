"""Store: reads and writes rows of features in an SQLite file, for many processes.

A row is written in one transaction or not at all.  It has a checksum of its setting,
its image and its features, so that a damaged index cannot return the row of another
image.  After any error with the file there is a warning and the cache is not used, but
the features are still computed.  All exceptions are caught, because a damaged file may
raise any of them, and a file that others made may hold anything.
"""

import contextlib
import functools
import json
import os
import sqlite3
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from reactood._utils._warnings import warn

FORMAT = 2
FILE = f"features-v{FORMAT}.sqlite"
SCHEMA = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE IF NOT EXISTS settings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT UNIQUE NOT NULL, about TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    setting INTEGER NOT NULL, image BLOB NOT NULL, used REAL NOT NULL,
    checksum INTEGER NOT NULL, features BLOB NOT NULL, PRIMARY KEY (setting, image));
CREATE INDEX IF NOT EXISTS rows_by_use ON rows (used);
CREATE TABLE IF NOT EXISTS claims (
    setting INTEGER NOT NULL, image BLOB NOT NULL, owner TEXT NOT NULL,
    since REAL NOT NULL, PRIMARY KEY (setting, image)) WITHOUT ROWID;
"""
PATIENCE_S = 60  # how long to wait for another process's write
STALE_S = 3600  # older claims are ignored: their process has probably ended
AT_ONCE = 500  # keys in one query; SQLite takes 999 in its oldest versions
POLL_S = 0.02

# A statement that takes more steps than this, on a file of this size, is in an endless
# loop.
LEAST_STEPS, STEPS_PER_BYTE, STEPS_AT_ONCE = 20_000_000, 20, 10_000


class Store:
    """The rows of one setting, open for reading and writing.

    Parameters
    ----------
    folder : Path
        The folder of the file; created if it does not exist.
    digest, about : str, dict
        The identity of the setting, and a description for people.
    width : int
        Features per row.
    max_bytes : int or None
        The largest size of the file. The rows that were not used for the longest time
        are deleted first.
    """

    def __init__(self, folder, digest, about, width, max_bytes=None):
        self.folder = folder
        self.width = width
        self.max_bytes = max_bytes
        self.owner = uuid.uuid4().hex
        self.readable = self.writable = True
        self.digest, self.about = digest, json.dumps(about)
        self.setting: int | None = None
        self.connection: Any = None
        try:
            self.connection, self.writable = _connect(folder)
            with self._transaction() if self.writable else contextlib.nullcontext():
                self.setting = self._find_setting()
        except Exception as error:
            self._give_up(error)
        if self.readable and not self.writable:
            warn(f"The cache folder {str(folder)!r} is read-only; new rows are lost.")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(Exception):
            if self.writable:
                with self._transaction():
                    self._run("DELETE FROM claims WHERE owner = ?", self.owner)
        with contextlib.suppress(Exception):
            if self.connection is not None:
                self.connection.close()

    def get(self, keys):
        """Return a dict of the rows in the cache, by key; keys of None are ignored."""
        found: dict[bytes, np.ndarray] = {}
        if not self.readable:
            return found
        try:
            found = self._select([key for key in keys if key is not None])
            if self.max_bytes is not None and self.writable:
                self._touch(list(found))
        except Exception as error:
            self._give_up(error)
        return found

    def put(self, keys, features):
        """Write rows, and replace existing ones, because those may be damaged.

        Rows that are not finite are not kept: a passing fault may have made them.
        """
        if not self.writable:
            return
        finite = np.isfinite(features).all(axis=1)
        rows = [
            (key, row.tobytes(), good)
            for key, row, good in zip(keys, features, finite, strict=True)
            if key is not None
        ]
        now = time.time()
        try:
            with self._transaction():
                self.setting = self._find_setting()  # may have been cleared
                self.connection.executemany(
                    "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)",
                    [
                        (self.setting, key, now, self._checksum(key, row), row)
                        for key, row, good in rows
                        if good
                    ],
                )
                self.connection.executemany(
                    "DELETE FROM claims WHERE setting = ? AND image = ?",
                    [(self.setting, key) for key, *_ in rows],
                )
                self._forget()
        except Exception as error:
            self.writable = False
            warn(
                f"The cache in {str(self.folder)!r} cannot be written ({error}): new "
                "rows are not kept. Extraction continues."
            )

    def claim(self, keys, *, force=False):
        """Announce that this process will compute rows.

        Returns the rows that are in the cache by now, and the set of keys that other
        processes have announced. With ``force``, nothing is announced and the set is
        empty. A claim only saves work; no result depends on it.
        """
        found = self.get(keys)
        others: set[bytes] = set()
        if not self.writable or force:
            return found, others
        keys_left = [key for key in keys if key is not None and key not in found]
        try:
            with self._transaction():
                found |= self._select(keys_left)
                others = self._claimed_by_others(keys_left)
                now = time.time()
                self.connection.executemany(
                    "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                    [
                        (self.setting, key, self.owner, now)
                        for key in keys_left
                        if key not in found and key not in others
                    ],
                )
        except Exception as error:
            self._give_up(error)
        return found, others - found.keys()

    def _claimed_by_others(self, keys):
        rows = self._run_in_parts(
            "SELECT image FROM claims WHERE setting = ? AND owner != ? AND since > ?",
            (self.setting, self.owner, time.time() - STALE_S),
            keys,
        )
        return {key for (key,) in rows}

    def _find_setting(self):
        if self.writable:
            self._run(
                "INSERT OR IGNORE INTO settings (digest, about) VALUES (?, ?)",
                *(self.digest, self.about),
            )
        query = "SELECT id FROM settings WHERE digest = ?"
        row = self._run(query, self.digest).fetchone()
        return -1 if row is None else row[0]

    def _select(self, keys):
        # Lengths are checked before anything is read: a damaged file may state any.
        rows = self._run_in_parts(
            "SELECT image, checksum, features FROM rows WHERE setting = ? "
            "AND typeof(features) = 'blob' AND length(features) = ?",
            (self.setting, 4 * self.width),
            keys,
        )
        return {
            key: np.frombuffer(row, np.float32)
            for key, checksum, row in rows
            if self._checksum(key, row) == checksum
        }

    def _checksum(self, key, row):
        return zlib.crc32(row, zlib.crc32(key, zlib.crc32(self.digest.encode())))

    def _touch(self, keys):
        now = time.time()
        with self._transaction():
            self.connection.executemany(
                "UPDATE rows SET used = ? WHERE setting = ? AND image = ?",
                [(now, self.setting, key) for key in keys],
            )

    def _forget(self):
        """Delete the rows unused for the longest time, while the file is too large."""
        while self.max_bytes is not None and used_bytes(self.connection) > (
            self.max_bytes
        ):
            # Not count(*), which counts as no steps, so that it would have no limit.
            (n,) = self._run("SELECT sum(1) FROM rows").fetchone()
            gone = self._run(
                "DELETE FROM rows WHERE rowid IN "
                "(SELECT rowid FROM rows ORDER BY used LIMIT ?)",
                max(1, (n or 0) // 10),
            )
            if gone.rowcount < 1:
                return

    def _run(self, statement, *values):
        return self.connection.execute(statement, values)

    def _run_in_parts(self, statement, values, keys):
        """Yield the result rows of a query for all these images."""
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            marks = ", ".join("?" * len(part))
            yield from self._run(f"{statement} AND image IN ({marks})", *values, *part)

    def _transaction(self):
        return transaction(self.connection)

    def _give_up(self, error):
        self.readable = self.writable = False
        warn(
            f"The cache in {str(self.folder)!r} cannot be used ({error}). Extraction "
            "continues without it. If the file is damaged, delete it."
        )


def open_file(folder):
    """Return a connection for inspection, or None if there is no file yet."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, expected a folder")
    if not (folder / FILE).exists():
        return None
    connection, _ = _connect(folder)
    return connection


@contextlib.contextmanager
def transaction(connection):
    """Write all or nothing; other writers wait meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def used_bytes(connection):
    """Return the size of all pages in use."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _connect(folder):
    """Return a connection, and whether it may write."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _connect_once(folder)
        except sqlite3.OperationalError as error:
            # SQLite does not wait while another process creates or deletes the log.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def _connect_once(folder):
    path = folder / FILE
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")
    with contextlib.suppress(OSError):  # opening the file will raise instead
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(path if path.exists() else folder, os.W_OK) and os.access(
        folder, os.W_OK
    ):
        connection = _open(path.absolute().as_uri() + "?mode=rwc", path)
        try:
            _set_up(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection, True
    # The folder is read-only: without the log's index (-shm), no other process writes.
    options = "?mode=ro" if Path(f"{path}-shm").exists() else "?immutable=1"
    connection = _open(path.absolute().as_uri() + options, path)
    try:
        _check_format(connection, path)
        _check_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection, False


def _set_up(connection, path):
    # A log (WAL) is used, so that readers and a writer do not wait for each other.
    connection.execute("PRAGMA page_size = 16384")
    is_new = _check_format(connection, path, new_ok=True)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if is_new:
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
    _check_schema(connection, path)
    with transaction(connection):
        connection.execute(
            "DELETE FROM claims WHERE since < ?", (time.time() - STALE_S,)
        )


def _check_format(connection, path, *, new_ok=False):
    """Raise OSError unless the file has this format; return whether it is empty."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT and not (new_ok and version == 0):
        raise OSError(f"{path} was written in format {version}, expected {FORMAT}")
    return version == 0


def _check_schema(connection, path):
    """Raise OSError unless the file holds exactly our tables: no view, no trigger."""
    if _schema_of(connection) != _our_schema():
        raise OSError(f"{path} does not hold the tables of a cache")


@functools.cache
def _our_schema():
    with contextlib.closing(_open(":memory:")) as connection:
        connection.executescript(SCHEMA)
        return _schema_of(connection)


def _schema_of(connection):
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    return connection.execute(query).fetchmany(100)


class _Connection(sqlite3.Connection):
    """A connection that stops statements that take too many steps."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.text_factory = bytes  # damaged text may not be valid UTF-8
        self.path: Path | None = None
        self.n_steps = 0
        self.set_progress_handler(self._is_over, STEPS_AT_ONCE)

    def execute(self, *args):
        self.n_steps = 0
        return super().execute(*args)

    def executemany(self, *args):
        self.n_steps = 0
        return super().executemany(*args)

    def _is_over(self):
        self.n_steps += STEPS_AT_ONCE
        if self.n_steps <= LEAST_STEPS:
            return False
        n_bytes = 0 if self.path is None else os.path.getsize(self.path)
        return self.n_steps > LEAST_STEPS + STEPS_PER_BYTE * n_bytes


def _open(uri, path=None):
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=PATIENCE_S,
        isolation_level=None,  # transactions begin only explicitly
        check_same_thread=False,
        factory=_Connection,
    )
    connection.path = path
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection
