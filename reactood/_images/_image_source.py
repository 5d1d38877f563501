"""ImageSource: the interface of all sources, and a look at their first images."""

import abc
import contextlib
import itertools
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from reactood._images._collate import Batch
from reactood._images._files import is_of_file


class Begun:
    """What a look at the first images has begun. It is not part of a pickle.

    Attributes
    ----------
    iterator : object or None
        What the dataset gave out, which is the same object in the next pass if it can
        be read only once.
    dataset : weakref.ref
        The dataset.
    first : bytes or None
        Digest of the first image.
    """

    def __init__(self, iterator, dataset, first):
        self.iterator = iterator
        self.dataset = weakref.ref(dataset)
        self.first = first

    def __reduce__(self):
        return type(None), ()


class ImageSource(abc.ABC):
    """Gives the images of one input, as batches or one at a time.

    Attributes
    ----------
    n_rows : int or None
        Number of images; None where only a pass over them tells.
    length : int or None
        How many rows a pass will give, where that is known before it.
    fields : Fields or None
        What a batch of integers holds: the arguments of the network by name, or
        tokens. None for images and numbers.
    keyed : bool
        Whether rows have keys before they are prepared.
    read_before : Begun or None
        What was begun before, by `fit`: a pass that goes on with it misses images.
    """

    n_rows: int | None
    fields: Any = None
    keyed: bool = False
    read_before: "Begun | None" = None

    @property
    def in_order(self) -> bool:
        """Whether rows come in the order of the input, all of it."""
        return True

    @property
    def begun(self) -> "Begun | None":
        """What was begun of a dataset that is iterated over, or None."""
        return None

    @property
    def length(self) -> int | None:
        """How many rows a pass will give, or None."""
        return self.n_rows

    @abc.abstractmethod
    def batches(self, order: Iterable[list[int]]) -> Iterator[Batch]:
        """Yield the batches of rows that ``order`` names, in this order."""

    def preview(self, order: Iterable[list[int]]) -> Iterator[Batch]:
        """Yield batches as `batches` does, for a look at the first images only."""
        return self.batches(order)

    def finish(self, batch: torch.Tensor) -> torch.Tensor:
        """Return a batch as floats, on whatever device it is."""
        return batch

    def keys(self, rows: list[int]) -> list[bytes | None]:
        """Return what each row is known by, without preparing it; None: by nothing."""
        raise NotImplementedError

    def still(self, row: int, key: bytes) -> bool:
        """Return whether a row is what its key says; to be asked after it was read."""
        return True

    @property
    def looks_like_pixels(self) -> bool:
        """Whether images that count as preprocessed seem not to be."""
        return False

    def image(self, row: int) -> Any:
        """Return one image as it was given."""
        raise NotImplementedError

    def __len__(self) -> int:
        if self.n_rows is None:
            raise TypeError(
                "Got a DataLoader, which gives its images in batches only; expected "
                "images of which each can be taken by its row: a list of images or "
                "paths, an array, a folder, or the loader's dataset."
            )
        return self.n_rows


def first_images(source, n, *, skip_errors=False):
    """Return the first n images, or all if there are fewer.

    Raises what is wrong with the first that cannot be read, or, with ``skip_errors``,
    leaves it out and raises only if none can be. What is wrong with the preprocessing
    is told before what is wrong with a file: it concerns all images.
    """
    images: list[torch.Tensor] = []
    errors: dict[int, Exception] = {}
    order = split_rows(range(source.n_rows or n), n)
    with contextlib.closing(source.preview(order)) as batches:
        for batch in batches:
            errors |= batch.errors
            if errors and not skip_errors:
                break
            if batch.images is not None:
                floats = source.finish(batch.images)
                if images and floats.shape[1:] != images[0].shape[1:]:
                    break  # batches of a DataLoader may differ in size
                images.append(floats)
            if sum(map(len, images)) >= n:
                break
    if errors and not (skip_errors and images):
        raise errors[min(errors, key=lambda row: (is_of_file(errors[row]), row))]
    return torch.cat(images)[:n]


def split_rows(rows: Iterable[int], batch_size: int) -> Iterator[list[int]]:
    """Yield rows in batches."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, batch_size)):
        yield batch
