"""Decode and resize JPEG files with torchcodec and torch, where they do it as Pillow.

The pixels of a decoded file are those of Pillow. Those that are resized differ by at
most `MOST_DIFFERENCE`, in few places. Both are proved once in a process, on an image
that is made for it.
"""

import functools
import importlib.metadata
import io
import os
import stat

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import center_crop, pil_to_tensor
from torchvision.transforms.v2.functional import resize

from reactood._images._files import TURNS, content_of, is_path
from reactood._images._jpeg import START, read_jpeg

DECODERS = "auto", "pillow", "torchcodec"
MOST_DIFFERENCE = 2  # of 255, of pixels that were resized
# How torch mirrors and transposes (C, H, W) as the orientations of EXIF say.
_FLIPS = {2: (-1,), 3: (-2, -1), 4: (-2,), 5: (), 6: (-1,), 7: (-2, -1), 8: (-2,)}
_ON_ITS_SIDE = 5  # from here on, width and height change places
_ALIKE = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC


def uses_torchcodec(decoder):
    """Return whether `decoder` means torchcodec in this process.

    Raises
    ------
    ImportError
        If it is asked for by name, and is not installed or cannot be used here.
    """
    if decoder == "pillow":
        return False
    problem = problem_of_torchcodec()
    if problem is not None and decoder == "torchcodec":
        raise ImportError(
            f"decoder='torchcodec' needs torchcodec, but {problem}. Install one that "
            "goes with this torch: pip install 'reactood[torchcodec]'. Or use "
            "decoder='auto', which goes on with Pillow."
        )
    return problem is None


def describe_decoder(decoder):
    """Say what decodes files, and its version if that is not Pillow."""
    if not uses_torchcodec(decoder):
        return "pillow"
    return f"torchcodec {importlib.metadata.version('torchcodec')}"


@functools.cache
def problem_of_torchcodec():
    """Return why torchcodec cannot be used in this process, or None."""
    try:
        from torchcodec.decoders import decode_jpeg  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "torchcodec":
            return "it is not installed"
        return f"it cannot be imported ({error})"
    except Exception as error:  # a build for another torch fails in any way
        return f"it cannot be imported, or is too old to read images ({error})"
    try:
        difference = _largest_difference()
    except Exception as error:
        return f"it fails ({type(error).__name__}: {error})"
    if difference > MOST_DIFFERENCE:
        return f"its pixels differ from those of Pillow by up to {difference} of 255"
    return None


def _largest_difference():
    """Return by how much pixels differ from Pillow's, on one image made for this."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((99, 75), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=90
    )
    with Image.open(file) as image:
        expected = (
            pil_to_tensor(image),
            pil_to_tensor(image.resize((41, 31), Image.Resampling.BILINEAR)),
        )
    pixels = _decoded(read_jpeg(file.getvalue()))
    found = pixels, resize(pixels, [31, 41], antialias=True)
    pairs = zip(found, expected, strict=True)
    return max(int((a.int() - b.int()).abs().max()) for a, b in pairs)


# --- one image ------------------------------------------------------------------------


def jpeg_in(item):
    """Return the plain JPEG file at a path, or in encoded bytes; None for all else.

    Whatever is wrong with an item is found again, and told, by what reads all others.
    """
    if not is_path(item):
        return read_jpeg(content_of(item))
    try:
        if not stat.S_ISREG(os.stat(item).st_mode):  # to open a pipe would wait
            return None
        with open(item, "rb") as file:
            start = file.read(len(START))
            return read_jpeg(start + file.read()) if start == START else None
    except (OSError, ValueError):
        return None


def size_of(jpeg):
    """Return width and height of the image as it is shown."""
    on_its_side = _turn_of(jpeg) is not None and jpeg.orientation >= _ON_ITS_SIDE
    return (jpeg.height, jpeg.width) if on_its_side else (jpeg.width, jpeg.height)


def decode_jpeg(jpeg):
    """Return the pixels of a JPEG file, upright, in RGB as (C, H, W), or None."""
    try:
        pixels = _decoded(jpeg)
    except RuntimeError:  # damaged: Pillow says how, or is told to read it even so
        return None
    flips = _turn_of(jpeg)
    if flips is None:
        return pixels
    if jpeg.orientation >= _ON_ITS_SIDE:
        pixels = pixels.transpose(-1, -2)
    return pixels.flip(flips) if flips else pixels


def _turn_of(jpeg):
    return _FLIPS[jpeg.orientation] if jpeg.orientation in TURNS else None


def _decoded(jpeg):
    from torchcodec.decoders import decode_jpeg

    # From bytes, torchcodec makes a tensor under a change of Python's filters of
    # warnings, which belong to all threads.
    return decode_jpeg(torch.frombuffer(jpeg.stream, dtype=torch.uint8))


# --- known steps, on tensors ----------------------------------------------------------


def geometry_of(transform):
    """Return a function that does the first, known steps of a transform on pixels.

    From (C, H, W) to (C, H, W), both uint8; its result is within `MOST_DIFFERENCE` of
    what the steps make of a PIL image. None where there is no such function. The steps
    after them must be known.
    """
    if transform is None:
        return _unchanged
    if type(transform) is ImageClassification:
        sized = transforms.Resize(
            transform.resize_size, interpolation=transform.interpolation
        )
        steps = [sized, transforms.CenterCrop(transform.crop_size)]
    else:
        steps = transform.transforms[:-2]  # without scaling and normalisation
    resizing = [step for step in steps if isinstance(step, transforms.Resize)]
    if len(resizing) > 1:  # the differences would add up
        return None
    if not all(step.interpolation in _ALIKE for step in resizing):
        return None
    return functools.partial(_transformed, steps)


def _unchanged(pixels):
    return pixels.contiguous()


def _transformed(steps, pixels):
    for step in steps:
        if isinstance(step, transforms.Resize):
            size = [step.size] if isinstance(step.size, int) else list(step.size)
            pixels = resize(
                pixels,
                size,
                interpolation=step.interpolation,
                max_size=step.max_size,
                antialias=True,  # as Pillow, whatever the step says
            )
        else:
            pixels = center_crop(pixels, step.size)
    # Pixels stay together, as torch resizes them and convolutions take them. NumPy
    # copies in this thread alone.
    return torch.from_numpy(np.ascontiguousarray(pixels.movedim(0, -1))).movedim(-1, 0)
