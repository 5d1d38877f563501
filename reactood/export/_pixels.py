"""Resize, crop and normalise pixels in a graph, as Pillow and torchvision do it.

Pillow resizes one axis after the other and rounds to whole grey levels after each:
width first, but since Pillow 13 height first where it loses more than twice as many
pixels as the width. A graph does it like the Pillow of the machine that made it.

Each new row is a weighted mean of some old ones, so that an axis is resized by one
product with a matrix. The weights depend on the size of the picture. They are made of
it by tensor operations, so that one graph takes pictures of any size.
"""

import functools

import numpy as np
import torch
from PIL import Image
from torch import nn

SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
UNIT = 2.0**22  # Pillow rounds weights to multiples of its inverse


class Pixels(nn.Module):
    """From uint8 of shape (n, H, W, C) to float32 of shape (n, C, h, w)."""

    def __init__(self, recipe):
        super().__init__()
        self.recipe = recipe
        self.may_start_with_height = height_may_be_first()
        for name in "mean", "std":
            values = torch.tensor(getattr(recipe, name), dtype=torch.float32)
            self.register_buffer(name, values.view(-1, 1, 1))

    def forward(self, pixels):
        """Prepare a batch of pictures of one size."""
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise TypeError(
                f"Got a tensor of {pixels.dtype} and {pixels.ndim} axes, expected "
                "pixels of uint8 and shape (n, height, width, channels), as the "
                "preprocessing is part of the graph."
            )
        pixels = pixels.movedim(-1, 1)
        if self.recipe.resize or self.recipe.crop:
            pixels = self._resized(pixels.double())
        pixels = pixels.float() / 255
        return (pixels - self.mean) / self.std if self.recipe.mean else pixels

    def _resized(self, pixels):
        recipe, device = self.recipe, pixels.device
        old = [
            torch.full((), size, dtype=torch.float64, device=device)
            for size in pixels.shape[2:]
        ]
        new = _new_size(recipe.resize, *old)
        crop = recipe.crop or recipe.resize
        rows, columns = (
            resampling(
                torch.arange(size, dtype=torch.float64, device=device),
                old[axis],
                new[axis],
                crop[axis],
                recipe.filter,
                along=1 - axis,
            )
            for axis, size in enumerate(pixels.shape[2:])
        )
        operands = pixels, rows, columns
        lost = [before - after for before, after in zip(old, new, strict=True)]
        height_first = (lost[0] > 2 * lost[1]) & (lost[0] > 0)
        if not self.may_start_with_height:
            return _width_first(*operands)
        if torch.compiler.is_compiling():
            return torch.cond(height_first, _height_first, _width_first, operands)
        return (_height_first if height_first else _width_first)(*operands)


def _width_first(pixels, rows, columns):
    return _rounded(rows @ _rounded(pixels @ columns))


def _height_first(pixels, rows, columns):
    return _rounded(_rounded(rows @ pixels) @ columns)


@functools.cache
def height_may_be_first():
    """Return whether the Pillow of this machine starts with the height of some."""
    grey = Image.fromarray((np.arange(640) * 97 % 251).astype(np.uint8).reshape(80, 8))
    size, width_first = (7, 20), (7, 80)
    kernel = Image.Resampling.BICUBIC
    plain = grey.resize(size, kernel).tobytes()
    return plain != grey.resize(width_first, kernel).resize(size, kernel).tobytes()


def _new_size(resize, height, width):
    """Return height and width after torchvision's Resize, as tensors of float64."""
    if not resize:
        return height, width
    if len(resize) == 2:
        return [torch.full_like(height, size) for size in resize]
    short, long = torch.minimum(height, width), torch.maximum(height, width)
    longer = torch.floor(resize[0] * long / short)
    shorter = torch.full_like(longer, resize[0])
    wide = width > height
    return torch.where(wide, shorter, longer), torch.where(wide, longer, shorter)


def resampling(places, old, new, n, kernel, *, along=1):
    """Return the matrix that makes the ``n`` central pixels of a resized axis.

    It is made in the order in which it is used: onnxruntime up to 1.24 fuses a
    transposition of float64 with the product, and then cannot compute it.

    Parameters
    ----------
    places : Tensor of shape (old,)
        0, 1, ... of float64.
    old, new : Tensor of shape ()
        The length of the axis before and after, of float64.
    n : int
        How many of the new pixels to keep. Those beyond the picture are 0, as where
        torchvision crops more than there is.
    kernel : str
        "bilinear" or "bicubic".
    along : int
        The axis of the result with the old pixels: 1 for a matrix of shape (n, old), 0
        for (old, n).
    """
    # torchvision: int(round((new - n) / 2.0)), and more pixels on the right if it pads.
    inside, outside = torch.round((new - n) / 2), -torch.floor((n - new) / 2)
    first = torch.where(new >= n, inside, outside)
    kept = torch.arange(n, dtype=torch.float64, device=places.device) + first
    scale = old / new
    stretch = scale.clamp_min(1)
    kept, places = kept.unsqueeze(along), places.unsqueeze(1 - along)
    center = (kept + 0.5) * scale
    distance = (places - center + 0.5) / stretch
    weights = KERNELS[kernel](distance.abs())
    # Pillow takes no pixel beyond these, which matters where rounding decides.
    reach = SUPPORT[kernel] * stretch
    low = torch.floor((center - reach + 0.5).clamp_min(0))
    high = torch.floor(center + reach + 0.5)
    near = (places >= low) & (places < high)
    near = near & (kept >= 0) & (kept < new)
    weights = torch.where(near, weights, 0.0)
    total = weights.sum(dim=along, keepdim=True)
    weights = weights / torch.where(total == 0, 1.0, total)
    return torch.sign(weights) * torch.floor(weights.abs() * UNIT + 0.5) / UNIT


def _bilinear(x):
    return (1 - x).clamp_min(0)


def _bicubic(x):
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


KERNELS = {"bilinear": _bilinear, "bicubic": _bicubic}


def _rounded(levels):
    return torch.floor(levels + 0.5).clamp(0, 255)
