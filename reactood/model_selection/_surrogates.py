"""Make surrogate OOD images or features from in-distribution data."""

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
    """Make out-of-distribution (OOD) images from in-distribution (ID) images.

    The new images help to choose a percentile when there are no OOD data: see
    :func:`tune_percentile`.

    Parameters
    ----------
    X_id : images
        ID images, of any kind that :class:`~reactood.TorchFeatureExtractor` takes,
        except a DataLoader.

    kind : str, default="gaussian_noise"
        How the new images are made.

        - `"gaussian_noise"`: random pixels, normal with the mean and the standard
          deviation of the channel in `X_id`; the paper's choice [1]_.
        - `"uniform_noise"`: random pixels, uniform from 0 to 255, or over the range of
          the channel if `X_id` holds float images.
        - `"permuted_pixels"`: the pixels of an image in random order, which keeps the
          colours.
        - `"phase_scrambled"`: an image with random phases in the Fourier domain, which
          keeps the power at each scale but destroys the shapes.
        - `"blurred_mix"`: a blurred mix of two images, 30 to 70 % of each.

    n_samples : int, default=None
        Number of new images; None for as many as `X_id` holds.

    random_state : int, RandomState instance or None, default=0
        Makes the new images repeatable.

    Returns
    -------
    X_ood : ndarray or list
        Images of the same kind as `X_id`: an array of the same layout and dtype for an
        array or a tensor; a list of PIL images for paths, a folder or PIL images; a
        list of images like its items for a Dataset.

    Raises
    ------
    ValueError
        If `kind` is not a known one, or an image cannot be read.

    See Also
    --------
    make_surrogate_features : The same for features.
    tune_percentile : Chooses a percentile by surrogates.

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
    """Yield surrogate images one at a time: all together may not fit into memory.

    ``rows`` are the indices in ``X_id`` of the images to use; None for all.
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
    """Make out-of-distribution (OOD) features from in-distribution (ID) features.

    Use it when the images of the features are not available. Otherwise prefer noise
    images passed through the network, which resemble real OOD data more: see
    :func:`make_surrogate_ood`.

    Parameters
    ----------
    X_id : array-like of shape (n_samples, n_features)
        ID features.

    kind : {"permuted_units", "gaussian_noise", "mixed"}, default="permuted_units"
        How the new features are made.

        - `"permuted_units"`: the values of each unit are permuted among the rows,
          independently of the other units.
        - `"gaussian_noise"`: normal with each unit's mean and standard deviation;
          values below the unit's smallest value are raised to it.
        - `"mixed"`: the mean of two rows.

    n_samples : int, default=None
        Number of new rows; None for as many as `X_id` has.

    random_state : int, RandomState instance or None, default=0
        Makes the new features repeatable.

    Returns
    -------
    X_ood : ndarray of shape (n_samples, n_features)
        Features, in the dtype of `X_id` if that is float32 or float64.

    Raises
    ------
    ValueError
        If `kind` is not a known one, or `X_id` holds NaN or inf.

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
