"""Find and read the files of public data sets, in their usual layouts."""

import gzip
import os
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from reactood._images._preparation import list_folder

IDX_UINT8 = 0x08


class Absent(Exception):
    """A file is not in the data folder; the text names it and where to get it."""


def find(data, names, *, get):
    """Return the first of the paths ``names`` in the folder ``data`` that exists.

    Raises
    ------
    Absent
        If none exists; the error includes ``get``, which says where to get it.
    """
    for name in names:
        if (path := Path(data) / name).exists():
            return path
    names_shown = " or ".join(names)
    raise Absent(f"{names_shown} is not in {os.fspath(data)}. {get}")


def list_classes(folder):
    """Return the paths of the images in the folders of classes, and their classes.

    Classes are numbered in the order of the folders' names.

    Raises
    ------
    Absent
        If the folder holds no folders.
    """
    folders = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    if not folders:
        raise Absent(
            f"{os.fspath(folder)} holds no folders; expected one for each class, named "
            "so that sorted names are in the order of the model's classes."
        )
    files = [list_folder(path) for path in folders]
    classes = np.repeat(np.arange(len(folders)), [len(names) for names in files])
    return [name for names in files for name in names], classes


def read_idx(path):
    """Read bytes in MNIST's format, gzipped or not, as an array.

    Raises
    ------
    ValueError
        If the file has another format, or is incomplete.
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != bytes([0, 0, IDX_UINT8]):
        raise ValueError(
            f"{os.fspath(path)} starts with {content[:4].hex()!r}; expected an IDX "
            "file of bytes, which starts with '000008'."
        )
    n_axes = content[3]
    shape = np.frombuffer(content, ">i4", n_axes, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes)
    if len(values) != shape.prod():
        raise ValueError(
            f"{os.fspath(path)} holds {len(values)} bytes, but its header states "
            f"{' x '.join(map(str, shape))}. If it is incomplete, get it again."
        )
    return values.reshape(shape)


def read_svhn(path):
    """Read images from the MATLAB file of SVHN: uint8 of shape (n, 32, 32, 3)."""
    return np.ascontiguousarray(loadmat(path)["X"].transpose(3, 0, 1, 2))
