"""fit: learn from all images of a dataset, in parts that are joined at the end."""

import pickle
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from reactood._scoring._heads import fixed_head
from reactood._scoring._row_sample import RowSample
from reactood._utils._warnings import warn
from reactood.distributed._columns import FEATURES, Column, find_column, names_of
from reactood.distributed._features import Features, features_of, open_extractor
from reactood.distributed._parcel import Parcel
from reactood.distributed._pool import Pool
from reactood.distributed._row_scorer import NO_VALUE
from reactood.extractor import TorchFeatureExtractor

LOOKED_AT = 64  # images that the network is proved on, if some cannot be read
BATCHES_OF_A_PART = 16  # of the extractor, that are counted together


def fit(
    pipeline,
    dataset,
    *,
    column=None,
    y=None,
    features=None,
    model=None,
    preprocess=None,
    workers=None,
    num_cpus=1,
    num_gpus=None,
    batch_size=None,
):
    """Fit a pipeline to the images of a dataset of Ray Data, in one pass.

    Actors take the features and count them, as
    :meth:`reactood.ReActDetector.partial_fit` does; what they counted is joined, as
    :meth:`reactood.ReActDetector.merge` does. The result is the same for any number of
    actors and any order.

    Parameters
    ----------
    pipeline : Pipeline or ReActDetector
        An extractor and a :class:`~reactood.ReActDetector`, as from
        :func:`~reactood.make_react_pipeline`; or such a detector, for features. It
        stays as it is.

    dataset : ray.data.Dataset
        One row for each image, as in :func:`score`. With a column `"features"`, the
        network is not run, and the pipeline's extractor must be fitted.

    column : str, default=None
        The column of the images, as in :func:`score`.

    y : str, default=None
        The column of labels. Rows where it is -1 are out-of-distribution, and left out.

    features : str, default=None
        A new folder, also of a bucket, where the features are kept as Parquet, with
        the other columns. :func:`score` and `fit` take
        `ray.data.read_parquet(features)`.

    model : callable or dict, default=None
        As in :func:`score`.

    preprocess : callable, default=None
        As in :func:`score`.

    workers : int or tuple of int, default=None
        As in :func:`score`.

    num_cpus : float, default=1
        As in :func:`score`.

    num_gpus : float, default=None
        As in :func:`score`.

    batch_size : int, default=None
        Rows that an actor counts at once; None takes 16 batches of the extractor.

    Returns
    -------
    fitted : Pipeline or ReActDetector
        A fitted copy of `pipeline`.

    Raises
    ------
    ValueError
        If the column is not found; if an image cannot be read, unless the extractor has
        `on_error="nan"`: then a warning says how many were left out. Also where
        `partial_fit` raises it, and if `model` or `preprocess` is needed and not given.

    TypeError
        If the detector cannot learn from parts.

    FileExistsError
        If `features` exists, and no checkpoint says that it is incomplete.

    See Also
    --------
    score : Scores a dataset.
    reactood.ReActDetector.partial_fit : What is counted, and how exact that is.

    Notes
    -----
    The parts travel with the rows that they count: where an actor dies, its rows are
    counted again, and each once. To go on after the whole job has died, use `features`
    with a checkpoint of Ray Data.

    Examples
    --------
    .. code-block:: python

        import ray
        from reactood import make_react_pipeline
        from reactood.distributed import fit

        images = ray.data.read_parquet("s3://bucket/list-of-images")
        pipeline = make_react_pipeline("resnet50", on_error="nan")
        fitted = fit(pipeline, images, column="path", features="s3://bucket/features")
    """
    import ray

    extractor, detector = _steps_of(pipeline)
    column = find_column(dataset, column)
    _check_labels(dataset, y)
    settings = {"workers": workers, "num_cpus": num_cpus, "num_gpus": num_gpus}
    raises = extractor is not None and extractor.on_error == "raise"
    parcel: Any = None
    if column == FEATURES:
        if extractor is not None and not hasattr(extractor, "n_features_out_"):
            raise ValueError(
                "The dataset holds features, and the pipeline's extractor is not "
                "fitted; expected the one that made them. Fit it to some images first: "
                "pipeline[0].fit(images)."
            )
    elif extractor is not None:
        extractor = _fitted_to_some(extractor, dataset, column)
        parcel = Parcel(extractor, model, preprocess)
        parcel.open()  # raises here what would else be raised in each actor
        parcel = ray.put(parcel)
    if features is not None:
        if parcel is None:
            raise ValueError("features= keeps features of images; leave it out here.")
        pool = Pool(extractor, batch_size=batch_size, **settings)
        _keep(pool.map(dataset, Features, parcel=parcel, column=column), features)
        dataset, column, parcel = ray.data.read_parquet(features), FEATURES, None
        batch_size = None
    pool = Pool(extractor if parcel else None, batch_size=batch_size, **settings)
    if parcel and batch_size is None:
        pool.batch_size *= BATCHES_OF_A_PART
    counter = clone(detector).set_params(head=None)  # counts need no head
    parts = pool.map(dataset, Parts, parcel=parcel, column=column, y=y, counter=counter)
    return _assembled(pipeline, extractor, _joined(detector, parts, raises))


