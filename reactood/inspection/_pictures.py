"""Draw images as they were given, wherever pictures help to see what a score says."""

import os

import numpy as np
from PIL import Image

from reactood._images._pixels import pixels_of
from reactood._images._sources import open_source


def source_of(images):
    """Return the source of images, whatever they are; only their kind is checked."""
    return open_source(images, validate=_as_array, missing_ok=True)


def pictures_of(images, rows):
    """Return some images in a form that matplotlib draws, and the names of their files.

    Two None if they are no images, and None for the names if they are no files. Tables,
    texts and dicts of arrays are no images, though pipelines may take them. A
    DataLoader gives its images in batches only.
    """
    try:
        source = source_of(images)
        items = [source.image(row) for row in rows]
        pictures = [displayable(item) for item in items]
    except (TypeError, ValueError, OSError, NotImplementedError):
        return None, None
    if not all(isinstance(item, str | os.PathLike) for item in items):
        return pictures, None
    return pictures, [os.path.basename(item) for item in items]


def displayable(item):
    """Return one image in a form that matplotlib draws: uint8, or floats in [0, 1]."""
    n_axes = getattr(item, "ndim", None)
    if not isinstance(item, str | os.PathLike | Image.Image) and n_axes not in (2, 3):
        got = f"{type(item).__name__} of shape {getattr(item, 'shape', 'unknown')}"
        raise TypeError(
            f"An image is a {got}; expected a path, a PIL image, or an array of shape "
            "(height, width[, channels]) or (channels, height, width)."
        )
    pixels = pixels_of(item)
    if pixels.dtype != np.uint8:
        return _scaled(pixels)
    return pixels[..., 0] if pixels.shape[2:] == (1,) else pixels


def draw_picture(ax, image, x, y):
    """Draw an image with its longer side of length 1 and its centre at (x, y).

    The vertical axis of `ax` points down.
    """
    height, width = np.array(image.shape[:2]) / max(image.shape[:2]) / 2
    return ax.imshow(
        image,
        extent=(x - width, x + width, y + height, y - height),
        cmap="gray",
        vmin=0,
        vmax=255 if image.dtype == np.uint8 else 1,
    )


def _as_array(X):
    return X if hasattr(X, "shape") else np.asarray(X)


def _scaled(image):
    """Scale a preprocessed image to [0, 1]."""
    image = image.astype(np.float64)
    if image.ndim == 3 and image.shape[2] != 3:  # not RGB
        image = image.mean(axis=2)
    low, spread = image.min(), np.ptp(image)
    return (image - low) / (spread or 1)
