"""Read the rows that a cache has, and store the rows that it lacks."""

import numpy as np

from reactood._images._digest import image_digest


class CachedRows:
    """The rows of one input in one part of a cache.

    Parameters
    ----------
    store : Store
        The part of the cache for these settings.
    source : ImageSource
        Gives the keys of rows.
    sink : Rows
        Takes the features of rows that are known.

    Attributes
    ----------
    keys : dict
        The keys of rows that are not done yet.
    done : set
        The rows that are in the sink.
    """

    def __init__(self, store, source, sink):
        self.store = store
        self.source = source
        self.sink = sink
        self.keys = {}
        self.done = set()

    def find(self, keys):
        """Write what the store has of ``keys``, a dict by row; return what it has."""
        found = self.store.get(keys.values())
        self.write(keys, found)
        return found

    def claim(self, rows, *, force):
        """Announce rows that this process is about to compute.

        Writes those that are known by now. Returns the rows that are this process's
        to compute, and how many were written; the others are being computed elsewhere.
        """
        keys = {row: self.keys[row] for row in rows}
        found, others = self.store.claim(list(keys.values()), force=force)
        known = found.keys() | others
        mine = [row for row, key in keys.items() if key not in known]
        return mine, self.write(keys, found)

    def write(self, keys, found):
        """Write the rows that were found; return how many."""
        rows = [row for row, key in keys.items() if key is not None and key in found]
        if rows:
            self.sink.write(rows, np.stack([found[keys[row]] for row in rows]))
            self.done.update(rows)
        self.forget(rows)
        return len(rows)

    def unknown(self, rows, images):
        """Return the rows and images that must be computed, and how many need not.

        Rows that have no key before they are prepared are looked up here.
        """
        if self.source.keyed:
            return rows, images, 0
        digests = (image_digest(image, prepared=True) for image in images)
        keys = dict(zip(rows, digests, strict=True))
        self.keys |= keys
        found = self.store.get(keys.values())
        n_found = self.write(keys, found)
        picked = [i for i, row in enumerate(rows) if row in self.keys]
        return [rows[i] for i in picked], images[picked], n_found

    def keep(self, rows, features):
        """Keep computed rows, but for images that have changed meanwhile."""
        self.store.put([self._take_key(row) for row in rows], features)

    def forget(self, rows):
        """Forget the keys of rows that are done."""
        for row in rows:
            self.keys.pop(row, None)

    def _take_key(self, row):
        key = self.keys.pop(row, None)
        if self.source.keyed and key is not None and not self.source.still(row, key):
            return None
        return key
