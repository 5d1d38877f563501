"""Every accepted input becomes an iterator of batches.

A batch is a tensor of shape (n, ...) on the host: float32, or uint8 pixels that are
scaled and normalised later, on the device.  Three kinds of source make them: rows of
an array, items that are prepared one at a time, and the batches of a DataLoader.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from reactood._blocks import as_tensor
from reactood._identity import image_digest
from reactood._images import Preparation
from reactood._inputs import check_paths, image_items

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "data", "x", "input")


class Batch(NamedTuple):
    """Images, and which rows of the input they are; errors instead of the others."""

    rows: list[int]
    images: torch.Tensor | None  # None without rows
    errors: dict[int, Exception]


def open_source(
    X: Any, prepare: Preparation, *, num_workers: int = 0, missing_ok: bool = False
):
    """Return the source of batches for ``X``, or None if ``X`` is a numeric array.

    Numeric arrays are scikit-learn's to validate first: give them to ``ArraySource``.
    Unless ``missing_ok``, a path that does not exist raises at once.
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
    if not isinstance(X, Dataset) and not missing_ok:
        check_paths(items)
    return ItemSource(items, prepare, num_workers)


class ArraySource:
    """Rows of a float array or tensor, already preprocessed."""

    keyed = True  # rows can be told apart before they are batches

    def __init__(self, X):
        self.X = X
        self.n_rows = X.shape[0]

    def keys(self, rows):
        """Return what each row is known by."""
        return [image_digest(self.X[row]) for row in rows]

    def still(self, row, key):
        """Return whether a row is what its key says: it is in memory."""
        return True

    def finish(self, batch):
        """Return a batch of floats: it is one."""
        return batch

    def batches(self, plan):
        """Yield the batches of rows that ``plan`` names."""
        for rows in plan:
            first, last = rows[0], rows[-1] + 1
            picked = slice(first, last) if last - first == len(rows) else rows
            images = as_tensor(self.X[picked]).cpu().to(torch.float32).contiguous()
            yield _finite(rows, images)


class ItemSource:
    """Paths, PIL images, arrays or a Dataset, one image at a time.

    Parameters
    ----------
    items : sequence or Dataset
        The images.
    prepare : Preparation
        What is done to each.
    num_workers : int
        Processes that do it; 0 for as many threads of this process as torch uses, or
        this thread alone where nobody knows whether the code is safe in several.
    """

    def __init__(self, items, prepare, num_workers):
        self.items = items
        self.prepare = prepare
        self.num_workers = num_workers
        self.n_rows = len(items)
        # Of other containers, nobody knows what it costs to ask twice for an image.
        self.keyed = isinstance(items, list | tuple | np.ndarray | torch.Tensor)

    def keys(self, rows):
        """Return what each item is known by, without preparing it; None: by nothing."""
        return [self._key(row) for row in rows]

    def _key(self, row):
        try:
            return image_digest(self.items[row])
        except Exception:  # decoders raise all kinds; said when it is prepared
            return None

    def still(self, row, key):
        """Return whether an item is what its key says; ask after it was read.

        A file may be replaced at any time, also between its key and its reading.
        """
        is_file = isinstance(self.items[row], str | os.PathLike)
        return not is_file or self._key(row) == key

    def finish(self, batch):
        """Make floats of pixels, on whatever device they are."""
        return self.prepare.finish(batch)

    def batches(self, plan):
        """Yield the batches of rows that ``plan`` names, in this order."""
        if not self.num_workers:
            yield from self.preview(plan)
            return
        loader = DataLoader(
            _Prepared(self.items, self.prepare),
            batch_sampler=_Plan(plan),
            num_workers=self.num_workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # leaves the global one alone
        )
        batches: Any = iter(loader)
        try:
            yield from batches
        finally:  # at once, whoever still holds this generator
            with contextlib.suppress(Exception):
                batches._shutdown_workers()

    def preview(self, plan):
        """Yield batches that are made in this process."""
        prepared = _Prepared(self.items, self.prepare)
        several = self.prepare.thread_safe and self.keyed
        n_threads = torch.get_num_threads() if several else 1
        if n_threads == 1:
            for rows in plan:
                yield _collate([prepared[row] for row in rows])
            return
        with ThreadPoolExecutor(n_threads) as pool:
            for rows in plan:
                yield _collate(list(pool.map(prepared.__getitem__, rows)))


