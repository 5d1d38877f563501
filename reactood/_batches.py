"""Every accepted input becomes an iterator of ready batches.

A batch is a float32 tensor of shape (n, ...) on the host. Three kinds of source make
them: rows of an array, items that are prepared one at a time, and the batches of a
DataLoader.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from reactood._blocks import as_tensor
from reactood._images import Preparation, list_folder, missing

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "data", "x", "input")


def open_source(X: Any, prepare: Preparation, *, num_workers: int = 0):
    """Return the source of batches for ``X``, or None if ``X`` is a numeric array.

    Numeric arrays are scikit-learn's to validate first: give them to ``ArraySource``.
    """
    if isinstance(X, DataLoader):
        return LoaderSource(X, prepare)
    if isinstance(X, IterableDataset):
        raise TypeError(
            "An IterableDataset has no length and no items; pass it in a "
            "torch.utils.data.DataLoader."
        )
    items: Any = X if isinstance(X, Dataset) else _items(X)
    if items is None:
        return None
    if len(items) == 0:
        raise ValueError(
            f"Got an empty {type(X).__name__}, 0 images; a minimum of 1 is required."
        )
    return ItemSource(items, prepare, num_workers)


class ArraySource:
    """Rows of a float array or tensor, already preprocessed."""

    def __init__(self, X):
        self.X = X
        self.n_rows = X.shape[0]

    def first(self, n):
        """Return the first n rows, or all if there are fewer."""
        return next(self.batches(n))

    def batches(self, batch_size):
        """Yield slices; NaN and inf raise."""
        for start in range(0, self.n_rows, batch_size):
            batch = as_tensor(self.X[start : start + batch_size])
            batch = batch.cpu().to(torch.float32).contiguous()
            if not batch.sum().isfinite():
                _check_finite(batch, start)
            yield batch


class ItemSource:
    """Paths, PIL images, arrays or a Dataset, one image at a time."""

    def __init__(self, items, prepare, num_workers):
        self.items = items
        self.prepare = prepare
        self.num_workers = num_workers
        self.n_rows = len(items)

    def first(self, n):
        """Return the first n images, or all if there are fewer."""
        items = _Prepared(self.items, self.prepare)
        return _raised(_collate([items[i] for i in range(min(n, len(items)))]))

    def batches(self, batch_size):
        """Yield batches in the order of the items."""
        loader = DataLoader(
            _Prepared(self.items, self.prepare),
            batch_size=batch_size,
            num_workers=self.num_workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # leaves the global one alone
        )
        yield from map(_raised, loader)


class LoaderSource:
    """The images in a DataLoader's batches; labels are ignored."""

    n_rows = None  # samplers and drop_last decide; only a pass tells

    def __init__(self, loader, prepare):
        self.loader = loader
        self.prepare = prepare

    @property
    def in_order(self):
        """Whether rows surely come in the order of the loader's dataset, all of it."""
        if isinstance(self.loader.dataset, IterableDataset):
            return True
        batches = self.loader.batch_sampler
        sampler = self.loader.sampler if batches is None else batches.sampler
        return type(sampler) is SequentialSampler and not self.loader.drop_last

    def first(self, n):
        """Return the first n images of the first batch."""
        for batch in self.batches(n):
            return batch[:n]
        raise ValueError("The DataLoader is empty, wanted at least 1 batch of images.")

    def batches(self, batch_size):
        """Yield the loader's own batches, whatever ``batch_size``."""
        start = 0
        for batch in self.loader:
            images = _image_of(batch)
            if isinstance(images, torch.Tensor) and images.is_floating_point():
                images = images.detach().cpu().float()
                if not images.sum().isfinite():
                    _check_finite(images, start)
            else:
                images = _stack([self.prepare(image) for image in images], start)
            start += len(images)
            yield images


class _Prepared(Dataset):
    """Prepares items; an error is an item too, so that it leaves a worker whole."""

    def __init__(self, items, prepare):
        self.items = items
        self.prepare = prepare

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        try:
            return index, self.prepare(_image_of(self.items[index]))
        except Exception as error:  # a user's transform or dataset may raise any
            known = (FileNotFoundError, TypeError, ValueError)
            kind = type(error) if type(error) in known else ValueError
            note = str(error) if type(error) in known else repr(error)
            return index, kind(f"Image {index}: {note}")


def _raised(batch):
    """Raise an error that took a batch's place."""
    if isinstance(batch, Exception):
        raise batch
    return batch


def _collate(batch):
    indices, images = zip(*batch, strict=True)
    for image in images:
        if isinstance(image, Exception):
            return image
    try:
        return _stack(images, indices[0])
    except ValueError as error:
        return error


def _stack(images, start):
    for row, image in enumerate(images, start):
        if image.shape != images[0].shape:
            raise ValueError(
                f"Images differ in shape: image {start} is {tuple(images[0].shape)}, "
                f"image {row} is {tuple(image.shape)}. All must agree once they are "
                "preprocessed; let preprocess= resize them."
            )
    batch = torch.stack(list(images))
    if not batch.sum().isfinite():
        _check_finite(batch, start)
    return batch


def _check_finite(batch, start):
    bad = ~batch.flatten(1).isfinite()
    if bad.any():
        row = start + int(bad.any(dim=1).nonzero()[0])
        raise ValueError(
            f"Input X contains NaN or infinity: {int(bad.sum())} of the values in rows "
            f"{start} to {start + len(batch) - 1}, the first in row {row}."
        )


def _image_of(item):
    """Return the image in what a Dataset or DataLoader yields."""
    if isinstance(item, tuple | list) and item:
        if all(isinstance(part, torch.Tensor) and part.ndim == 3 for part in item):
            return item  # a batch that was left a list of images
        return item[0]
    if isinstance(item, Mapping):
        for key in IMAGE_KEYS:
            if key in item:
                return item[key]
        raise TypeError(
            f"The dataset yields dicts with keys {', '.join(map(str, item))}; wanted "
            f"the image under one of {', '.join(IMAGE_KEYS)}, or first in a tuple."
        )
    return item


def _items(X):
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
        return _existing(X)
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
            return _items(X.tolist())
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


def _existing(paths):
    """Check all paths before the first is read: an error should not come at the end."""
    for row, path in enumerate(paths):
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"Image {row} is a {type(path).__name__}, the first one a path; wanted "
                "paths only."
            )
    for row, path in enumerate(paths):
        if not os.path.exists(path):
            raise FileNotFoundError(f"Image {row}: {missing(path)}")
    return paths
