"""The actors that Ray runs: how many, and what each has."""

from numbers import Integral

from reactood._networks._engines import device_of
from reactood._networks._forward import BATCH_SIZES, read_size

ROWS_OF_FEATURES = 4096


class Pool:
    """A pool of actors that each load an estimator once.

    Parameters
    ----------
    extractor : TorchFeatureExtractor or None
        Runs the network in each actor.
    workers : int, tuple of int, or None
        The most actors, the least and the most, or None for as many as there is room
        for.
    num_cpus, num_gpus : float
        What each actor has; ``num_gpus=None`` is one where the extractor would use it
        and the cluster has any.
    batch_size : int or None
        Rows at a time; None takes the extractor's batches.
    """

    def __init__(self, extractor, *, workers, num_cpus, num_gpus, batch_size):
        self.size = _size(workers)
        if num_gpus is None:
            num_gpus = _n_gpus(extractor)
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        if batch_size is None:
            batch_size = _batch_size(extractor, num_gpus)
        elif not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(
                f"batch_size={batch_size!r}: expected a whole number of at least 1, or "
                "None for that of the extractor."
            )
        self.batch_size = int(batch_size)

    def map(self, dataset, worker, **arguments):
        """Return the dataset of what ``worker(**arguments)`` makes of its batches."""
        from ray.data import ActorPoolStrategy

        return dataset.map_batches(
            worker,
            fn_constructor_kwargs=arguments,
            compute=ActorPoolStrategy(**self.size),
            batch_size=self.batch_size,
            batch_format="pyarrow",
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus or None,
        )


def _size(workers):
    if workers is None:
        return {"min_size": 1}
    if isinstance(workers, Integral) and int(workers) >= 1:
        # Not all at once: where they take every core, nothing is left to read images.
        return {"min_size": 1, "max_size": int(workers)}
    if isinstance(workers, tuple) and len(workers) == 2:
        if all(isinstance(n, Integral) for n in workers):
            least, most = map(int, workers)
            if 1 <= least <= most:
                return {"min_size": least, "max_size": most}
    raise ValueError(
        f"workers={workers!r}: expected the most actors, or the least and the most as "
        "a tuple, or None for as many as there is room for."
    )


def _n_gpus(extractor):
    import ray

    if extractor is None or str(extractor.device).split(":")[0] not in ("auto", "cuda"):
        return 0
    if (extractor.device, extractor.engine) == ("auto", "openvino"):
        return 0
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


def _batch_size(extractor, num_gpus):
    """Return the rows of the batches that an actor will run."""
    if extractor is None:
        return ROWS_OF_FEATURES
    if extractor.batch_size == "auto" and num_gpus:
        return BATCH_SIZES["cuda"]
    device = device_of(extractor.device, extractor.engine)
    return read_size(extractor.batch_size, device)
