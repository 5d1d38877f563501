"""FeatureCache: the public interface of a cache, with its size and its contents."""

import contextlib
import json
import os
import sqlite3
from numbers import Real
from pathlib import Path

from reactood.cache._store import Store, open_file, transaction, used_bytes


class FeatureCache:
    """Keeps the features of images in a folder, for this and other processes.

    Pass it, or only the folder, to :class:`~reactood.TorchFeatureExtractor` as
    `cache`. Each image has one row of features. The row is used again if all of these
    are the same: the image (its pixels; for a PIL image also its palette, EXIF and
    other metadata; for a file its path, size, times and inode number), the model
    with all its weights, the layer, the preprocessing, the precision, the engine, the
    decoder of files, and the versions of torch and torchvision. Images whose rows are
    in the cache need no forward pass, in any order, subset or process.

    Parameters
    ----------
    folder : str or os.PathLike
        The folder of the cache; created at the first use. A relative path is relative
        to the working directory at the time of this call. It should be on a local
        disk: a network file system may lack the locks that several processes need.

    max_bytes : int or None, default=None
        Approximate largest size of the cache, in bytes. The rows that were not used
        for the longest time are deleted first. None for no limit.

    See Also
    --------
    TorchFeatureExtractor : Takes a cache.

    Notes
    -----
    The rows are in one SQLite file. Any number of processes on one machine may read
    and write it at the same time; a process may be killed at any moment. If the cache
    cannot be read or written, a warning is issued, and the extraction continues
    without it. Each row has a checksum of its features, its image and its setting, so
    that a damaged file may lose rows but does not exchange them. Rows with NaN or
    infinite values are not kept.

    With the extra `reactood[cache]`, images are identified by XXH3, a fast hash of 128
    bits for which an attacker could make two images with the same hash. Without it,
    they are identified by BLAKE2b, which prevents this attack but takes about thirty
    times as long.

    Examples
    --------
    >>> import tempfile
    >>> from reactood import TorchFeatureExtractor
    >>> from reactood.cache import FeatureCache
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> images = load_digits_ood().X_test[:20]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = FeatureCache(folder)
    ...     extractor = TorchFeatureExtractor(digits_classifier, cache=cache)
    ...     features = extractor.fit_transform(images)
    ...     again = extractor.transform(images[5:10])  # from the cache
    ...     print(len(cache), cache.clear())
    20 20
    """

    def __init__(self, folder, max_bytes=None):
        if not isinstance(folder, str | os.PathLike) or not isinstance(
            os.fspath(folder), str
        ):
            raise TypeError(
                f"folder is a {type(folder).__name__}, expected the path of a folder."
            )
        if not os.fspath(folder).strip():
            raise ValueError(
                f"folder={folder!r} is empty, expected the path of a folder. To keep "
                "the cache in the working directory, pass '.'."
            )
        if max_bytes is not None and not isinstance(max_bytes, int | float | Real):
            raise TypeError(
                f"max_bytes={max_bytes!r} is a {type(max_bytes).__name__}, expected a "
                "number of bytes, or None."
            )
        if max_bytes is not None and not float(max_bytes) > 0:
            raise ValueError(
                f"max_bytes={max_bytes}, expected a number above 0, or None"
            )
        self.folder = os.fspath(folder)
        self.max_bytes = max_bytes
        # Absolute from now on, because the working directory may change.
        self._path = Path(os.path.abspath(self.folder))

    def __repr__(self):
        limit = "" if self.max_bytes is None else f", max_bytes={self.max_bytes}"
        return f"FeatureCache({self.folder!r}{limit})"

    def __len__(self):
        """Return the number of rows of all settings together."""
        return sum(setting["n_rows"] for setting in self.info())

    @property
    def n_bytes(self):
        """Size of the contents of the cache, in bytes."""
        with self._open() as connection:
            return 0 if connection is None else used_bytes(connection)

    def info(self):
        """List what the cache holds.

        Returns
        -------
        settings : list of dict
            One for each setting: a combination of model, layer, preprocessing and so
            on with which rows were made. It holds `"id"`, `"n_rows"`, `"last_used"`
            (seconds since 1970; None without rows; without `max_bytes`, the time when
            the newest row was made), and a description of the setting.
        """
        with self._open() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT settings.id, about, count(image), max(used) FROM settings "
                "LEFT JOIN rows ON rows.setting = settings.id GROUP BY settings.id"
            )
            return [
                {"id": id_, "n_rows": n, "last_used": used, **_parsed(about)}
                for id_, about, n, used in rows
            ]

    def clear(self, setting=None):
        """Delete rows.

        Parameters
        ----------
        setting : int, default=None
            The `"id"` in `info` of the setting whose rows to delete; None for all.

        Returns
        -------
        n_rows : int
            Number of deleted rows.
        """
        with self._open() as connection:
            if connection is None:
                return 0
            ids = [id_ for (id_,) in connection.execute("SELECT id FROM settings")]
            if setting is not None and setting not in ids:
                raise ValueError(f"setting={setting!r} is not in the cache: {ids}.")
            ids = ids if setting is None else [setting]
            n_rows = 0
            with transaction(connection):
                for id_ in ids:
                    n_rows += connection.execute(
                        "DELETE FROM rows WHERE setting = ?", (id_,)
                    ).rowcount
                    connection.execute("DELETE FROM claims WHERE setting = ?", (id_,))
                    connection.execute("DELETE FROM settings WHERE id = ?", (id_,))
            connection.execute("VACUUM")
            return n_rows

    @contextlib.contextmanager
    def _open(self):
        connection = None
        try:
            connection = open_file(self._path)
            yield connection
        except (sqlite3.Error, OSError, UnicodeError) as error:
            raise OSError(
                f"The cache in {self.folder!r} cannot be used ({error}). If its file "
                "is damaged, delete it."
            ) from error
        finally:
            if connection is not None:
                connection.close()


def _parsed(about):
    """Return the description of a setting."""
    try:
        return dict(json.loads(about))
    except (TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"a description is damaged: {error}") from error


def open_store(cache, digest, about, width):
    """Open the rows of one setting in a cache, given the cache or its folder."""
    cache = as_cache(cache)
    return Store(cache._path, digest, about, width, cache.max_bytes)


def as_cache(cache):
    """Return a cache, given the cache or its folder."""
    return cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
