"""Read the steps of a known transform, from a PIL image to a tensor."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from reactood._images._preparation import is_to_tensor, preparation_of

COMPOSED = transforms.Compose, v2.Compose
RESIZE = transforms.Resize, v2.Resize
CROP = transforms.CenterCrop, v2.CenterCrop
NORMALIZE = transforms.Normalize, v2.Normalize
TO_IMAGE = v2.ToImage, v2.PILToTensor, transforms.PILToTensor
FILTERS = "bilinear", "bicubic"
EXAMPLE_SIZE = 48, 40  # of pictures of any size: any numbers above 1
EXPECTED = (
    "expected torchvision's ImageClassification preset, or a Compose of Resize, "
    "CenterCrop, ToTensor and Normalize in this order, of transforms or transforms.v2, "
    "bilinear or bicubic. Export with preprocess=False and prepare images outside "
    "of the graph"
)


@dataclass(frozen=True)
class Recipe:
    """How pixels become the input of a network.

    Attributes
    ----------
    resize : tuple of int
        Length of the shorter side, or height and width; empty for none.
    filter : str
        "bilinear" or "bicubic".
    crop : tuple of int
        Height and width, from the centre; empty for none.
    mean, std : list of float
        Of the channels, after scaling to [0, 1]; empty for none.
    """

    resize: tuple[int, ...] = ()
    filter: str = "bilinear"
    crop: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def any_size(self):
        """Whether the result has one size, whatever the size of the picture."""
        return len(self.resize) == 2 or bool(self.crop)

    def example_shape(self, image_shape):
        """Return height, width and channels of an example."""
        channels, *size = image_shape
        return (*(EXAMPLE_SIZE if self.any_size else size), channels)

    def as_dict(self):
        """Return what to write into a file."""
        steps: dict[str, Any] = {}
        if self.resize:
            steps["resize"] = (
                {"shorter_side": self.resize[0]}
                if len(self.resize) == 1
                else {"height": self.resize[0], "width": self.resize[1]}
            ) | {"filter": self.filter, "like": "Pillow"}
        if self.crop:
            steps["center_crop"] = {"height": self.crop[0], "width": self.crop[1]}
        steps["divide_by"] = 255
        if self.mean:
            steps["mean"], steps["std"] = list(self.mean), list(self.std)
        return steps


def recipe_of(extractor):
    """Return how an extractor prepares uint8 images; raise ValueError if unknown."""
    transform = preparation_of(
        extractor.preprocess, extractor._frozen.transform
    ).transform
    if transform is None:
        return Recipe()
    if type(transform) is ImageClassification:
        mean, std = transform.mean, transform.std
        steps = [
            transforms.Resize(
                transform.resize_size, interpolation=transform.interpolation
            ),
            transforms.CenterCrop(transform.crop_size),
        ]
    elif type(transform) in COMPOSED:
        steps, mean, std = _after_pixels(list(transform.transforms))
    else:
        raise _unknown(type(transform).__name__)
    resize, kernel = (), "bilinear"
    if steps and type(steps[0]) in RESIZE:
        resize, kernel = _resize_of(steps.pop(0))
    crop = ()
    if steps and type(steps[0]) in CROP:
        crop = _pair(steps.pop(0).size)
    if steps:
        raise _unknown(type(steps[0]).__name__)
    recipe = Recipe(resize, kernel, crop, mean=_floats(mean), std=_floats(std))
    if resize and not recipe.any_size:
        raise _unknown(f"Resize(size={resize[0]}) without CenterCrop")
    return recipe


def _after_pixels(steps):
    """Return the steps up to the pixels, mean and std."""
    mean, std = [], []
    if steps and type(steps[-1]) in NORMALIZE:
        last = steps.pop()
        mean, std = last.mean, last.std
    if not steps:
        raise _unknown("a Compose without ToTensor")
    scale = steps.pop()
    if type(scale) is v2.ToDtype:
        if not scale.scale or str(scale.dtype) != "torch.float32":
            raise _unknown("ToDtype without torch.float32 and scale=True")
        # A tensor of pixels is resized as Pillow does it, to within a level of colour.
        places = [i for i, step in enumerate(steps) if type(step) in TO_IMAGE]
        if places not in ([0], [len(steps) - 1]):
            raise _unknown("ToDtype without ToImage before it")
        steps.pop(places[0])
    elif not is_to_tensor(scale):
        raise _unknown(type(scale).__name__)
    return steps, mean, std


def _resize_of(step):
    # torchvision's later versions keep the name, and earlier ones a member of an enum.
    kernel = getattr(step.interpolation, "value", step.interpolation)
    if kernel not in FILTERS:
        raise _unknown(f"Resize with {kernel}")
    if step.max_size is not None:
        raise _unknown(f"Resize with max_size={step.max_size}")
    size = (step.size,) if isinstance(step.size, int) else tuple(step.size)
    return size, kernel


def _pair(size):
    if isinstance(size, int):
        return size, size
    return tuple(size) * (2 if len(size) == 1 else 1)


def _floats(values):
    return tuple(map(float, np.atleast_1d(np.asarray(values, float)).tolist()))


def _unknown(what):
    return ValueError(f"preprocess=True cannot put {what} into the graph; {EXPECTED}.")
