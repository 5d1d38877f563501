"""What kind of images came in: a sequence of them, or a numeric array."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reactood._images import list_folder, missing


def image_items(X):
    """Return the images in ``X`` as a sequence, or None for a numeric array."""
    if isinstance(X, str | os.PathLike):
        if Path(X).is_dir():
            return list_folder(X)
        if Path(X).exists():
            raise ValueError(
                f"Got the path of one file, {os.fspath(X)!r}; wanted a folder, or a "
                "list of paths: [path]."
            )
        raise FileNotFoundError(missing(X))
    if isinstance(X, Image.Image):
        raise TypeError("Got one PIL image, wanted a list of images: [image].")
    if type(X).__module__.startswith("pandas") and hasattr(X, "to_numpy"):
        X = _column(X)
    if isinstance(X, np.ndarray | torch.Tensor):
        return _array_items(X)
    if isinstance(X, Iterator):
        raise TypeError(
            f"Got a {type(X).__name__}, which can be read only once; wanted a list: "
            "list(X)."
        )
    if not _is_sequence(X):
        return None
    if len(X) == 0:
        return X
    first = X[0]
    if isinstance(first, str | os.PathLike):
        return _all_paths(X)
    if isinstance(first, tuple | list) and len(first) and _is_image(first[0]):
        raise TypeError(
            "Got a list of tuples, each an image and more: a torch Dataset that "
            "scikit-learn has sliced? Wrap it as reactood.datasets.ImageDataset("
            "dataset), which can be sliced and leaves labels out."
        )
    return X if _is_image(first) or not isinstance(X, Sequence) else None


def _is_sequence(X):
    """Tell lists, and datasets that are none of torch's but look like one."""
    looks = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    other = hasattr(X, "shape") or hasattr(X, "__array__") or isinstance(X, Mapping)
    return isinstance(X, Sequence) or (looks and not other)


def _is_image(item):
    return isinstance(item, Image.Image) or (
        isinstance(item, np.ndarray | torch.Tensor) and item.ndim >= 2
    )


def _column(X):
    """Return a pandas column of paths or images as an array; leave numbers alone."""
    if getattr(X, "ndim", 2) == 2:
        if X.shape[1] != 1 or X.dtypes.iloc[0].kind in "biufc":
            return X
        X = X.iloc[:, 0]
    return X.to_numpy(dtype=object) if X.dtype.kind not in "biufc" else X


def _array_items(X):
    """Return paths or pixels in an array, or None where it holds numbers."""
    if isinstance(X, np.ndarray) and X.dtype.kind in "OUT" and X.shape[1:] == (1,):
        X = X[:, 0]
    if isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind in "OUT":
        if len(X) == 0 or isinstance(X[0], str | os.PathLike) or _is_image(X[0]):
            return image_items(X.tolist())
        return None
    if X.ndim not in (3, 4):
        return None
    if X.dtype in (np.uint8, torch.uint8):
        if X.ndim == 3 and X.shape[-1] in (3, 4):
            raise ValueError(
                f"Got one image of shape {tuple(X.shape)}, wanted several: X[None] "
                "makes it the first of one."
            )
        return X
    integer = (
        X.dtype.kind in "biu"
        if isinstance(X, np.ndarray)
        else not (X.is_floating_point() or X.is_complex())
    )
    if integer:
        raise TypeError(
            f"Images have dtype {str(X.dtype).removeprefix('torch.')}; wanted uint8 "
            "for pixels in 0..255, or floats that are already preprocessed."
        )
    return None


def _all_paths(items):
    """Check that there are only paths where the first item is one."""
    for row, path in enumerate(items):
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"Image {row} is a {type(path).__name__}, the first one a path; wanted "
                "paths only."
            )
    return items


def check_paths(items):
    """Check all paths before the first is read: an error should not come at the end."""
    if isinstance(items[0], str | os.PathLike):
        for row, path in enumerate(items):
            if not os.path.exists(path):
                raise FileNotFoundError(f"Image {row}: {missing(path)}")
