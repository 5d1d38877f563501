"""Cluster: scores image files on the machines of a Ray cluster."""

import logging
import os
import sys

from reactood._cli import _models as models

BATCHES_OF_A_TASK = 8  # what is computed again where a machine is lost
MOST_TASKS = 10_000


class Cluster:
    """Yields the rows of an ImageScorer, made by actors of Ray.

    Parameters
    ----------
    estimator : estimator
        The detector.
    scorer : ImageScorer
        Of the same detector.
    options : argparse.Namespace
        With the address `ray`.

    Attributes
    ----------
    table_columns : tuple of str
        The keys of each row.
    extractor : TorchFeatureExtractor
        That of the detector.
    settings : dict
        All on which the last digits of scores may depend.
    """

    def __init__(self, estimator, scorer, options):
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ImportError(
                "--ray needs Ray: pip install 'reactood[ray]'. Or leave it out, and "
                "this machine does the work."
            ) from error
        self.ray = ray
        self.estimator, self.scorer, self.options = estimator, scorer, options
        self.table_columns, self.extractor = scorer.table_columns, scorer.extractor
        self.settings = dict(scorer.settings)

    def __enter__(self):
        from ray.data import DataContext

        from reactood.distributed._pool import Pool

        # A cluster for one command reports to nobody, and needs no page of its own.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here = {"include_dashboard": False} if self.options.ray == "local" else {}
        level = logging.ERROR if self.options.quiet else logging.WARNING
        self.ray.init(
            self.options.ray,
            logging_level=level,
            log_to_driver=False,  # what Ray's own processes say when they end
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_own_places())}},
            **here,
        )
        logging.getLogger("ray.data").setLevel(level)
        context = DataContext.get_current()
        # The table shows the progress of what is written.
        context.enable_progress_bars = False
        self.pool = Pool(
            self.scorer.extractor,
            workers=None,
            num_cpus=1,
            num_gpus=None,
            batch_size=None,
        )
        self.settings["batch size"] = self.pool.batch_size
        if self.pool.num_gpus:
            self.settings["device"] = "cuda"
        return self

    def __exit__(self, *error):
        self.ray.shutdown()

    def rows_of(self, paths):
        """Yield lists of rows, in the order of the paths."""
        from reactood.distributed import score

        preprocess = None
        if self.options.preprocess is not None:
            preprocess = models.preprocess_of(self.options)
        scores = score(
            self.estimator,
            self._dataset(paths),
            column="path",
            model=models.builder_of(self.options),
            preprocess=preprocess,
            num_gpus=self.pool.num_gpus,
            batch_size=self.pool.batch_size,
            preserve_order=True,
        )
        tables = iter(scores.iter_batches(batch_size=None, batch_format="pyarrow"))
        while True:
            try:
                table = next(tables, None)
            except self.ray.exceptions.RayError as error:
                # Its text is the traceback of another process; what it ends with tells.
                reason = str(error).strip().splitlines()[-1]
                raise RuntimeError(
                    f"A process of the cluster failed: {reason}"
                ) from error
            if table is None:
                return
            rows = table.select(self.table_columns).to_pylist()
            yield [row | {"path": os.fsdecode(row["path"])} for row in rows]

    def _dataset(self, paths):
        """Return a dataset of whole batches; the last one may be smaller."""
        import pyarrow as pa

        size = self.pool.batch_size * BATCHES_OF_A_TASK
        while len(paths) > size * MOST_TASKS:
            size *= 2
        # As bytes: a name may be no text.
        blocks = [
            pa.table({"path": [os.fsencode(path) for path in paths[i : i + size]]})
            for i in range(0, len(paths), size)
        ]
        return self.ray.data.from_arrow(blocks)


def _own_places():
    """Return the folders where modules are found, but for those of the installation.

    A file of the user's own may import others that stand beside it.
    """
    installed = sys.prefix, sys.base_prefix
    places = [os.getcwd(), *map(os.path.abspath, filter(None, sys.path))]
    return [place for place in dict.fromkeys(places) if not place.startswith(installed)]
