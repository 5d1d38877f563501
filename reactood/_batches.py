"""Every accepted input becomes an iterator of ready batches.

A batch is a float32 tensor of shape (n, ...) on the host. Three kinds of source make
them: rows of an array, items that are prepared one at a time, and the batches of a
DataLoader.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from reactood._blocks import as_tensor
from reactood._images import Preparation
from reactood._inputs import image_items

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
    items: Any = X if isinstance(X, Dataset) else image_items(X)
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
            images = _images_of(batch)
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


def _images_of(batch):
    """Return the images in a batch, which may have been left a list of them."""
    if isinstance(batch, tuple | list) and all(
        isinstance(image, torch.Tensor) and image.ndim == 3 for image in batch
    ):
        return batch
    return _image_of(batch)


def _image_of(item):
    """Return the image in what a Dataset or DataLoader yields: the first of a tuple."""
    if isinstance(item, tuple | list) and item:
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
