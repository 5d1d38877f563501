"""Turn one image of any kind into the tensor that a model takes."""

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from reactood._images._codec import (
    decode_jpeg,
    geometry_of,
    jpeg_in,
    size_of,
    uses_torchcodec,
)
from reactood._images._files import (
    Refused,
    check_pixels,
    decode,
    is_encoded,
    is_path,
    list_folder,
    loaded,
    missing,
    short,
)
from reactood._images._pixels import (
    as_channels_last,
    as_rgb,
    as_rgb_or_grey,
    check_plain,
    no_image,
    pixels_together,
)
from reactood._utils._tensors import as_tensor

__all__ = ["list_folder", "missing"]  # other modules import them from here

# The version of how a file becomes pixels. It changes when the same file gives other
# pixels, so that a cache does not return features of the old ones. 2: EXIF orientation.
READING = 2
GEOMETRY = (
    transforms.Resize,
    transforms.CenterCrop,
)  # steps from a PIL image to a PIL image
SAME_SIZE = (
    *(transforms.Grayscale, transforms.ToTensor, transforms.PILToTensor),
    *(v2.Grayscale, v2.RGB, v2.ToImage, v2.ToDtype, v2.PILToTensor),
)
PROCESSED = "pixel_values"  # the key of the result of Hugging Face's image processors


def preparation_of(preprocess, transform, decoder="pillow"):
    """Return the preparation that `preprocess` asks for, beside a model's transform."""
    if decoder == "torchcodec":
        uses_torchcodec(decoder)  # raises here, not for each image
    if preprocess == "auto":
        transform = transform or MissingTransform()
        return Preparation(transform, rgb=True, decoder=decoder)
    return Preparation(preprocess, rgb=False, decoder=decoder)


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
        Whether the transform gets RGB; a user's own gets the image as it is.
    decoder : {"auto", "pillow", "torchcodec"}
        What reads files of which all steps are known; Pillow reads the others.
    """

    def __init__(self, transform, *, rgb, decoder="pillow"):
        self.transform = transform
        self.rgb = rgb
        self.decoder = decoder
        self.split = _split(transform)
        # What torch does instead of Pillow; None where it cannot.
        self.geometry = None
        if self.split is not None and decoder != "pillow":
            self.geometry = geometry_of(transform)
        self.moments: dict[torch.device, list[torch.Tensor]] = {}

    @property
    def thread_safe(self):
        """Whether all steps are known to be safe in several threads at once."""
        return self.split is not None

    def __call__(self, item):
        """Prepare a path, an encoded image, a PIL image, an array or a tensor."""
        if is_path(item) or is_encoded(item):
            pixels = self._pixels_of_jpeg(item)
            if pixels is not None:
                return pixels
            image = decode(item)
            if self.rgb or self.transform is None:
                image = as_rgb(image)
        elif isinstance(item, Image.Image):
            image = loaded(item)
            if self.rgb:
                image = as_rgb(image)
            elif self.transform is None:
                image = as_rgb_or_grey(image)
        elif isinstance(item, np.ndarray | torch.Tensor):
            check_plain(item)
            tensor = as_tensor(item)
            if tensor.is_floating_point():
                return tensor.detach().float()
            pixels = as_channels_last(tensor)
            if self.transform is None:
                return pixels.cpu().movedim(-1, 0).contiguous()
            array = pixels.cpu().numpy()
            image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
            if self.rgb:
                image = as_rgb(image)
        else:
            raise TypeError(no_image(item))
        return self._transformed(image)

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
        if not pixels_together(batch):
            return batch.sub_(mean).div_(std)
        # Whole rows of an image at once: three numbers at a time would be slow.
        n_channels, width = batch.shape[1], batch.shape[3]
        rows = batch.movedim(1, -1).flatten(-2)
        mean, std = (x.flatten().expand(n_channels).repeat(width) for x in (mean, std))
        return rows.sub_(mean).div_(std).unflatten(-1, (width, -1)).movedim(-1, 1)

    def _pixels_of_jpeg(self, item):
        """Return the pixels of a file without Pillow; None where Pillow must read it.

        As it must where anything is wrong, so that there is one set of errors.
        """
        if self.geometry is None or not uses_torchcodec(self.decoder):
            return None
        jpeg = jpeg_in(item)
        if jpeg is None or not self._takes_channels(jpeg.n_channels):
            return None
        try:
            check_pixels(*size_of(jpeg))
            check_resized(self.transform, size_of(jpeg))
            pixels = decode_jpeg(jpeg)
            return None if pixels is None else self.geometry(pixels)
        except (Refused, RuntimeError, ValueError):
            return None

    def _takes_channels(self, n_channels):
        """Return whether channels as many as these become RGB: torchcodec's pixels."""
        if self.rgb or self.transform is None or n_channels == 3:
            return self.n_means in (1, 3)
        return self.n_means == 3  # a single mean goes with grey pixels

    @property
    def n_means(self):
        """For how many channels the known steps have means."""
        mean = self.split[1]
        return 1 if mean is None else len(mean)

    def _transformed(self, image):
        check_resized(self.transform, image.size)
        if self.split is not None:
            pixels = self.split[0]
            tensor = pixels(image)
            if tensor.dtype == torch.uint8 and self.n_means in (1, len(tensor)):
                return tensor
            if self.n_means == 3:  # only known steps, which need RGB
                return pixels(as_rgb(image))
        if isinstance(self.transform, MissingTransform):
            return self.transform(image)
        try:
            result = self.transform(image)
        except Exception as error:  # the user's code may raise any error
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(_failed(self.transform, image, error)) from error
        return _prepared(result)