class Parts:
    """An actor that counts features: each table becomes one row.

    Parameters
    ----------
    parcel : ObjectRef or None
        The extractor; None if there are features already.
    column : str
        The column of images or features.
    y : str or None
        The column of labels.
    counter : ReActDetector
        Not fitted; counts the features.
    """

    def __init__(self, parcel, column, y, counter):
        self.extractor = None if parcel is None else open_extractor(parcel)
        self.column, self.y, self.counter = column, y, counter
        self.seen: RowSample | None = None

    def __call__(self, table):
        """Return one row with what was counted, and how many rows were left out."""
        import pyarrow as pa

        given = Column(table, self.column)
        if self.extractor is not None:
            X, reasons = features_of(self.extractor, given)
        else:
            X = np.asarray(given.values)
            reasons = dict.fromkeys(given.missing, NO_VALUE)
            if "error" in table.column_names:
                said = table["error"].to_pylist()
                reasons |= {row: said[row] for row in reasons if said[row]}
        counted = clone(self.counter)
        n_rows = table.num_rows
        good = np.delete(np.arange(n_rows), list(reasons))
        if len(good):
            # Without an extractor, X lacks the missing rows already.
            X = X[good] if self.extractor is not None else X
            y = None if self.y is None else table[self.y].to_numpy()[good]
            counted.partial_fit(X, y)
            self._leave_out(counted._stream)
        state = pickle.dumps(counted) if len(good) else None
        return pa.table(
            {
                "state": pa.array([state], pa.large_binary()),
                "n_rows": [n_rows],
                "n_errors": [len(reasons)],
                "reason": pa.array([next(iter(reasons.values()), None)], pa.string()),
            }
        )

    def _leave_out(self, stream):
        """Leave out rows of a sample that cannot be in that of all rows.

        That is so for hashes above the largest one that would be kept of the rows that
        this actor has seen. A part then stays small, whatever the size of the sample.
        """
        sample = stream.sample
        if self.seen is None:
            self.seen = RowSample(sample.size, stream.n_features)
        self.seen.merge(sample)
        stream.sample = sample.those_among(self.seen)


def _steps_of(pipeline):
    """Return the extractor, or None, and the detector."""
    steps = (
        [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else []
    )
    extractor, detector = (None, pipeline) if not steps else (steps[0], steps[-1])
    if not (hasattr(detector, "partial_fit") and hasattr(detector, "merge")):
        raise TypeError(
            f"{type(detector).__name__} cannot learn from parts; expected a "
            "ReActDetector, or a pipeline that ends in one. Others learn from a "
            "sample: keep features=..., and fit them to some of its rows."
        )
    if steps and not (len(steps) == 2 and isinstance(extractor, TorchFeatureExtractor)):
        raise TypeError(
            f"The pipeline has the steps {[type(step).__name__ for step in steps]}; "
            "expected a TorchFeatureExtractor and a ReActDetector."
        )
    return extractor, detector


def _check_labels(dataset, y):
    names = names_of(dataset, look=False)
    if y is not None and names and y not in names:
        raise ValueError(f"y={y!r} is none of the dataset's columns, {names}.")


def _fitted_to_some(extractor, dataset, column):
    """Return a copy of the extractor, proved on some of the images."""
    some = dataset.select_columns([column]).take_batch(
        LOOKED_AT, batch_format="pyarrow"
    )
    return clone(extractor).fit(Column(some, column).values)


def _keep(dataset, folder):
    """Write features as Parquet; a job with a checkpoint goes on with what is there."""
    from ray.data import SaveMode

    # The checkpoint disappears with the last row: without one, what is in the folder is
    # complete, and appended rows would count twice.
    goes_on = _has_begun(dataset.context.checkpoint_config)
    mode = SaveMode.APPEND if goes_on else SaveMode.ERROR
    try:
        dataset.write_parquet(folder, mode=mode)
    except ValueError as error:
        if "already exists" not in str(error):
            raise
        raise FileExistsError(
            f"features={folder!r} exists already. Give another folder; or use what is "
            "in it: fit(pipeline, ray.data.read_parquet(folder))."
        ) from error


def _has_begun(checkpoint):
    """Return whether a checkpoint of Ray Data holds anything."""
    if checkpoint is None:
        return False
    from pyarrow.fs import FileSelector

    place = checkpoint.checkpoint_path.split("://")[-1]
    files = checkpoint.filesystem.get_file_info(
        FileSelector(place, allow_not_found=True, recursive=True)
    )
    return any(file.is_file for file in files)


def _joined(detector, parts, raises):
    """Return the detector that has learned all parts."""
    whole, n_rows, n_errors, reason = None, 0, 0, None
    for row in parts.iter_rows():
        n_rows += row["n_rows"]
        n_errors += row["n_errors"]
        reason = reason or row["reason"]
        if raises and n_errors:
            raise ValueError(
                f"{reason} To leave out images that cannot be read, set on_error='nan' "
                "of the extractor."
            )
        if row["state"] is None:
            continue
        part = pickle.loads(row["state"])
        whole = part if whole is None else whole.merge(part)
    if whole is None:
        raise ValueError(
            f"There is nothing to learn from: {n_rows} rows, and {n_errors} of them "
            f"could not be read{f': {reason}' if reason else '.'}"
        )
    if n_errors:
        warn(
            f"{n_errors} of {n_rows} images could not be read and were left out, such "
            f"as: {reason}"
        )
    whole.set_params(**clone(detector).get_params(deep=False))
    whole._take_head(fixed_head(whole.head, torch.zeros(1, whole.n_features_in_)))
    whole.offset_  # noqa: B018 (what follows from the counts, and its errors)
    return whole


def _assembled(pipeline, extractor, detector):
    """Return a copy of the pipeline with these fitted steps, or the detector alone."""
    if not isinstance(pipeline, Pipeline):
        return detector
    names = [name for name, _ in pipeline.steps]
    fitted = clone(pipeline)
    fitted.steps = list(zip(names, (extractor, detector), strict=True))
    return fitted
