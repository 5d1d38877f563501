"""Recompute the statistics of batch normalisation on other images."""

import functools

from sklearn.utils import check_array
from torch.nn.modules.batchnorm import _BatchNorm

from reactood._images._image_source import split_rows
from reactood._images._preparation import preparation_of
from reactood._images._sources import open_source
from reactood._networks._build import build_network
from reactood._networks._engines import device_of
from reactood._networks._forward import read_size
from reactood._utils._ambient import (
    default_device,
    no_gradients,
    passes_default,
    without_autocast,
)
from reactood.baselines._clip_layer import with_model


@without_autocast()
def with_statistics_of(extractor, X):
    """Normalise with the statistics of given images instead of the training images.

    Batch normalisation uses the mean and the variance of the training images for all
    images. They do not fit out-of-distribution (OOD) images, which according to the
    ReAct paper is one reason for the high activations on OOD images [1]_. To measure
    this effect, use the statistics of the OOD images themselves. No detector could do
    so, because it would have to know which images are OOD.

    Parameters
    ----------
    extractor : TorchFeatureExtractor
        An extractor for a model with batch normalisation, fitted or not. It is not
        changed.

    X : images
        At least a few hundred images, of any kind that the extractor takes. The
        statistics of each layer are averages over batches, and each batch is normalised
        with its own statistics in the layers before. The batch size is that of the
        extractor. If `X` holds several kinds of images, shuffle them.

    Returns
    -------
    changed : TorchFeatureExtractor
        An unfitted extractor whose model is a copy with these statistics.

    Raises
    ------
    ValueError
        If the model has no batch normalisation, or if there are fewer than two images.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> from reactood import TorchFeatureExtractor
    >>> from reactood.baselines import with_statistics_of
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> digits = load_digits_ood()
    >>> extractor = TorchFeatureExtractor(digits_classifier).fit(digits.X_train)
    >>> photos = digits.ood["photo_china"]
    >>> with_statistics_of(extractor, photos).fit_transform(photos).shape
    (315, 96)
    """
    network, transform = build_network(extractor.model, extractor.weights)
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        raise ValueError(
            f"{type(network).__name__} has no batch normalisation with running "
            "statistics, which could be replaced."
        )
    device = device_of(extractor.device, extractor.engine)
    network.to(device)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()  # dropout and all other layers stay in eval mode
    source = open_source(
        X,
        preparation_of(extractor.preprocess, transform, extractor.decoder),
        validate=functools.partial(
            check_array, dtype="numeric", allow_nd=True, ensure_all_finite=False
        ),
        num_workers=extractor.num_workers,
    )
    n_images = 0
    with no_gradients(), default_device(passes_default(device)):
        for batch in source.batches(_whole_batches(source, extractor, device)):
            if batch.images is None or batch.errors:
                raise batch.errors[min(batch.errors)]
            n_images += len(batch.images)
            network(source.finish(batch.images.to(device)).float())
    if n_images < 2:
        raise ValueError(
            f"Got {n_images} images; expected at least 2, better a few hundred."
        )
    return with_model(extractor, network.cpu().eval(), transform)


def _whole_batches(source, extractor, device):
    """Return batches of rows of about the same size, because all weigh the same."""
    size = read_size(extractor.batch_size, device)
    n_batches = max(round((source.n_rows or 0) / size), 1)
    size = -(-(source.n_rows or size) // n_batches)
    return split_rows(range(source.n_rows or 0), size)
