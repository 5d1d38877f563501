"""Fill a sink with features: known rows from the cache, the others by a Pass."""

from reactood._images._image_source import split_rows
from reactood._utils._progress import progress_bar
from reactood.extractor._cached_rows import CachedRows
from reactood.extractor._pass import Pass
from reactood.extractor._sharing import Sharing

LOOKUP_ROWS = 1024


def fill(sink, source, forward, store, *, batch_size, on_error, verbose):
    """Fill ``sink`` with the features of the images of ``source``.

    Returns the errors of images that cannot be read, by row.

    Parameters
    ----------
    sink : Rows or Received
        Takes the features.
    source : ImageSource
        Gives the images.
    forward : Forward
        Turns them into features.
    store : Store or None
        Has the features of some rows, and keeps those of the others.
    batch_size : int
        Images to read at a time.
    on_error : {"raise", "nan"}
        What to do about an image that cannot be read.
    verbose : bool
        Whether to show progress over the images that are computed.
    """
    cached = None if store is None else CachedRows(store, source, sink)
    run = Pass(
        source,
        forward,
        sink,
        batch_size=batch_size,
        on_error=on_error,
        cached=cached,
    )
    if cached is not None and source.keyed:
        todo, twins = _missing(source, cached)
        if todo:
            sharing = Sharing(run, cached, batch_size=batch_size, verbose=verbose)
            sink.hold(twins.values())
            sharing.compute(todo)
        for row, other in twins.items():
            sink.write([row], sink.read([other]))
            if other in run.errors:
                run.errors[row] = run.errors[other]
    else:
        with progress_bar(source.n_rows, verbose) as progress:
            run.compute(split_rows(range(source.n_rows or 0), batch_size), progress)
    return dict(sorted(run.errors.items()))


def _missing(source, cached):
    """Return the rows that the cache lacks, and rows that equal one of these."""
    todo: list[int] = []
    twins: dict[int, int] = {}
    first: dict[bytes | None, int] = {}
    for rows in split_rows(range(source.n_rows), LOOKUP_ROWS):
        keys = dict(zip(rows, source.keys(rows), strict=True))
        found = cached.find(keys)
        for row, key in keys.items():
            if key is not None and key in found:
                continue
            if key is not None and key in first:
                twins[row] = first[key]
                continue
            first[key] = row
            todo.append(row)
            cached.keys[row] = key
    return todo, twins
