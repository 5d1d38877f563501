"""Sources of images: they turn every accepted input into batches.

A batch is a tensor of shape (n, ...) on the host: float32, or uint8 pixels that are
scaled and normalised later, on the device. Three kinds of source make them: rows of
an array, items that are prepared one at a time, and the batches of a DataLoader.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from reactood._images._collate import (
    Batch,
    Prepared,
    Uniform,
    allow_pixels,
    check_finite,
    collate,
)
from reactood._images._digest import image_digest
from reactood._images._files import content_of, is_encoded, loaded
from reactood._images._image_source import Begun, ImageSource
from reactood._images._kinds import check_paths, image_items
from reactood._images._pixels import check_plain, image_in
from reactood._images._preparation import Preparation
from reactood._utils._fields import TOKENS, columns_of, fields_of, has_fields
from reactood._utils._tensors import as_tensor
from reactood._utils._warnings import warn


def open_source(
    X: Any,
    prepare: Preparation | None = None,
    *,
    validate: Callable[[Any], Any],
    num_workers: int = 0,
    missing_ok: bool = False,
    tokens: bool = False,
) -> ImageSource:
    """Return the source of the images in ``X``.

    ``validate`` checks what is a numeric array, already preprocessed, and returns it.
    Unless ``missing_ok``, a path that does not exist raises at once. With ``tokens``,
    rows of integers stay integers.
    """
    if has_fields(X):
        return FieldSource(columns_of(X))
    if isinstance(X, DataLoader):
        return LoaderSource(X, prepare)
    if isinstance(X, IterableDataset):
        raise TypeError(
            "An IterableDataset has no length and no items; pass it in a "
            "torch.utils.data.DataLoader."
        )
    items: Any = X if isinstance(X, Dataset) else image_items(X)
    if items is None:
        return ArraySource(validate(X), tokens=tokens)
    if len(items) == 0:
        raise ValueError(
            f"Got an empty {type(X).__name__}, 0 images; a minimum of 1 is required."
        )
    if not isinstance(X, Dataset) and not missing_ok:
        check_paths(items)
    return ItemSource(items, prepare, num_workers)


class ArraySource(ImageSource):
    """Rows of a float array or tensor, already preprocessed."""

    keyed = True

    def __init__(self, X, *, tokens=False):
        self.X = X
        self.n_rows = X.shape[0]
        if tokens and X.ndim == 2 and not as_tensor(X[:1]).is_floating_point():
            self.fields = TOKENS

    @property
    def looks_like_pixels(self):
        """Whether the first image has whole numbers up to 255, as of a file."""
        if self.fields is not None or self.X.ndim != 4 or not self.n_rows:
            return False
        first = as_tensor(self.X[:1]).float()
        low, high = first.min(), first.max()
        return bool(0 <= low and 127 < high <= 255 and (first == first.round()).all())

    def keys(self, rows):
        """Return what each row is known by."""
        return [image_digest(self.X[row]) for row in rows]

    def image(self, row):
        """Return one image as it was given."""
        return self.X[row]

    def batches(self, order):
        """Yield the batches of rows that ``order`` names."""
        for rows in order:
            first, last = rows[0], rows[-1] + 1
            picked = slice(first, last) if last - first == len(rows) else rows
            dtype = torch.float32 if self.fields is None else torch.int64
            images = as_tensor(self.X[picked]).cpu().to(dtype).contiguous()
            yield check_finite(rows, images)


class FieldSource(ImageSource):
    """Rows of a dict of tensors, which a network takes as arguments by name."""

    keyed = True

    def __init__(self, columns):
        self.columns = columns
        self.fields = fields_of(columns)
        self.n_rows = len(next(iter(columns.values())))

    def _packed(self, rows):
        return self.fields.pack({k: v[rows].cpu() for k, v in self.columns.items()})

    def keys(self, rows):
        """Return what each row is known by: all of its fields."""
        return [image_digest(row) for row in self._packed(rows)]

    def image(self, row):
        """Return one sample as a dict."""
        return {name: values[row] for name, values in self.columns.items()}

    def batches(self, order):
        """Yield the batches of rows that ``order`` names."""
        for rows in order:
            yield Batch(rows, self._packed(rows), {})


class ItemSource(ImageSource):
    """Paths, PIL images, arrays or a Dataset, one image at a time.

    Parameters
    ----------
    items : sequence or Dataset
        The images.
    prepare : Preparation
        What is done to each.
    num_workers : int
        Processes that do it; 0 for as many threads of this process as torch uses, or
        this thread alone where the user's code may not be safe in several.
    """

    def __init__(self, items, prepare, num_workers):
        self.items = items
        self.prepare = prepare
        self.num_workers = num_workers
        self.n_rows = len(items)
        self.uniform = Uniform()
        # In other containers, asking twice for an image may be slow.
        self.keyed = isinstance(items, list | tuple | np.ndarray | torch.Tensor)

    def image(self, row):
        """Return one image as it was given."""
        return image_in(self.items[row])

    def keys(self, rows):
        """Return what each item is known by, without preparing it; None: by nothing."""
        return [self._key(row) for row in rows]

    def _key(self, row):
        try:
            item = self.items[row]
            if is_encoded(item):  # one axis, which no image has
                item = np.frombuffer(content_of(item), np.uint8)
            return image_digest(item)
        except (
            Exception
        ):  # any error of a decoder; it is raised again when the image is prepared
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

    def batches(self, order):
        """Yield the batches of rows that ``order`` names, in this order."""
        if not self.num_workers:
            yield from self.preview(order)
            return
        self._load_images()
        loader = DataLoader(
            Prepared(self.items, self.prepare),
            batch_sampler=_Order(order),
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=functools.partial(allow_pixels, Image.MAX_IMAGE_PIXELS),
            generator=torch.Generator(),  # so that the global generator is not used
        )
        batches: Any = iter(loader)
        try:
            for errors, groups in batches:
                yield self.uniform(errors, groups)
        finally:  # at once, even if this generator is still referenced
            with contextlib.suppress(Exception):
                batches._shutdown_workers()

    def _load_images(self):
        """Decode PIL images that were opened only: processes would share the files."""
        for item in self.items if self.keyed else ():
            if isinstance(item, Image.Image):
                with contextlib.suppress(
                    ValueError
                ):  # raised again when the image is prepared
                    loaded(item)

    def preview(self, order):
        """Yield batches that are made in this process."""
        prepared = Prepared(self.items, self.prepare)
        several = self.prepare.thread_safe and self.keyed
        n_threads = torch.get_num_threads() if several else 1
        if n_threads == 1:
            for rows in order:
                yield self.uniform(*collate([prepared[row] for row in rows]))
            return
        with ThreadPoolExecutor(n_threads) as pool:
            for rows in order:
                items = list(pool.map(prepared.__getitem__, rows))
                yield self.uniform(*collate(items))


class LoaderSource(ImageSource):
    """The images in a DataLoader's batches; labels are ignored."""

    n_rows = None  # it depends on samplers and drop_last

    def __init__(self, loader, prepare):
        self.loader = loader
        self.prepare = prepare
        self._begun: Any = None
        self._first: bytes | None = None

    @property
    def begun(self):
        """What was begun of an IterableDataset, or None."""
        if self._begun is None or not isinstance(self.loader.dataset, IterableDataset):
            return None
        return Begun(self._iterator(), self.loader.dataset, self._first)

    def _iterator(self):
        """Return what the dataset gave out to this process, or None."""
        fetcher = getattr(self._begun[1], "_dataset_fetcher", None)
        return getattr(fetcher, "dataset_iter", None)

    @property
    def in_order(self):
        """Whether rows surely come in the order of the loader's dataset, all of it."""
        loader = self.loader
        if not getattr(loader, "in_order", True) and loader.num_workers > 0:
            return False
        if isinstance(loader.dataset, IterableDataset):
            # Each worker iterates over its own copy, and the batches alternate.
            return not loader.drop_last and loader.num_workers <= 1
        batches = loader.batch_sampler
        if batches is None:
            return type(loader.sampler) is SequentialSampler
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

    def batches(self, order):
        """Yield the loader's own batches, those of `preview` again; no order counts."""
        if self._begun is None:
            self._begin()
        seen, rest = self._begun
        yield from self._batches(itertools.chain(seen, rest))

    def preview(self, order):
        """Yield the loader's first batches; `batches` goes on with all of them."""
        self._begin()
        yield from self._batches(self._remembered())

    def _begin(self):
        self._begun = [], iter(self.loader)
        before, iterator = self.read_before, self._iterator()
        if before is not None and iterator is not None and iterator is before.iterator:
            raise ValueError(
                "The DataLoader's IterableDataset can be read only once, and fit has "
                "read its first images: their rows would be missing. Use "
                "fit_transform, or let its __iter__ start from the beginning each time."
            )

    def _note_first(self, image):
        """Note the first image of a pass; warn if the dataset began with another."""
        self._first = image_digest(image, prepared=True)
        before = self.read_before
        if before is None or before.dataset() is not self.loader.dataset:
            return
        if before.first not in (None, self._first):
            warn(
                "The DataLoader's IterableDataset begins with another image than when "
                "fit read it. If it can be read only once, the rows of its first "
                "images are missing: use fit_transform, or let its __iter__ start from "
                "the beginning each time."
            )

    def _remembered(self):
        seen, rest = self._begun
        for batch in rest:
            seen.append(batch)
            yield batch

    def _batches(self, batches):
        start = 0
        for given in batches:
            images = given if self._is_list(given) else image_in(given)
            check_plain(images)
            if isinstance(images, torch.Tensor) and images.is_floating_point():
                rows = list(range(start, start + len(images)))
                batch = check_finite(rows, images.detach().cpu().float())
            else:
                prepared = Prepared(images, self.prepare, start)
                items = [prepared[i] for i in range(len(images))]
                batch = Uniform()(
                    *collate(items)
                )  # the next batch may have another size
            streams = isinstance(self.loader.dataset, IterableDataset)
            if streams and start == 0 and batch.images is not None:
                self._note_first(batch.images[0])
            yield batch
            start += len(images)
        if not start:
            raise ValueError(
                "The DataLoader is empty, expected at least 1 batch of images."
                + (
                    " Was its IterableDataset read before?"
                    if isinstance(self.loader.dataset, IterableDataset)
                    else ""
                )
            )

    def _is_list(self, batch):
        """Return whether a collate_fn has left a list of images, not stacked fields."""
        if self.loader.collate_fn is default_collate:
            return False
        if not isinstance(batch, tuple | list) or not batch:
            return False
        if not all(map(_is_one_image, batch)):
            return False
        # With batch_size=None, torch turns a dataset's tuples into lists.
        unbatched = self.loader.batch_sampler is None and torch.is_tensor(batch[0])
        if len(batch) > 1 and (isinstance(batch, tuple) or unbatched):
            raise TypeError(
                f"The DataLoader gives a tuple of {len(batch)} images, which may be "
                "one image with others beside it, or a batch. Let its collate_fn "
                "return a list for a batch, or (images, others) with the images "
                "stacked; with batch_size=None, let the dataset give batches."
            )
        return True


def _is_one_image(thing):
    if isinstance(thing, torch.Tensor):
        return thing.ndim == 3
    return isinstance(thing, Image.Image)


class _Order:
    """An order of rows as one of torch's samplers, which are read for each pass."""

    def __init__(self, order):
        self.order = order

    def __iter__(self):
        return iter(self.order)
