"""Join prepared images to one batch, where they have one shape."""

from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import (
    Dataset,
)

from reactood._images._pixels import image_in, pixels_together


class Batch(NamedTuple):
    """Images, and which rows of the input they are; errors instead of the others."""

    rows: list[int]
    images: torch.Tensor | None  # None if there are no rows
    errors: dict[int, Exception]


class Prepared(Dataset):
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
        except Exception as error:  # a user's transform or dataset may raise any error
            return row, _known(error, row)


def _known(error, row):
    """Return an error that names the row, of a kind that any process can make."""
    known = (FileNotFoundError, TypeError, ValueError)
    kind = type(error) if type(error) in known else ValueError
    note = str(error) if type(error) in known else repr(error)
    return kind(f"Image {row}: {note}")


def collate(items):
    """Make groups of images that can be stacked; errors stay apart."""
    errors = {row: image for row, image in items if isinstance(image, Exception)}
    groups: dict[tuple, list] = {}
    for row, image in items:
        if row not in errors:
            groups.setdefault((image.shape, image.dtype), []).append((row, image))
    return errors, [_stacked(group) for group in groups.values()]


def _stacked(group):
    rows, images = map(list, zip(*group, strict=True))
    if not pixels_together(images[0]):
        return rows, torch.stack(images)
    # The numbers of a pixel stay side by side: to part them would take a copy.
    return rows, torch.stack([x.movedim(-3, -1) for x in images]).movedim(-1, -3)


class Uniform:
    """Lets images of one shape and kind pass, the most frequent of the first batch."""

    def __init__(self):
        self.row: Any = None  # the first row with this shape and dtype
        self.shape: Any = None
        self.dtype: Any = None

    def __call__(self, errors, groups):
        """Return a batch of images that go together, and errors for the others."""
        if self.row is None and groups:
            rows, images = max(groups, key=lambda group: len(group[0]))
            self.row, self.shape, self.dtype = rows[0], images.shape[1:], images.dtype
        batch = Batch([], None, {})
        for rows, images in groups:
            if images.dtype != self.dtype:
                errors |= dict.fromkeys(rows, _mixture())
            elif images.shape[1:] != self.shape:
                errors |= {row: self._differs(row, images) for row in rows}
            else:
                batch = check_finite(rows, images)
        return batch._replace(errors=errors | batch.errors)

    def _differs(self, row, images):
        return ValueError(
            f"Images differ in shape: image {self.row} is {tuple(self.shape)}, image "
            f"{row} is {tuple(images.shape[1:])}. All must agree once they are "
            "preprocessed; let preprocess= resize them."
        )


def allow_pixels(limit, worker):
    """Set the user's limit in a process that does not inherit it."""
    Image.MAX_IMAGE_PIXELS = limit


def _mixture():
    return TypeError(
        "Some images are pixels to be preprocessed, others floats that already are; "
        "expected one kind."
    )


def check_finite(rows, images):
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
