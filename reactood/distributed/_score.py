"""score: one row for each image of a dataset, made by actors of Ray Data."""

import numpy as np

from reactood.distributed._columns import (
    FEATURES,
    Column,
    check_names,
    find_column,
    names_of,
)
from reactood.distributed._features import of_actor
from reactood.distributed._parcel import Parcel
from reactood.distributed._pool import Pool
from reactood.distributed._row_scorer import NO_VALUE, RowScorer


def score(
    pipeline,
    dataset,
    *,
    column=None,
    model=None,
    preprocess=None,
    workers=None,
    num_cpus=1,
    num_gpus=None,
    batch_size=None,
    preserve_order=False,
):
    """Score the images of a dataset of Ray Data on all machines of a cluster.

    Nothing is computed yet: the result is a lazy dataset, whose own methods read it or
    write it, such as `write_parquet`. It never needs to fit into memory.

    Parameters
    ----------
    pipeline : estimator or path-like
        A fitted pipeline from images to decisions, with or without a
        :class:`~reactood.conformal.ConformalDetector`, a fitted detector of features,
        or the file that :func:`reactood.persistence.save` made of it.

    dataset : ray.data.Dataset
        One row for each image: a path, the content of an image file, pixels, or an
        array that is already preprocessed; or the image's features.

    column : str, default=None
        The column of the images. None takes the only column, or else the first of
        `"features"`, `"image"`, `"bytes"`, `"path"`, `"item"` and `"data"` that there
        is. A column called `"features"` holds what the extractor would return.

    model : callable or dict, default=None
        A function without arguments that builds your own model, as in
        :func:`reactood.persistence.load`; by default the function that the extractor
        was given. Needed for a model that was given as a module.

    preprocess : callable, default=None
        Your own preprocessing, as there; by default that of the extractor.

    workers : int or tuple of int, default=None
        The most actors, each with a model of its own; None for as many as there is room
        for. Ray starts with one, and adds more while there is work and room. A tuple is
        the least and the most: `(8, 8)` starts all at once. If these take every core,
        and none is left to read the dataset, the job waits for ever.

    num_cpus : float, default=1
        Cores of each actor. It is also the number of threads of each.

    num_gpus : float, default=None
        GPUs of each actor; a fraction, such as 0.5, shares one between several. None
        is 1 if the cluster has GPUs and the extractor's `device` allows one, else 0.

    batch_size : int, default=None
        Rows that an actor gets at once; None takes the extractor's batches.

    preserve_order : bool, default=False
        Whether rows come in the order of `dataset`. Ray keeps some results in memory
        until those before them are there. It sets this option of the `dataset`, too.

    Returns
    -------
    scores : ray.data.Dataset
        All columns of `dataset` but those of images and features, and

        - `score`, the higher, the more in-distribution; float64;
        - `decision`, `"id"` or `"ood"`;
        - `p_value`, if the detector is calibrated; float64;
        - `class`, the classifier's own decision;
        - `error`, the reason if an image cannot be read. The others are then null.

    Raises
    ------
    ValueError
        If the column is not found, or columns of `dataset` have the names of the
        result; if `model` or `preprocess` is needed and not given.

    TypeError
        If `pipeline` is nothing that :func:`reactood.persistence.save` can keep.

    See Also
    --------
    fit : Learns from a dataset.

    Notes
    -----
    The file of :func:`reactood.persistence.save` is sent, once to each machine.
    An actor that dies is replaced, and its rows are computed again, with the same
    result. The last digits of a score may depend on the images in the same batch:
    `dataset.repartition(target_num_rows_per_block=n, strict=True)` with a multiple `n`
    of the batch size makes the batches those of a single process.

    Examples
    --------
    .. code-block:: python

        import ray
        from reactood.distributed import score

        images = ray.data.read_parquet("s3://bucket/list-of-images")
        scores = score("detector.safetensors", images, column="path", num_gpus=0.5)
        scores.write_parquet("s3://bucket/scores")
    """
    import ray

    parcel = Parcel(pipeline, model, preprocess)
    scorer = RowScorer(parcel.open())
    column = find_column(dataset, column)
    check_names(names_of(dataset, look=False), scorer.columns, column)
    pool = Pool(
        None if column == FEATURES else scorer.extractor,
        workers=workers,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        batch_size=batch_size,
    )
    scores = pool.map(dataset, Scores, parcel=ray.put(parcel), column=column)
    if preserve_order:
        scores.context.execution_options.preserve_order = True
    return scores


class Scores:
    """An actor that adds the columns of scores to tables.

    Parameters
    ----------
    parcel : ObjectRef
        The estimator.
    column : str
        The column of the images.
    """

    def __init__(self, parcel, column):
        import ray

        self.scorer = RowScorer(ray.get(parcel).open())
        if self.scorer.extractor is not None:
            of_actor(self.scorer.extractor)
        self.column = column
        self.types = _types_of(self.scorer)

    def __call__(self, table):
        """Return the table with the columns of scores, and without the images."""
        import pyarrow as pa

        check_names(table.column_names, self.scorer.columns, self.column)
        given = Column(table, self.column)
        found = self._score(given)
        _put_missing(found, given.missing)
        if self.column == FEATURES and "error" in table.column_names:
            _say_why(found, given.missing, table["error"].to_pylist())
            table = table.drop_columns(["error"])
        if not given.are_paths:
            table = table.drop_columns([self.column])
        names = [*table.column_names, *self.scorer.columns]
        added = [pa.array(found[name], self.types[name]) for name in found]
        return pa.Table.from_arrays([*table.columns, *added], names)

    def _score(self, given):
        if not len(given.values):
            return {name: [] for name in self.scorer.columns}
        if self.scorer.extractor is None or self.column == FEATURES:
            return self.scorer.of_features(np.asarray(given.values))
        return self.scorer.of_images(given.values)


def _put_missing(columns, missing):
    """Put rows without an image back where they were."""
    for row in missing:  # in ascending order
        for name, values in columns.items():
            values.insert(row, NO_VALUE if name == "error" else None)


def _say_why(columns, missing, errors):
    """Take over why there are no features."""
    for row in missing:
        columns["error"][row] = errors[row] or NO_VALUE


def _types_of(scorer):
    """Return the Arrow types of the columns, the same for all batches."""
    import pyarrow as pa

    labels = np.asarray(getattr(scorer.classifier, "classes_", np.arange(2)))
    types = dict.fromkeys(scorer.columns, pa.string())
    types |= dict.fromkeys(set(types) & {"score", "p_value"}, pa.float64())
    types["class"] = pa.array(labels.tolist()).type
    return types
