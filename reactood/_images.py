"""One image of any accepted kind becomes a tensor that a model takes."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from reactood._blocks import as_tensor

SUFFIXES = frozenset(Image.registered_extensions()) - {".pdf", ".mpg", ".mpeg"}
CHANNELS = (1, 3, 4)
GEOMETRY = transforms.Resize, transforms.CenterCrop  # from a PIL image to another


class Preparation:
    """Turns one image into a tensor of shape (C, H, W), and batches of them to floats.

    Float arrays and tensors are taken as already preprocessed. Files, PIL images and
    uint8 arrays go through ``transform``. Where its last steps are known, scaling and
    normalisation, they are left to ``finish``, for a whole batch on the device at
    once; until then pixels stay uint8, a quarter of the size.

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
        self.split = _split(transform)
        self.moments: dict[torch.device, list[torch.Tensor]] = {}

    @property
    def thread_safe(self):
        """Whether all steps are known to be safe in several threads at once."""
        return self.split is not None

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

    def finish(self, batch):
        """Scale and normalise a batch of pixels; leave floats as they are."""
        if batch.dtype != torch.uint8:
            return batch
        _, mean, std = self.split
        batch = batch.float().div_(255)
        if mean is None:
            return batch
        if batch.device not in self.moments:  # copied once, not for each batch
            self.moments[batch.device] = [
                torch.tensor(x, dtype=batch.dtype, device=batch.device).view(-1, 1, 1)
                for x in (mean, std)
            ]
        mean, std = self.moments[batch.device]
        return batch.sub_(mean).div_(std)

    def _transformed(self, image):
        if self.split is not None:
            pixels, mean, _ = self.split
            tensor = pixels(image)
            if mean is not None and len(mean) not in (1, len(tensor)):
                return self.transform(image)  # which has its own words for this
            return tensor
        tensor = self.transform(image)
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            got = getattr(tensor, "dtype", type(tensor).__name__)
            raise TypeError(
                f"preprocess returned {got}, wanted a float tensor of shape (C, H, W); "
                "end it with torchvision.transforms.ToTensor()."
            )
        return tensor.float()


def _split(transform):
    """Return the steps of a transform up to pixels, mean and std; None if unknown."""
    if transform is None:
        return pil_to_tensor, None, None
    if type(transform) is ImageClassification:
        return _Pixels(transform), transform.mean, transform.std
    if type(transform) is not transforms.Compose:
        return None
    if len(transform.transforms) < 2:
        return None
    *geometry, scale, normalize = transform.transforms
    known = (
        all(type(step) in GEOMETRY for step in geometry)
        and _is_to_tensor(scale)
        and type(normalize) is transforms.Normalize
    )
    if not known:
        return None
    pixels = transforms.Compose([*geometry, pil_to_tensor])
    mean, std = (np.atleast_1d(x).tolist() for x in (normalize.mean, normalize.std))
    return pixels, mean, std


def _is_to_tensor(step):
    """Tell torchvision's step, and timm's, which does the same to PIL images."""
    timms = "MaybeToTensor", "timm.data.transforms"
    kind = type(step)
    return kind is transforms.ToTensor or (kind.__name__, kind.__module__) == timms


class _Pixels:
    """The geometry of torchvision's preset for classification."""

    def __init__(self, preset):
        self.preset = preset

    def __call__(self, image):
        preset = self.preset
        resized = resize(
            image,
            preset.resize_size,
            interpolation=preset.interpolation,
            antialias=preset.antialias,
        )
        return pil_to_tensor(center_crop(resized, preset.crop_size))


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


def pixels_of(item):
    """Return an image as an array, channels last where it has an axis for them.

    Of uint8, or floats as they are: of images that are already preprocessed.
    """
    if isinstance(item, Image.Image):
        return np.asarray(as_rgb_or_grey(item))
    if not isinstance(item, np.ndarray | torch.Tensor):
        return np.asarray(read_image(item))
    array = np.asarray(item.detach().cpu() if torch.is_tensor(item) else item)
    if array.ndim == 3 and (array.dtype != np.uint8 or not channels_last(array.shape)):
        array = np.moveaxis(array, 0, -1)
    return array


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
