"""Recent: a bounded, thread-safe LRU (least recently used) cache."""

import threading
from collections import OrderedDict
from typing import Any


class Recent:
    """Keeps the ``most`` entries that were used last, and deletes the others."""

    def __init__(self, most: int):
        self.most = most
        self._entries: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key):
        """Return the value that was kept under ``key``, or None."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key]

    def put(self, key, value):
        """Keep ``value``, and delete the entries that were used longest ago."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self.most:
                self._entries.popitem(last=False)

    def clear(self):
        """Delete all entries."""
        with self._lock:
            self._entries.clear()

    def __len__(self):
        return len(self._entries)
