"""One image of any accepted kind becomes a tensor that a model takes."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from reactood._blocks import as_tensor

SUFFIXES = frozenset(Image.registered_extensions()) - {".pdf", ".mpg", ".mpeg"}
CHANNELS = (1, 3, 4)


class Preparation:
    """Turns one image into a float32 tensor of shape (C, H, W).

    Float arrays and tensors are taken as already preprocessed. Files, PIL images and
    uint8 arrays go through ``transform``.

    Parameters
    ----------
    transform : callable or None
        From a PIL image to a float tensor; None scales the pixels to [0, 1].
    rgb : bool
        Whether the transform wants RGB; a user's own may want what is there.
    """

    def __init__(self, transform, *, rgb):
        self.transform = transform
        self.rgb = rgb

    def __call__(self, item):
        """Prepare ``item``: a path, a PIL image, an array or a tensor."""
        if isinstance(item, str | os.PathLike):
            image = read_image(item)
        elif isinstance(item, Image.Image):
            image = item
        elif isinstance(item, np.ndarray | torch.Tensor):
            item = as_tensor(item)
            if item.is_floating_point():
                return item.detach().float()
            image = _as_image(item)
        else:
            raise TypeError(
                f"An image is a {type(item).__name__}; wanted a path, a PIL image, a "
                "uint8 array or tensor, or a float one that is already preprocessed."
            )
        return self._transformed(as_rgb(image) if self.rgb else as_rgb_or_grey(image))

    def _transformed(self, image):
        tensor = to_tensor(image) if self.transform is None else self.transform(image)
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            got = getattr(tensor, "dtype", type(tensor).__name__)
            raise TypeError(
                f"preprocess returned {got}, wanted a float tensor of shape (C, H, W); "
                "end it with torchvision.transforms.ToTensor()."
            )
        return tensor.float()


class MissingTransform:
    """Stands in for a transform that nobody knows; raises when one is needed."""

    def __call__(self, image):
        """Raise ValueError."""
        raise ValueError(
            "preprocess='auto' knows the transform of models given by name (and of "
            "timm models) only. Pass preprocess=, a function from a PIL image to a "
            "float tensor (None scales pixels to [0, 1]), or give float arrays that "
            "are already preprocessed."
        )


def read_image(path):
    """Read an image file as RGB, or say which file is wrong."""
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(missing(path)) from error
    except Exception as error:  # decoders raise all kinds
        raise ValueError(
            f"{os.fspath(path)!r} cannot be read as an image ({error}): it is damaged, "
            "cut short, or no image. Remove or replace it."
        ) from error


def as_rgb(image):
    """Convert a PIL image of any mode to 8-bit RGB."""
    return as_rgb_or_grey(image).convert("RGB")


def as_rgb_or_grey(image):
    """Convert a PIL image to 8-bit RGB, or grey ("L") if it is grey."""
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are {'32-bit integers' if image.mode == 'I' else 'floats'} of "
            "unknown range; scale them to 8 bits, or give float arrays that are "
            "already preprocessed"
        )
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        pixels = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.rint(pixels).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def missing(path):
    """Say that a file does not exist."""
    return (
        f"{os.fspath(path)!r} does not exist (relative paths start at "
        f"{str(Path.cwd())!r})."
    )


def list_folder(folder):
    """Return the image files below a folder, sorted by path."""
    files, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:
            folders.clear()  # a link back: do not go round for ever
            continue
        seen.add(os.path.realpath(root))
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(root, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    files.sort()
    if not files:
        raise ValueError(
            f"The folder {os.fspath(folder)!r} holds no image files (looked for "
            ".jpg, .png and the like, in all folders below it too; names that start "
            "with a dot are left out)."
        )
    return files


def channels_last(shape):
    """Tell (H, W, C) from (C, H, W); raise where neither fits."""
    if len(shape) == 2 or shape[-1] in CHANNELS:
        return True
    if shape[0] in CHANNELS:
        return False
    raise ValueError(
        f"A uint8 image has shape {tuple(shape)}, wanted (height, width, channels) or "
        "(channels, height, width) with 1, 3 or 4 channels; give other kinds of images "
        "as float arrays that are already preprocessed."
    )


def _as_image(tensor):
    if tensor.dtype != torch.uint8:
        raise TypeError(
            f"An image has dtype {str(tensor.dtype).removeprefix('torch.')}; wanted "
            "uint8 for pixels in 0..255, or floats that are already preprocessed."
        )
    if tensor.ndim not in (2, 3):
        raise ValueError(
            f"An image has shape {tuple(tensor.shape)}, wanted 2 or 3 axes."
        )
    if not channels_last(tensor.shape):
        tensor = tensor.movedim(0, -1)
    array = tensor.cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
