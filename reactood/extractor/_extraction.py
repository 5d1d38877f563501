"""Every image through the backbone once: what is known is looked up, the rest is run.

Where the input can be told apart without preparing it, all that the cache knows is
looked up first, and only the rest is read.  Several processes share the work: each
announces the rows that it is about to compute, and the others take different ones.
"""

import contextlib
import itertools
import time

import numpy as np

from reactood._images._digest import image_digest
from reactood._images._source import plan_rows
from reactood._utils._progress import progress_bar
from reactood._utils._warnings import warn

LOOKUP_ROWS = 1024
POLL_S = 0.02
LEAST_PATIENCE_S, MOST_PATIENCE_S = 2, 60
MOST_NAMED = 10


class Extraction:
    """One pass over one input.

    Parameters
    ----------
    source : ImageSource
        Gives the batches.
    forward : Forward
        Turns them into features.
    sink : Rows
        Takes the features.
    store : Store or None
        Has the features of some rows, and keeps those of the others.
    batch_size : int
        Images to read at a time.
    on_error : {"raise", "nan"}
        What to do about an image that cannot be read.
    verbose : bool
        Whether to show progress over the images that are computed.
    """

    def __init__(self, source, forward, sink, store, *, batch_size, on_error, verbose):
        self.source = source
        self.forward = forward
        self.sink = sink
        self.store = store
        self.batch_size = batch_size
        self.on_error = on_error
        self.verbose = verbose
        self.errors = {}
        self.keys = {}  # of rows that are not done yet
        self.done = set()

    def run(self):
        """Fill the sink: with rows from the store where there is one."""
        if self.store is None or not self.source.keyed:
            with progress_bar(self.source.n_rows, self.verbose) as progress:
                rows = range(self.source.n_rows or 0)
                self._compute(plan_rows(rows, self.batch_size), progress)
        else:
            self._compute_missing()
        if self.errors:
            _warn_of_errors(self.errors)

    def _compute_missing(self):
        todo: list[int] = []
        twins: dict[int, int] = {}
        first: dict[bytes | None, int] = {}
        for rows in plan_rows(range(self.source.n_rows), LOOKUP_ROWS):
            keys = dict(zip(rows, self.source.keys(rows), strict=True))
            found = self.store.get(keys.values())
            self._write_found(keys, found)
            for row, key in keys.items():
                if key is not None and key in found:
                    continue
                if key is not None and key in first:
                    twins[row] = first[key]
                    continue
                first[key] = row
                todo.append(row)
                self.keys[row] = key
        if todo:
            self._share(todo)
        for row, other in twins.items():
            self.sink.write([row], self.sink.array[[other]])
            if other in self.errors:
                self.errors[row] = self.errors[other]

    def _share(self, todo):
        """Compute rows, but for those that other processes are computing just now."""
        with progress_bar(len(todo), self.verbose) as progress:
            force, patience = False, 0.0
            while todo:
                start = time.monotonic()
                plan = self._claimed(todo, progress, force=force)
                self._compute(plan, progress)
                later = [row for row in todo if row in self.keys]
                # A batch of somebody else's should not take much longer than ours.
                pace = (time.monotonic() - start) / max(1, len(todo) - len(later))
                patience = max(patience, 4 * pace * self.batch_size)
                patience = min(max(patience, LEAST_PATIENCE_S), MOST_PATIENCE_S)
                todo = self._await(later, patience, progress)
                force = len(todo) == len(later)

    def _claimed(self, todo, progress, *, force):
        """Yield batches of rows that are this process's to compute."""
        mine = []
        for rows in plan_rows(todo, self.batch_size):
            keys = {row: self.keys[row] for row in rows}
            found, others = self.store.claim(list(keys.values()), force=force)
            progress.update(self._write_found(keys, found))
            known = found.keys() | others
            mine += [row for row, key in keys.items() if key not in known]
            if len(mine) >= self.batch_size:
                yield mine[: self.batch_size]
                mine = mine[self.batch_size :]
        if mine:
            yield mine

    def _await(self, rows, patience, progress):
        """Wait for rows that others compute; return those that did not come."""
        deadline = time.monotonic() + patience
        while rows:
            keys = {row: self.keys[row] for row in rows}
            n_found = self._write_found(keys, self.store.get(keys.values()))
            progress.update(n_found)
            rows = [row for row in rows if row in self.keys]
            if n_found:  # they are alive
                deadline = time.monotonic() + patience
            elif time.monotonic() > deadline:
                break
            else:
                time.sleep(POLL_S)
        return rows

    def _compute(self, plan, progress):
        """Run what is not known; start again where a worker process dies."""
        taken: list[int] = []
        n_before = -1
        while True:
            try:
                return self._pass(_noted(plan, taken), progress)
            except (RuntimeError, ConnectionError, EOFError) as error:
                rows = [row for row in taken if row not in self.done]
                if not (_is_dead_worker(error) and self.source.n_rows):
                    raise
                if len(self.done) == n_before:
                    raise RuntimeError(
                        "A process that reads images died twice at the same place, "
                        f"among rows {rows[:MOST_NAMED]} ({error}). Does one of them "
                        "crash the decoder, or is memory short? num_workers=0 reads "
                        "them in this process."
                    ) from error
                n_before = len(self.done)
                warn(
                    f"A process that reads images died ({error}). Starting it again.",
                )
                again = plan_rows(rows, self.batch_size)
                plan, taken = itertools.chain(again, plan), []

    def _pass(self, plan, progress):
        # Threads and processes that read end here, whatever happens.
        with contextlib.closing(self.source.batches(plan)) as batches:
            readable = self._readable(batches, progress)
            for rows, features in self.forward(readable, self.source.finish):
                self.sink.write(rows, features)
                self.done.update(rows)
                if self.store is not None:
                    self.store.put([self._take_key(row) for row in rows], features)
                progress.update(len(rows))

    def _take_key(self, row):
        """Return the key to keep a row under; None if the image is another by now."""
        key = self.keys.pop(row, None)
        if self.source.keyed and key is not None and not self.source.still(row, key):
            return None
        return key

    def _readable(self, batches, progress):
        """Yield rows and images that can be read and are not known yet."""
        for rows, images, errors in batches:
            if errors:
                self._note_errors(errors, progress)
            if images is None:
                continue
            if self.store is not None and not self.source.keyed:
                digests = (image_digest(image, prepared=True) for image in images)
                keys = dict(zip(rows, digests, strict=True))
                found = self.store.get(keys.values())
                self.keys |= keys
                progress.update(self._write_found(keys, found))
                picked = [i for i, row in enumerate(rows) if row in self.keys]
                rows, images = [rows[i] for i in picked], images[picked]
            if rows:
                yield rows, images

    def _note_errors(self, errors, progress):
        if self.on_error == "raise":
            raise errors[min(errors)]
        self.errors |= errors
        rows = list(errors)
        self.sink.write(rows, np.nan)
        self.done.update(rows)
        for row in rows:
            self.keys.pop(row, None)
        progress.update(len(rows))

    def _write_found(self, keys, found):
        """Write the rows that the store had; return how many."""
        rows = [row for row, key in keys.items() if key is not None and key in found]
        if rows:
            self.sink.write(rows, np.stack([found[keys[row]] for row in rows]))
            self.done.update(rows)
        for row in rows:
            self.keys.pop(row, None)
        return len(rows)


def _is_dead_worker(error):
    """Tell that a reading process died; its batch may have been on the way."""
    return "DataLoader worker" in str(error) or isinstance(
        error, ConnectionError | EOFError
    )


def _noted(plan, taken):
    for rows in plan:
        taken += rows
        yield rows


def _warn_of_errors(errors):
    shown = [f"{row} ({errors[row]})" for row in sorted(errors)[:MOST_NAMED]]
    more = len(errors) - len(shown)
    warn(
        f"{len(errors)} images could not be read or preprocessed, and their features "
        "are NaN: rows "
        + "; ".join(shown)
        + (f"; and {more} more: {sorted(errors)[MOST_NAMED:]}" if more else "."),
    )
