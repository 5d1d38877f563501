"""Pass: read images, compute their features, and write these to the sink."""

import contextlib
import itertools

import numpy as np

from reactood._images._image_source import split_rows
from reactood._utils._warnings import warn

MOST_NAMED = 10


class Pass:
    """Computes features of rows, and starts again where a reading process dies.

    Parameters
    ----------
    source : ImageSource
        Gives the images.
    forward : Forward
        Turns them into features.
    sink : Rows
        Takes the features.
    batch_size : int
        Images to read at a time, where reading starts again.
    on_error : {"raise", "nan"}
        What to do about an image that cannot be read.
    cached : CachedRows or None
        Knows some rows already, and keeps the others.
    """

    def __init__(self, source, forward, sink, *, batch_size, on_error, cached=None):
        self.source = source
        self.forward = forward
        self.sink = sink
        self.batch_size = batch_size
        self.on_error = on_error
        self.cached = cached
        self.errors = {}
        self.done = set() if cached is None else cached.done

    def compute(self, order, progress):
        """Compute the rows that ``order`` names, in batches."""
        taken: list[int] = []
        n_before = -1
        while True:
            try:
                return self._run(_noted(order, taken), progress)
            except _DeadWorker as dead:
                error = dead.error
                rows = [row for row in taken if row not in self.done]
                if not self.source.n_rows:
                    raise error from None
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
                again = split_rows(rows, self.batch_size)
                order, taken = itertools.chain(again, order), []

    def _run(self, order, progress):
        # Reading threads and processes are stopped in any case.
        with contextlib.closing(self.source.batches(order)) as batches:
            readable = self._readable(batches, progress)
            for rows, features in self.forward(readable, self.source.finish):
                self.sink.write(rows, features)
                self.done.update(rows)
                if self.cached is not None:
                    self.cached.keep(rows, features)
                progress.update(len(rows))

    def _readable(self, batches, progress):
        """Yield rows and images that can be read and are not known yet."""
        for rows, images, errors in _noticed(batches):
            if errors:
                self._note_errors(errors, progress)
            if images is None:
                continue
            if self.cached is not None:
                rows, images, n_found = self.cached.unknown(rows, images)
                progress.update(n_found)
            if rows:
                yield rows, images

    def _note_errors(self, errors, progress):
        if self.on_error == "raise":
            raise errors[min(errors)]
        self.errors |= errors
        rows = list(errors)
        self.sink.write(rows, np.nan)
        self.done.update(rows)
        if self.cached is not None:
            self.cached.forget(rows)
        progress.update(len(rows))


def warn_of_errors(errors):
    """Name the images that could not be read, if there are any."""
    if not errors:
        return
    rows = sorted(errors)
    shown = [f"{row} ({errors[row]})" for row in rows[:MOST_NAMED]]
    more = rows[MOST_NAMED:]
    warn(
        f"{len(errors)} images could not be read or preprocessed, and their features "
        "are NaN: rows "
        + "; ".join(shown)
        + (f"; and {len(more)} more: {more}" if more else "."),
    )


class _DeadWorker(Exception):
    """A process that reads images died; ``error`` is what torch said of it."""

    def __init__(self, error):
        super().__init__(str(error))
        self.error = error


def _noticed(batches):
    """Yield what is read. Of the errors in reading, mark those of a dead process.

    What takes the features may raise the same kinds of error, and is not read again.
    """
    try:
        yield from batches
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_dead_worker(error):
            raise
        raise _DeadWorker(error) from error


def _is_dead_worker(error):
    """Return whether a reading process died; its batch may have been on the way."""
    return "DataLoader worker" in str(error) or isinstance(
        error, ConnectionError | EOFError
    )


def _noted(order, taken):
    for rows in order:
        taken += rows
        yield rows
