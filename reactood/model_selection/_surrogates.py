"""Make surrogate OOD images or features out of in-distribution data."""

from collections.abc import Iterator
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_array, check_random_state

from reactood._utils._estimators import checked
from reactood._utils._sklearn import Interval, StrOptions
from reactood._utils._tensors import as_float
from reactood.model_selection._surrogate_kinds import (
    FEATURE_KINDS,
    IMAGE_KINDS,
    Images,
)

__all__ = ["make_surrogate_features", "make_surrogate_ood"]

COUNT = Interval(Integral, 1, None, closed="left")


@checked(kind=[StrOptions(set(IMAGE_KINDS))], n_samples=[COUNT, None])
def make_surrogate_ood(X_id, kind="gaussian_noise", *, n_samples=None, random_state=0):
    """Make images that are out-of-distribution (OOD), of in-distribution (ID) ones.

    They help to choose a percentile where there are no OOD data: see
    :func:`tune_percentile`.

    Parameters
    ----------
    X_id : images
        ID images, of any kind that :class:`~reactood.TorchFeatureExtractor` takes, but
        for a DataLoader.

    kind : str, default="gaussian_noise"
        How they are made.

        - `"gaussian_noise"`: each pixel is drawn anew, with the mean and the standard
          deviation that its channel has in `X_id`; the paper's choice [1]_.
        - `"uniform_noise"`: each pixel is drawn anew, from all that 8 bits can say, or
          from the range of the channel in float images.
        - `"permuted_pixels"`: an image's pixels in another order; colours stay.
        - `"phase_scrambled"`: random phases in the Fourier domain; an image's power
          at each scale stays, its shapes go.
        - `"blurred_mix"`: two images, 30 to 70 % of each, blurred.

    n_samples : int, default=None
        How many; None for as many as there are in `X_id`.

    random_state : int, RandomState instance or None, default=0
        Makes them repeatable.

    Returns
    -------
    X_ood : ndarray or list
        Images like those of `X_id`: an array of the same layout and dtype for an array
        or a tensor, a list of PIL images for paths, a folder or PIL images, and a list
        of what the items are for a Dataset.

    Raises
    ------
    ValueError
        If the kind is not known or an image cannot be read.

    See Also
    --------
    make_surrogate_features : The same for features.
    tune_percentile : Chooses a percentile by them.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> from reactood.datasets import load_digits_ood
    >>> from reactood.model_selection import make_surrogate_ood
    >>> images = load_digits_ood().X_test
    >>> noise = make_surrogate_ood(images, n_samples=10)
    >>> noise.shape[1:] == images.shape[1:], noise.dtype == images.dtype
    (True, True)
    """
    n_samples = len(Images(X_id)) if n_samples is None else n_samples
    made = list(iterate_surrogates(X_id, kind, n_samples, random_state))
    return np.stack(made) if hasattr(X_id, "shape") and _alike(made) else made


@checked(kind=[StrOptions(set(IMAGE_KINDS))])
def iterate_surrogates(X_id, kind, n_samples, random_state=0, *, rows=None) -> Iterator:
    """Yield images one at a time: all together may not fit into memory.

    ``rows`` are the images that they are made of; None for all.
    """
    images, random = Images(X_id, rows), check_random_state(random_state)
    make = IMAGE_KINDS[kind](images, random)
    index = random.permutation(len(images))
    for i in range(n_samples):
        if i and i % len(images) == 0:
            index = random.permutation(len(images))
        row = index[i % len(images)]
        yield images.like(row, make(images.pixels(row)))


@checked(kind=[StrOptions(set(FEATURE_KINDS))], n_samples=[COUNT, None])
def make_surrogate_features(
    X_id, kind="permuted_units", *, n_samples=None, random_state=0
):
    """Make features that are out-of-distribution (OOD), of in-distribution (ID) ones.

    For detectors on features whose images are gone. Noise images that pass through the
    network say more: see :func:`make_surrogate_ood`.

    Parameters
    ----------
    X_id : array-like of shape (n_samples, n_features)
        ID features.

    kind : {"permuted_units", "gaussian_noise", "mixed"}, default="permuted_units"
        How they are made.

        - `"permuted_units"`: each unit's values in another order of rows, so that
          units no longer go together.
        - `"gaussian_noise"`: normal with each unit's mean and standard deviation, cut
          off below at the unit's smallest value.
        - `"mixed"`: the mean of two rows.

    n_samples : int, default=None
        How many; None for as many as there are in `X_id`.

    random_state : int, RandomState instance or None, default=0
        Makes them repeatable.

    Returns
    -------
    X_ood : ndarray of shape (n_samples, n_features)
        Features, in the dtype of `X_id` if that is float32 or float64.

    Raises
    ------
    ValueError
        If the kind is not known, or `X_id` holds NaN or inf.

    See Also
    --------
    make_surrogate_ood : The same for images.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.model_selection import make_surrogate_features
    >>> H = np.random.default_rng(0).gamma(2, size=(50, 4))
    >>> H_ood = make_surrogate_features(H, n_samples=20)
    >>> H_ood.shape
    (20, 4)
    """
    if isinstance(X_id, torch.Tensor):
        X_id = as_float(X_id.detach().cpu()).numpy()
    X_id = check_array(X_id, dtype=[np.float64, np.float32])
    n_samples = len(X_id) if n_samples is None else n_samples
    made = FEATURE_KINDS[kind](X_id, n_samples, check_random_state(random_state))
    return made.astype(X_id.dtype, copy=False)


def _alike(made):
    return len({image.shape for image in made}) == 1
