"""Share the work between processes that need the same rows: each is computed once.

Each process announces the rows that it is about to compute, and the others take
different ones. A process that waits for another takes over where that one is too slow,
or gone.
"""

import time

from reactood._images._image_source import split_rows
from reactood._utils._progress import progress_bar

POLL_S = 0.02
LEAST_PATIENCE_S, MOST_PATIENCE_S = 2, 60


class Sharing:
    """Computes the rows that a cache lacks, together with other processes.

    Parameters
    ----------
    run : Pass
        Computes rows.
    cached : CachedRows
        What is known, and who computes what.
    batch_size : int
        Rows that are announced at a time.
    verbose : bool
        Whether to show progress.
    """

    def __init__(self, run, cached, *, batch_size, verbose):
        self.run = run
        self.cached = cached
        self.batch_size = batch_size
        self.verbose = verbose

    def compute(self, todo):
        """Compute rows, but for those that other processes are computing just now."""
        with progress_bar(len(todo), self.verbose) as progress:
            force, patience = False, 0.0
            while todo:
                start = time.monotonic()
                self.run.compute(self._claimed(todo, progress, force=force), progress)
                later = [row for row in todo if row in self.cached.keys]
                # A batch of another process should not take much longer than ours.
                pace = (time.monotonic() - start) / max(1, len(todo) - len(later))
                patience = max(patience, 4 * pace * self.batch_size)
                patience = min(max(patience, LEAST_PATIENCE_S), MOST_PATIENCE_S)
                todo = self._await(later, patience, progress)
                force = len(todo) == len(later)

    def _claimed(self, todo, progress, *, force):
        """Yield batches of rows that are this process's to compute."""
        mine = []
        for rows in split_rows(todo, self.batch_size):
            claimed, n_found = self.cached.claim(rows, force=force)
            progress.update(n_found)
            mine += claimed
            if len(mine) >= self.batch_size:
                yield mine[: self.batch_size]
                mine = mine[self.batch_size :]
        if mine:
            yield mine

    def _await(self, rows, patience, progress):
        """Wait for rows that others compute; return those that did not come."""
        deadline = time.monotonic() + patience
        while rows:
            keys = {row: self.cached.keys[row] for row in rows}
            self.cached.find(keys)
            n_waited_for = len(rows)
            rows = [row for row in rows if row in self.cached.keys]
            n_found = n_waited_for - len(rows)
            progress.update(n_found)
            if n_found:  # the other process still works
                deadline = time.monotonic() + patience
            elif time.monotonic() > deadline:
                break
            else:
                time.sleep(POLL_S)
        return rows