class LoaderSource:
    """The images in a DataLoader's batches; labels are ignored."""

    n_rows = None  # samplers and drop_last decide; only a pass tells
    keyed = False

    def __init__(self, loader, prepare):
        self.loader = loader
        self.prepare = prepare

    @property
    def in_order(self):
        """Whether rows surely come in the order of the loader's dataset, all of it."""
        if isinstance(self.loader.dataset, IterableDataset):
            return not self.loader.drop_last
        batches = self.loader.batch_sampler
        if batches is None:
            return type(self.loader.sampler) is SequentialSampler
        if type(batches) is not BatchSampler or batches.drop_last:
            return False
        return type(batches.sampler) is SequentialSampler

    @property
    def length(self):
        """How many images there will be, or None if only a pass tells."""
        if isinstance(self.loader.dataset, IterableDataset) or not self.in_order:
            return None
        return len(self.loader.dataset)

    def finish(self, batch):
        """Make floats of pixels, on whatever device they are."""
        return self.prepare.finish(batch)

    def batches(self, plan):
        """Yield the loader's own batches, whatever the plan."""
        start = 0
        for batch in self.loader:
            images = batch if self._is_list(batch) else image_in(batch)
            if isinstance(images, torch.Tensor) and images.is_floating_point():
                rows = list(range(start, start + len(images)))
                yield _finite(rows, images.detach().cpu().float())
            else:
                prepared = _Prepared(images, self.prepare, start)
                yield _collate([prepared[i] for i in range(len(images))])
            start += len(images)
        if not start:
            raise ValueError(
                "The DataLoader is empty, wanted at least 1 batch of images."
            )

    def _is_list(self, batch):
        """Tell a list of images, which a collate_fn has left, from stacked fields."""
        return (
            self.loader.collate_fn is not default_collate
            and isinstance(batch, tuple | list)
            and all(isinstance(x, torch.Tensor) and x.ndim == 3 for x in batch)
        )


def first_images(source, n, *, skip_errors=False):
    """Return the first n images, or all if there are fewer.

    Raises what is wrong with the first that cannot be read, or, with ``skip_errors``,
    leaves it out and raises only if none can be.
    """
    images: list[torch.Tensor] = []
    errors: dict[int, Exception] = {}
    read = getattr(source, "preview", source.batches)
    with contextlib.closing(read(plan_rows(range(source.n_rows or n), n))) as batches:
        for batch in batches:
            errors |= batch.errors
            if errors and not skip_errors:
                break
            if batch.images is not None:
                floats = source.finish(batch.images)
                if images and floats.shape[1:] != images[0].shape[1:]:
                    break  # a DataLoader's batches may differ, if the model takes it
                images.append(floats)
            if sum(map(len, images)) >= n:
                break
    if errors and not (skip_errors and images):
        raise errors[min(errors)]
    return torch.cat(images)[:n]


def plan_rows(rows: Iterable[int], batch_size: int) -> Iterator[list[int]]:
    """Yield rows in batches."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, batch_size)):
        yield batch


class _Plan:
    """Makes a plan look like torch's samplers, which are asked again for each pass."""

    def __init__(self, plan):
        self.plan = plan

    def __iter__(self):
        return iter(self.plan)


class _Prepared(Dataset):
    """Pairs rows with prepared items; an error is an item too: workers survive it."""

    def __init__(self, items, prepare, first_row=0):
        self.items = items
        self.prepare = prepare
        self.first_row = first_row

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        row = self.first_row + index
        try:
            return row, self.prepare(image_in(self.items[index]))
        except Exception as error:  # a user's transform or dataset may raise any
            return row, _known(error, row)


def _known(error, row):
    """Return an error that names the row, of a kind that any process can make."""
    known = (FileNotFoundError, TypeError, ValueError)
    kind = type(error) if type(error) in known else ValueError
    note = str(error) if type(error) in known else repr(error)
    return kind(f"Image {row}: {note}")


def _collate(items):
    """Make a batch of pairs of a row and its image, or what went wrong with it."""
    errors = {row: image for row, image in items if isinstance(image, Exception)}
    good = [(row, image) for row, image in items if row not in errors]
    if not good:
        return Batch([], None, errors)
    rows, images = map(list, zip(*good, strict=True))
    shapes = [tuple(image.shape) for image in images]
    usual = max(shapes, key=shapes.count)  # the first of them if there are several
    for row, shape in zip(rows, shapes, strict=True):
        if shape != usual:
            errors[row] = ValueError(
                f"Images differ in shape: image {rows[shapes.index(usual)]} is "
                f"{usual}, image {row} is {shape}. All must agree once they are "
                "preprocessed; let preprocess= resize them."
            )
    images = [image for row, image in good if row not in errors]
    rows = [row for row in rows if row not in errors]
    if len({image.dtype for image in images}) > 1:
        errors |= dict.fromkeys(rows, _mixture())
        return Batch([], None, errors)
    batch = _finite(rows, torch.stack(images))
    return batch._replace(errors=errors | batch.errors)


def _mixture():
    return TypeError(
        "Some images are pixels to be preprocessed, others floats that already are; "
        "wanted one kind."
    )


def _finite(rows, images):
    """Leave out images that hold NaN or infinity."""
    if not images.is_floating_point() or images.sum().isfinite():
        return Batch(rows, images, {})
    bad = ~images.flatten(1).isfinite()
    errors: dict[int, Exception] = {
        row: ValueError(f"Input X contains NaN or infinity: {n} values in row {row}.")
        for row, n in zip(rows, bad.sum(dim=1).tolist(), strict=True)
        if n
    }
    good = [row for row in rows if row not in errors]
    images = images[~bad.any(dim=1)]
    return Batch(good, images if good else None, errors)


def image_in(item):
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
