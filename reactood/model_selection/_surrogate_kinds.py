"""The kinds of surrogate OOD data: how each is made of ID images or features."""

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from reactood._images._pixels import channels_last, pixels_of
from reactood._images._sources import open_source

MOST_MEASURED = 256  # images from which mean and standard deviation are estimated


class Images:
    """ID images of any kind, as float arrays (height, width, channels)."""

    def __init__(self, X, rows=None):
        self.source = open_source(X, validate=_check_axes, missing_ok=True)
        self.rows = range(len(self.source)) if rows is None else rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.source.image(int(self.rows[row]))

    def pixels(self, row):
        """Return an image's pixels as a float64 array (height, width, channels)."""
        array = pixels_of(self[row])
        return array.reshape(*array.shape[:2], -1).astype(np.float64)

    def is_8_bit(self, row):
        """Return whether an image has 8-bit pixels, not preprocessed floats."""
        dtype = getattr(self[row], "dtype", np.uint8)
        return dtype in (np.uint8, torch.uint8)

    def like(self, row, pixels):
        """Return pixels as an image of the same kind as image ``row``."""
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
        # The phases of real noise, so that the new image is real; all channels share
        # them.
        noise = np.fft.fft2(random.normal(size=pixels.shape[:2]))
        phase = np.exp(1j * np.angle(noise))
        phase[0, 0] = 1  # keeps the mean of the image
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
        if other.shape != pixels.shape:  # one is grey, the other RGB
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
