"""Make surrogate OOD images or features out of in-distribution data."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.utils import check_array, check_random_state

from reactood._images._pixels import channels_last, pixels_of
from reactood._images._sources import open_source
from reactood._utils._tensors import as_float

__all__ = ["make_surrogate_features", "make_surrogate_ood"]

MOST_MEASURED = 256  # images from which mean and spread are estimated


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
    n_samples = len(_Images(X_id)) if n_samples is None else n_samples
    made = list(iterate_surrogates(X_id, kind, n_samples, random_state))
    return np.stack(made) if hasattr(X_id, "shape") and _alike(made) else made


def iterate_surrogates(X_id, kind, n_samples, random_state=0, *, rows=None) -> Iterator:
    """Yield images one at a time: all together may not fit into memory.

    ``rows`` are the images that they are made of; None for all.
    """
    if kind not in IMAGE_KINDS:
        raise ValueError(_unknown(kind, IMAGE_KINDS))
    images, random = _Images(X_id, rows), check_random_state(random_state)
    make = IMAGE_KINDS[kind](images, random)
    index = random.permutation(len(images))
    for i in range(n_samples):
        if i and i % len(images) == 0:
            index = random.permutation(len(images))
        row = index[i % len(images)]
        yield images.like(row, make(images.pixels(row)))


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
    if kind not in FEATURE_KINDS:
        raise ValueError(_unknown(kind, FEATURE_KINDS))
    if isinstance(X_id, torch.Tensor):
        X_id = as_float(X_id.detach().cpu()).numpy()
    X_id = check_array(X_id, dtype=[np.float64, np.float32])
    n_samples = len(X_id) if n_samples is None else n_samples
    made = FEATURE_KINDS[kind](X_id, n_samples, check_random_state(random_state))
    return made.astype(X_id.dtype, copy=False)


class _Images:
    """ID images as float arrays (height, width, channels), whatever they are."""

    def __init__(self, X, rows=None):
        self.source = open_source(X, validate=_check_axes, missing_ok=True)
        self.rows = range(len(self.source)) if rows is None else rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.source.image(int(self.rows[row]))

    def pixels(self, row):
        """Return an image's pixels, and whether they are of 8 bits."""
        array = pixels_of(self[row])
        return array.reshape(*array.shape[:2], -1).astype(np.float64)

    def is_8_bit(self, row):
        """Return whether an image is pixels, and not floats already preprocessed."""
        dtype = getattr(self[row], "dtype", np.uint8)
        return dtype in (np.uint8, torch.uint8)

    def like(self, row, pixels):
        """Return pixels as an image of the same kind as that in ``row``."""
        item = self[row]
        if not self.is_8_bit(row):
            dtype = str(getattr(item, "dtype", "float32")).removeprefix("torch.")
            # NumPy has no bfloat16.
            dtype = dtype if dtype in ("float16", "float64") else "float32"
            return np.moveaxis(pixels, -1, 0).astype(dtype)
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        if not isinstance(item, np.ndarray | torch.Tensor):
            return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if not channels_last(tuple(item.shape)):
            pixels = np.moveaxis(pixels, -1, 0)
        return pixels.reshape(tuple(item.shape))

    def moments(self, random):
        """Return mean, standard deviation, minimum and maximum of each channel."""
        rows = random.permutation(len(self))[:MOST_MEASURED]
        flat = [p.reshape(-1, p.shape[2]) for p in map(self.pixels, rows)]
        n = sum(map(len, flat))
        mean = sum(p.sum(axis=0) for p in flat) / n
        variance = sum(((p - mean) ** 2).sum(axis=0) for p in flat) / n
        lowest = np.min([p.min(axis=0) for p in flat], axis=0)
        highest = np.max([p.max(axis=0) for p in flat], axis=0)
        if self.is_8_bit(rows[0]):
            lowest, highest = np.zeros_like(mean), np.full_like(mean, 255)
        return mean, np.sqrt(variance), lowest, highest


def _check_axes(X):
    """Return float images; raise for features."""
    if getattr(X, "ndim", 0) == 4:
        return X
    raise ValueError(
        f"X_id is {getattr(X, 'shape', type(X).__name__)}, expected images; float ones "
        "have the shape (n, channels, height, width). For features see "
        "make_surrogate_features."
    )


def _gaussian_noise(images, random):
    mean, std, _, _ = images.moments(random)
    return lambda pixels: random.normal(mean, std, pixels.shape)


def _uniform_noise(images, random):
    _, _, lowest, highest = images.moments(random)
    return lambda pixels: random.uniform(lowest, highest, pixels.shape)


def _permuted_pixels(images, random):
    def make(pixels):
        flat = pixels.reshape(-1, pixels.shape[2])
        return random.permutation(flat).reshape(pixels.shape)

    return make


def _phase_scrambled(images, random):
    def make(pixels):
        # Of real noise, so that the image comes out real; one for all channels.
        noise = np.fft.fft2(random.normal(size=pixels.shape[:2]))
        phase = np.exp(1j * np.angle(noise))
        phase[0, 0] = 1  # the mean stays
        spectrum = np.fft.fft2(pixels, axes=(0, 1)) * phase[..., None]
        return np.fft.ifft2(spectrum, axes=(0, 1)).real

    return make


def _blurred_mix(images, random):
    def make(pixels):
        other = images.pixels(random.randint(len(images)))
        rows, columns = (
            np.linspace(0, other.shape[i] - 1, pixels.shape[i]).astype(int)
            for i in (0, 1)
        )
        other = other[rows][:, columns]
        if other.shape != pixels.shape:  # grey beside RGB
            other = other.mean(axis=2, keepdims=True)
        sigma = max(pixels.shape[:2]) / 50
        share = random.uniform(0.3, 0.7)
        mixed = share * pixels + (1 - share) * other
        return gaussian_filter(mixed, (sigma, sigma, 0))

    return make


IMAGE_KINDS = {
    "gaussian_noise": _gaussian_noise,
    "uniform_noise": _uniform_noise,
    "permuted_pixels": _permuted_pixels,
    "phase_scrambled": _phase_scrambled,
    "blurred_mix": _blurred_mix,
}


def _permuted_units(X, n, random):
    made = np.empty((n, X.shape[1]), X.dtype)
    for column in range(X.shape[1]):
        rows = np.resize(random.permutation(len(X)), n)
        made[:, column] = X[random.permutation(rows), column]
    return made


def _gaussian_features(X, n, random):
    noise = random.normal(X.mean(axis=0), X.std(axis=0), (n, X.shape[1]))
    return np.maximum(noise, X.min(axis=0))


def _mixed(X, n, random):
    one, other = random.randint(len(X), size=(2, n))
    return (X[one] + X[other]) / 2


FEATURE_KINDS = {
    "permuted_units": _permuted_units,
    "gaussian_noise": _gaussian_features,
    "mixed": _mixed,
}


def _alike(made):
    return len({image.shape for image in made}) == 1


def _unknown(kind, known):
    names = ", ".join(map(repr, known))
    return f"kind={kind!r} is not known; expected one of {names}."
