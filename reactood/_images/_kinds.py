"""Decide what the whole input is: a sequence of images, a folder, or an array."""

import os
from collections.abc import Iterator, Mapping, Sequence, Set, ValuesView
from numbers import Number

import numpy as np
import torch
from PIL import Image
from scipy.sparse import issparse

from reactood._images._files import is_encoded, is_path, list_folder, missing, short
from reactood._images._pixels import check_plain, image_in, no_image
from reactood._utils._warnings import warn

PIXELS = "uint8 for pixels in 0..255, or floats that are already preprocessed"


def image_items(X):
    """Return the images in ``X`` as a sequence, or None for a numeric array."""
    if is_path(X):
        return folder_items(X)
    if isinstance(X, Image.Image):
        raise TypeError("Got one PIL image, expected a list of images: [image].")
    if is_encoded(X) or hasattr(X, "read"):
        raise TypeError(
            f"Got one {type(X).__name__}, expected a list of images. If it is the "
            "content of an image file, or a BytesIO with it: [content]."
        )
    if issparse(X):  # some are mappings too; scikit-learn refuses them all
        return None
    if isinstance(X, Mapping):
        raise TypeError(
            f"Got a {type(X).__name__} with the keys {short(list(map(str, X)))}; "
            "expected images. If it holds several sets of them, pass one: X[key]."
        )
    X = _column(X)
    if isinstance(X, np.ndarray | torch.Tensor):
        return _array_items(X)
    if isinstance(X, Iterator):
        raise TypeError(
            f"Got a {type(X).__name__}, which can be read only once; expected a list: "
            "list(X)."
        )
    if isinstance(X, Set | ValuesView):
        raise TypeError(
            f"Got a {type(X).__name__}, whose items have no places; expected a list: "
            "sorted(X) or list(X)."
        )
    if _is_hugging_face(X):
        if hasattr(X, "__len__"):
            return X
        raise TypeError(
            f"A {type(X).__name__} of the datasets library has no length and no items; "
            "load the data set without streaming=True, or pass a list of its items."
        )
    if not _is_sequence(X):
        return None
    return _sequence_items(X)


def folder_items(path):
    """Return the image files in a folder; raise if it is none."""
    path = os.fsdecode(path)
    if os.path.isdir(path):
        return list_folder(path)
    if os.path.exists(path):
        raise ValueError(
            f"Got the path of one file, {short(path)}; expected a folder, or a "
            "list of paths: [path]."
        )
    raise FileNotFoundError(missing(path))


def _sequence_items(X):
    if len(X) == 0:
        return X
    first = X[0]
    if is_path(first):
        return _all_paths(X)
    if isinstance(first, tuple | list) and len(first) and _is_image(first[0]):
        raise TypeError(
            "Got a list of tuples, each an image and more: a torch Dataset that "
            "scikit-learn has sliced? Wrap it as reactood.datasets.ImageDataset("
            "dataset), which can be sliced and leaves labels out."
        )
    if isinstance(first, tuple) and len(first) > 1 and is_path(first[0]):
        raise TypeError(
            "Got a list of tuples, each a path and more; expected paths alone: "
            "[path for path, *_ in X]."
        )
    if not isinstance(X, Sequence):
        return X
    if isinstance(first, Mapping):
        if not isinstance(X, list | tuple):
            return X  # its items may not be in memory
        unpacked = [_unpacked(row, item) for row, item in enumerate(X)]
        return _sequence_items(unpacked) or unpacked
    if _is_image(first) or is_encoded(first):
        return X
    _check_numbers(X, first)
    return None


def _unpacked(row, item):
    try:
        return image_in(item)
    except TypeError as error:
        raise TypeError(f"Image {row}: {error}") from error


def _is_sequence(X):
    """Return whether X is a list, or a dataset of another library than torch."""
    looks = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    other = hasattr(X, "shape") or hasattr(X, "__array__") or isinstance(X, Mapping)
    return isinstance(X, Sequence) or (looks and not other)


def _is_image(item):
    return isinstance(item, Image.Image) or (
        isinstance(item, np.ndarray | torch.Tensor) and item.ndim >= 2
    )


def _is_of(X, library):
    """Return whether X is an object of a library, which may not be installed."""
    return any(c.__module__.partition(".")[0] == library for c in type(X).__mro__)


def _is_hugging_face(X):
    """Return whether X is a table of Hugging Face's: it has a shape, as arrays do."""
    return _is_of(X, "datasets") and hasattr(X, "column_names")


