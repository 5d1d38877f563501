"""Columns of datasets: which one holds the images, and what is in it."""

import io
import os
import warnings
from typing import Any

import numpy as np

from reactood._utils._messages import did_you_mean

FEATURES = "features"
# In the order of preference: with contents there are often paths beside them.
NAMES = FEATURES, "image", "bytes", "path", "item", "data"


def find_column(dataset, column=None):
    """Return the name of the column that holds the images or features.

    Raises
    ------
    ValueError
        If there is no such column, or none that is known by its name.
    """
    names = names_of(dataset, look=column is None)
    if column is not None:
        if names and column not in names:
            raise ValueError(
                f"column={column!r} is none of the dataset's columns, "
                f"{_listed(names)}{did_you_mean(column, names) or '.'}"
            )
        return column
    if len(names) == 1:
        return names[0]
    if not names:  # neither rows nor a schema
        return NAMES[0]
    for name in NAMES:
        if name in names:
            return name
    raise ValueError(
        f"Which column holds the images? The dataset has {_listed(names)}; expected "
        f"one of {_listed(NAMES)}, or column=... with the name of another."
    )


def names_of(dataset, *, look):
    """Return the names of a dataset's columns; none if they are not known.

    To ``look`` runs what makes the first rows.
    """
    with warnings.catch_warnings():
        # Ray says that this look at the first rows writes no checkpoint.
        warnings.filterwarnings("ignore", "You've enabled checkpointing, but")
        schema = dataset.schema(fetch_if_missing=look)
    return [] if schema is None else list(schema.names)


def check_names(names, added, column):
    """Raise if columns of the result are in the dataset already.

    Features that were kept may have their errors beside them.
    """
    own = {column} | ({"error"} if column == FEATURES else set())
    both = sorted(set(added) & set(names) - own)
    if both:
        first = both[0]
        raise ValueError(
            f"The dataset has columns that the result has, too: {_listed(both)}. "
            f"Rename them: dataset.rename_columns({{{first!r}: 'my_{first}'}})."
        )


class Column:
    """The values of one column of an Arrow table.

    Parameters
    ----------
    table : pyarrow.Table
        The rows.
    name : str
        The column.

    Attributes
    ----------
    values : list or ndarray
        What an extractor or a detector takes, without the rows that have no value.
    missing : list of int
        The rows that have none.
    are_paths : bool
        Whether the values are names of files.
    """

    def __init__(self, table, name):
        import pyarrow as pa

        column = table.column(name)
        kind = column.type
        self.missing = np.flatnonzero(column.is_null().to_numpy()).tolist()
        if self.missing:
            column = column.drop_null()
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        self.are_paths = text or (binary and name == "path")
        if text:
            self.values = column.to_pylist()
        elif self.are_paths:  # names of files that are no text
            self.values = [os.fsdecode(path) for path in column.to_pylist()]
        elif binary:  # bytes alone might be the name of a file
            self.values = [io.BytesIO(content) for content in column.to_pylist()]
        elif pa.types.is_fixed_size_list(kind):
            flat = column.combine_chunks().flatten()
            self.values = flat.to_numpy().reshape(-1, kind.list_size)
        else:
            self.values = _arrays(table.select([name]), name, self.missing)


def _arrays(table, name, missing):
    """Return arrays: one where all have the same shape, otherwise a list."""
    from ray.data.block import BlockAccessor

    values: Any = BlockAccessor.for_block(table).to_numpy(name)
    if missing:
        values = np.delete(values, missing, axis=0)
    if values.dtype != object:
        return values
    arrays = [np.asarray(value) for value in values]
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return arrays


def _listed(names):
    return ", ".join(map(repr, names))