def _failed(transform, image, error):
    """Say that the user's own transform raised an error; the image was read."""
    hint = ""
    if isinstance(error, TypeError) and _takes_nothing(transform):
        hint = (
            " It takes no arguments, so it seems to make the transform: pass what it "
            f"returns, preprocess={getattr(transform, '__name__', 'make_transform')}()."
        )
    elif image.mode != "RGB":
        hint = (
            " Your own preprocess gets images as they are; convert them first if it "
            "takes RGB alone: image.convert('RGB'), or torchvision.transforms.v2.RGB() "
            "as the first step."
        )
    return (
        f"preprocess failed on this image of mode {image.mode} and {image.width} x "
        f"{image.height} pixels, which was read: {type(error).__name__}: "
        f"{error}.{hint}"
    )


def _takes_nothing(function):
    try:
        return not inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return False


def _prepared(result):
    """Return what the user's own transform made of an image as a float tensor."""
    found = result
    if isinstance(found, Mapping) and PROCESSED in found:
        found = found[PROCESSED]
        while _is_batch_of_one(found):
            found = found[0]
        if isinstance(found, np.ndarray):
            found = as_tensor(found)
    is_float = isinstance(found, torch.Tensor) and found.is_floating_point()
    if not is_float or found.ndim not in (1, 2, 3):
        raise TypeError(
            f"preprocess returned {_described(result)}, expected a float tensor of "
            "shape (C, H, W); end it with torchvision.transforms.ToTensor(). The "
            "result of a Hugging Face image processor is good too: a dict with one "
            f"image in {PROCESSED!r}."
        )
    return found.detach().float()


def _is_batch_of_one(found):
    if isinstance(found, list | tuple):
        return len(found) == 1
    return getattr(found, "ndim", 0) == 4 and len(found) == 1


def _described(result):
    """Say in a few words what a function returned."""
    name = type(result).__name__
    if isinstance(result, Image.Image):
        return "Image"
    if isinstance(result, Mapping):
        inside = _described(result[PROCESSED]) if PROCESSED in result else ""
        keys = short([str(key) for key in result])
        return f"{name} with the keys {keys}" + (inside and f" and {inside} inside")
    if isinstance(result, list | tuple):
        return f"{name} of {len(result)}"
    if hasattr(result, "dtype") and hasattr(result, "shape"):
        return f"{name} of {result.dtype} and shape {tuple(result.shape)}"
    return name


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
        and is_to_tensor(scale)
        and type(normalize) is transforms.Normalize
    )
    if not known:
        return None
    pixels = transforms.Compose([*geometry, pil_to_tensor])
    mean, std = (np.atleast_1d(x).tolist() for x in (normalize.mean, normalize.std))
    return pixels, mean, std


def is_to_tensor(step):
    """Return whether a step is ToTensor, of torchvision or of timm."""
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
    """Stands in for an unknown transform; raises when a transform is needed."""

    def __call__(self, image):
        """Raise ValueError."""
        raise ValueError(
            "preprocess='auto' knows the transform of models given by name (and of "
            "timm models) only. Pass preprocess=, a function from a PIL image to a "
            "float tensor (None scales pixels to [0, 1]), or give float arrays that "
            "are already preprocessed."
        )


def check_resized(transform, size):
    """Raise ValueError where known steps would make an image too large.

    A picture one pixel high grows to 256 times as many pixels in each direction.
    """
    steps = getattr(transform, "transforms", [transform])
    if type(transform) is ImageClassification:
        steps = [transforms.Resize(transform.resize_size)]
    elif isinstance(transform, torch.nn.Sequential):
        steps = transform
    width, height = size
    for step in steps:
        if isinstance(step, transforms.Resize | v2.Resize):
            width, height = _resized(step, width, height)
        elif isinstance(step, transforms.CenterCrop | v2.CenterCrop):
            height, width = step.size
        elif not isinstance(step, SAME_SIZE):
            return  # its result cannot be known
        check_pixels(width, height, "once it is resized, it has")


def _resized(step, width, height):
    """Return width and height after torchvision's Resize."""
    size = [step.size] if isinstance(step.size, int) else step.size
    if size is not None and len(size) == 2:
        return size[1], size[0]
    low, high = sorted((width, height))
    if size is not None:
        low, high = size[0], int(size[0] * high / low)
    if step.max_size is not None and (size is None or high > step.max_size):
        low, high = int(step.max_size * low / high), step.max_size
    return (low, high) if width <= height else (high, low)
