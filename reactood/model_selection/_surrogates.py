"""Make surrogate OOD images or features from in-distribution data."""

from collections.abc import Iterator
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import Bunch, check_array, check_random_state

from reactood._scoring._left_out import N_PARTS, N_REPEATS
from reactood._utils._estimators import checked
from reactood._utils._sklearn import Interval, StrOptions
from reactood._utils._tensors import as_array
from reactood.detector import ReActDetector
from reactood.model_selection._surrogate_kinds import (
    FEATURE_KINDS,
    IMAGE_KINDS,
    Images,
)
from reactood.model_selection._trial import Trial, reduced_head

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


@checked(
    kind=[StrOptions({*FEATURE_KINDS, "left_out_classes"})], n_samples=[COUNT, None]
)
def make_surrogate_features(
    X_id, kind="permuted_units", *, head=None, n_samples=None, random_state=0
):
    """Make out-of-distribution (OOD) features from in-distribution (ID) features.

    Left-out classes resemble real OOD data most. The other kinds are for heads of two
    classes, when the images of the features are not available; with images, see
    :func:`make_surrogate_ood`.

    Parameters
    ----------
    X_id : array-like of shape (n_samples, n_features)
        ID features.

    kind : {"left_out_classes", "permuted_units", "gaussian_noise", "mixed"}, \
            default="permuted_units"
        How the new features are made.

        - `"left_out_classes"`: the rows that `head` assigns to half of its classes,
          drawn at random, are OOD to the head that has the other half only. This is
          done with both halves, three times.

        - `"permuted_units"`: the values of each unit are permuted among the rows,
          independently of the other units.
        - `"gaussian_noise"`: normal with each unit's mean and standard deviation;
          values below the unit's smallest value are raised to it.
        - `"mixed"`: the mean of two rows.

    head : head of a :class:`~reactood.ReActDetector`, default=None
        Needed for `"left_out_classes"`, and not used by the others. Where `X_id` holds
        logits, `torch.nn.Identity()`.

    n_samples : int, default=None
        Number of new rows; None for as many as `X_id` has. Of left-out classes the
        largest number in a part; None for all that there are.

    random_state : int, RandomState instance or None, default=0
        Makes the new features repeatable.

    Returns
    -------
    X_ood : ndarray of shape (n_samples, n_features), or list of Bunch
        Features, in the dtype of `X_id` if that is float32 or float64. For
        `"left_out_classes"` a list of parts, each with `X_id` and `X_ood`, which are
        rows of the given features, and `head`, the head without the classes of
        `X_ood`.

    Raises
    ------
    ValueError
        If `kind` is not a known one, if `X_id` holds NaN or inf, or if there is no
        head, or one of two classes, from which none can be left out.

    See Also
    --------
    make_surrogate_ood : The same for images.
    tune_detector : Chooses score and percentile by left-out classes.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.model_selection import make_surrogate_features
    >>> rng = np.random.default_rng(0)
    >>> H, head = rng.gamma(2, size=(50, 4)), (rng.normal(size=(6, 4)), np.zeros(6))
    >>> H_ood = make_surrogate_features(H, n_samples=20)
    >>> H_ood.shape
    (20, 4)
    >>> parts = make_surrogate_features(H, "left_out_classes", head=head)
    >>> parts[0].head[0].shape, len(parts[0].X_id) + len(parts[0].X_ood)
    ((3, 4), 50)
    """
    if isinstance(X_id, torch.Tensor):
        X_id = as_array(X_id)
    X_id = check_array(X_id, dtype=[np.float64, np.float32])
    random = check_random_state(random_state)
    if kind == "left_out_classes":
        return _left_out_classes(X_id, head, n_samples, random)
    n_samples = len(X_id) if n_samples is None else n_samples
    return FEATURE_KINDS[kind](X_id, n_samples, random).astype(X_id.dtype, copy=False)


def _left_out_classes(X, head, n_samples, random):
    """Return the parts: rows that stay, rows of left-out classes, the reduced head."""
    if head is None:
        raise ValueError(
            "kind='left_out_classes' needs the head from which classes are left out: "
            "head=extractor.head_, or (weight, bias). Where X_id holds logits, "
            "head=torch.nn.Identity()."
        )
    detector = ReActDetector(head)
    trial = Trial.of(
        detector,
        X,
        None,
        n_parts=N_PARTS,
        n_repeats=N_REPEATS,
        max_samples=None,
        random=random,
    )
    parts = []
    for kept, known in zip(trial.left_out.kept, trial.left_out.known, strict=True):
        X_ood = X[~known]
        if n_samples is not None and n_samples < len(X_ood):
            X_ood = X_ood[np.sort(random.permutation(len(X_ood))[:n_samples])]
        reduced = reduced_head(trial.scorer.head, kept)
        parts.append(Bunch(X_id=X[known], X_ood=X_ood, head=reduced))
    return parts


def _alike(made):
    return len({image.shape for image in made}) == 1