def _check_numbers(X, first):
    """Check that a list that holds no images holds the numbers of a table."""
    if isinstance(first, torch.Tensor):
        check_plain(first)
    if isinstance(first, list | tuple) and len(first):
        if not isinstance(first[0], list | tuple):
            return  # a table of features
        try:
            array = np.asarray(X)
        except ValueError:  # lists of different lengths: scikit-learn raises an error
            return
        if array.dtype.kind in "biu" and array.ndim > 2:
            raise TypeError(
                f"Got nested lists of integers of shape {array.shape}, which do not "
                "say whether they are pixels or already preprocessed; make it an array "
                f"of {PIXELS}: numpy.asarray(X, dtype=numpy.uint8)."
            )
    elif not isinstance(first, Number | np.generic | Sequence) and not hasattr(
        first, "__array__"
    ):
        raise TypeError(f"Image 0: {no_image(first)}")


def _column(X):
    """Return a column of paths or images as an array or a list; leave numbers alone."""
    if _is_of(X, "pandas") and hasattr(X, "to_numpy"):
        if getattr(X, "ndim", 2) == 2:
            if X.shape[1] != 1:
                _check_table(X.iloc[0] if len(X) else ())
                return X
            if X.dtypes.iloc[0].kind in "biufc":
                return X
            X = X.iloc[:, 0]
        return X.to_numpy(dtype=object) if X.dtype.kind not in "biufc" else X
    if _is_of(X, "polars") and hasattr(X, "to_numpy"):
        if hasattr(X, "columns") and X.shape[1] != 1:
            _check_table(X.row(0) if len(X) else ())
            return X
        column = X.to_series(0) if hasattr(X, "columns") else X
        return X if column.dtype.is_numeric() else column.to_list()
    return X


def _check_table(row):
    """Refuse a table in which images or paths stand beside something else."""
    for i, item in enumerate(row):
        if isinstance(item, str | bytes):
            bad = not _is_number(item)
        else:
            bad = isinstance(item, Image.Image | os.PathLike | Mapping)
        if bad:
            raise TypeError(
                f"Got a table of {len(row)} columns, of which column {i} (counted from "
                f"0) holds {short(item)}; expected numbers alone, or one column of "
                "images or paths."
            )


def _is_number(text):
    """Return whether a string is a number: scikit-learn turns it into one."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _array_items(X):
    """Return paths or pixels in an array, or None where it holds numbers."""
    check_plain(X)
    if isinstance(X, np.ndarray):
        if X.dtype.kind in "OSUT" and X.shape[1:] == (1,):
            X = X[:, 0]
        if X.dtype.kind in "OSUT" and X.ndim == 1:
            return _sequence_items(X.tolist())
    kind = _kind_of_number(X)
    if X.dtype in (np.uint8, torch.uint8):
        return _pixels(X)
    if kind == "integer" and X.ndim > 2:
        raise TypeError(
            f"Images have dtype {str(X.dtype).removeprefix('torch.')}; expected "
            f"{PIXELS}."
        )
    return None


def _kind_of_number(X):
    if isinstance(X, np.ndarray):
        return "integer" if X.dtype.kind in "biu" else "other"
    return "other" if X.is_floating_point() or X.is_complex() else "integer"


def _pixels(X):
    """Return an array of uint8 as images, None as rows; say what could be meant."""
    shape = tuple(X.shape)
    if X.ndim == 3 and shape[-1] in (1, 3, 4):
        raise ValueError(
            f"Got one image of shape {shape}, expected several: X[None] "
            "makes it the first of one. If these are grey images: X[..., None]."
        )
    if X.ndim == 3 and shape[0] in (3, 4):
        warn(
            f"A uint8 array of shape {shape} is read as {shape[0]} grey images of "
            f"{shape[1]} x {shape[2]} pixels. If it is one image of {shape[0]} "
            "channels, pass X[None]; if these are grey images, X[:, None] says so "
            "without this warning."
        )
    if X.ndim == 2:
        warn(
            f"A uint8 array of shape {shape} is read as {shape[0]} rows of {shape[1]} "
            "numbers that are already preprocessed. If it is one grey image, pass "
            "X[None]; if these are rows, X.astype('float32') says so without this "
            "warning."
        )
    if X.ndim > 4:
        raise ValueError(
            f"Images have shape {shape} and dtype uint8; expected (n, height, width[, "
            "channels]) or (n, channels, height, width)."
        )
    return X if X.ndim in (3, 4) else None


def _all_paths(items):
    """Check that there are only paths where the first item is one."""
    for row, path in enumerate(items):
        if not is_path(path):
            got = "None" if path is None else f"a {type(path).__name__}"
            raise TypeError(
                f"Image {row} is {got}, the first one a path; expected paths only."
            )
    if any(isinstance(path, bytes) for path in items):
        return [os.fsdecode(path) for path in items]
    return items


def check_paths(items):
    """Check all paths before the first is read: an error should not come at the end."""
    if is_path(items[0]):
        for row, path in enumerate(items):
            if not os.path.exists(path):
                raise FileNotFoundError(f"Image {row}: {missing(path)}")
