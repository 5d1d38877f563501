"""Read the pixels of one image of any kind, in RGB or grey."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from reactood._images._files import (
    decode,
    loaded,
    short,
)

CHANNELS = (1, 3, 4)
IMAGE_KEYS = ("image", "images", "img", "pixel_values", "data", "x", "input")


def read_image(item):
    """Read an image file, or encoded bytes, as RGB, or say what is wrong."""
    return as_rgb(decode(item))


def image_in(item):
    """Return the image in what a Dataset or DataLoader yields: the first of a tuple."""
    if isinstance(item, tuple | list) and item:
        return image_in(item[0]) if isinstance(item[0], Mapping) else item[0]
    if not isinstance(item, Mapping):
        return item
    if item.keys() <= {"bytes", "path"}:  # an image of Hugging Face that is not decoded
        return item.get("path") if item.get("bytes") is None else item["bytes"]
    for key in IMAGE_KEYS:
        if key in item:
            return image_in(item[key]) if isinstance(item[key], Mapping) else item[key]
    images = [value for value in item.values() if isinstance(value, Image.Image)]
    if len(images) == 1:
        return images[0]
    raise TypeError(
        f"The dataset yields dicts with keys {short(', '.join(map(str, item)))[1:-1]}; "
        f"expected the image under one of {', '.join(IMAGE_KEYS)}, or first in a tuple."
    )


def as_rgb(image):
    """Convert a PIL image of any mode to 8-bit RGB."""
    return as_rgb_or_grey(image).convert("RGB")


def as_rgb_or_grey(image):
    """Convert a PIL image to 8-bit RGB, or grey ("L") if it is grey."""
    if image.mode in ("I", "F"):
        name = getattr(image, "filename", "")
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise ValueError(
            f"{short(name) + ': ' if name else ''}its pixels are {kind} of "
            "unknown range; scale them to 8 bits, or give float arrays that are "
            "already preprocessed"
        )
    if image.mode.startswith("I;16"):  # Pillow's conversion would cut values above 255
        pixels = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.rint(pixels).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def pixels_of(item):
    """Return an image as an array, channels last where it has an axis for them.

    Of uint8, or floats as they are: of images that are already preprocessed.
    """
    if isinstance(item, Image.Image):
        return np.asarray(as_rgb_or_grey(loaded(item)))
    if not isinstance(item, np.ndarray | torch.Tensor):
        return np.asarray(read_image(item))
    array = np.asarray(item.detach().cpu() if torch.is_tensor(item) else item)
    if array.ndim == 3 and (array.dtype != np.uint8 or not channels_last(array.shape)):
        array = np.moveaxis(array, 0, -1)
    return array


def channels_last(shape):
    """Return whether a shape is (H, W, C) and not (C, H, W); raise if it is neither."""
    if len(shape) == 2 or shape[-1] in CHANNELS:
        return True
    if shape[0] in CHANNELS:
        return False
    raise ValueError(
        f"A uint8 image has shape {tuple(shape)}, expected (height, width, channels) "
        "or (channels, height, width) with 1, 3 or 4 channels; give other kinds of "
        "images as float arrays that are already preprocessed."
    )


def pixels_together(tensor):
    """Return whether (..., C, H, W) lies in memory as (..., H, W, C)."""
    return (
        tensor.ndim >= 3
        and not tensor.is_contiguous()
        and tensor.movedim(-3, -1).is_contiguous()
    )


def check_plain(item):
    """Refuse arrays and tensors that hold no plain numbers, or hide some."""
    if isinstance(item, np.ma.MaskedArray):
        if np.ma.is_masked(item):
            raise TypeError(
                "Got a masked array, whose mask would be lost; fill it first: "
                "X.filled(value)."
            )
    elif isinstance(item, np.ndarray) and item.dtype == object and item.ndim > 2:
        raise TypeError(
            f"Got an array of dtype object and shape {item.shape}, which does not say "
            "whether its numbers are pixels or already preprocessed; make it of uint8 "
            "for pixels in 0..255, or of floats that are already preprocessed: "
            "numpy.stack(images) keeps the dtype of what is in a list."
        )
    elif isinstance(item, torch.Tensor):
        kind = None
        if item.is_meta:
            kind = "on the device 'meta', without values"
        elif item.is_nested:
            kind = "nested"
        elif item.layout != torch.strided:
            kind = f"of layout {str(item.layout).removeprefix('torch.')}"
        if kind is not None:
            raise TypeError(
                f"Got a tensor that is {kind}; expected a plain one (n, C, H, W), or a "
                "list of tensors (C, H, W)."
            )


def no_image(item):
    """Say that something is no image, and what would be one."""
    got = "None" if item is None else f"a {type(item).__name__}"
    if hasattr(item, "read"):
        return (
            f"An image is {got}, an open file; expected its path, or its content: "
            "file.read()."
        )
    return (
        f"An image is {got}; expected a path, a PIL image, the bytes of an image "
        "file, a uint8 array or tensor, or a float one that is already preprocessed."
    )


def as_channels_last(tensor):
    """Return a tensor of pixels as (H, W, C)."""
    if tensor.dtype != torch.uint8:
        raise TypeError(
            f"An image has dtype {str(tensor.dtype).removeprefix('torch.')}; expected "
            "uint8 for pixels in 0..255, or floats that are already preprocessed."
        )
    if tensor.ndim not in (2, 3):
        raise ValueError(
            f"An image has shape {tuple(tensor.shape)}, expected 2 or 3 axes."
        )
    if not channels_last(tensor.shape):
        return tensor.movedim(0, -1)
    return tensor[..., None] if tensor.ndim == 2 else tensor
