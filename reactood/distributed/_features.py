"""Features: an actor that takes features of images, and gives rows that can be kept."""

import numpy as np

from reactood.distributed._columns import Column
from reactood.distributed._row_scorer import NO_VALUE, reason_of


class Features:
    """An actor that puts features in the place of images.

    Parameters
    ----------
    parcel : ObjectRef
        The extractor.
    column : str
        The column of the images.
    """

    def __init__(self, parcel, column):
        self.extractor = open_extractor(parcel)
        self.column = column

    def __call__(self, table):
        """Return the table with the columns `features` and `error`."""
        import pyarrow as pa

        given = Column(table, self.column)
        X, reasons = features_of(self.extractor, given)
        if not given.are_paths:
            table = table.drop_columns([self.column])
        bad = np.isin(np.arange(len(X)), list(reasons))
        values = pa.array(X.ravel())
        features = pa.FixedSizeListArray.from_arrays(
            values, X.shape[1], mask=pa.array(bad)
        )
        errors = pa.array([reasons.get(row) for row in range(len(X))], pa.string())
        names = [*table.column_names, "features", "error"]
        return pa.Table.from_arrays([*table.columns, features, errors], names)


def open_extractor(parcel):
    """Return the extractor of a parcel, to be run in an actor."""
    import ray

    return of_actor(ray.get(parcel).open())


def of_actor(extractor):
    """Set an extractor to what an actor can do, and return it."""
    if str(extractor.device).startswith("cuda:"):
        extractor.set_params(device="cuda")  # an actor sees no other GPUs than its own
    # Processes of a process that Ray watches would outlive it; threads read files.
    return extractor.set_params(num_workers=0, verbose=False)


def features_of(extractor, given):
    """Return the features of a column, NaN where there are none, and why."""
    n_rows = len(given.values) + len(given.missing)
    X = np.full((n_rows, extractor.n_features_out_), np.nan, np.float32)
    reasons = dict.fromkeys(given.missing, NO_VALUE)
    if len(given.values):
        rows = np.delete(np.arange(n_rows), given.missing)
        X[rows], errors = extractor.transform_with_errors(given.values)
        reasons |= {int(rows[i]): reason_of(error, i) for i, error in errors.items()}
    return X, reasons
