"""Readers for the files of public data sets, in their original layouts."""

import gzip
import os
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from reactood._images._preparation import list_folder

IDX_UINT8 = 0x08


class Absent(Exception):
    """A file or an option is missing; the message says which, and how to get it."""


def find(data, names, *, get):
    """Return the first existing path of ``names``, relative to the folder ``data``.

    Raises
    ------
    Absent
        If none exists. The message ends with ``get``, which says where to get the
        files.
    """
    for name in names:
        if (path := Path(data) / name).exists():
            return path
    names_shown = " or ".join(names)
    raise Absent(f"{names_shown} is not in {os.fspath(data)}. {get}")


def list_classes(folder):
    """Return the images in a folder of class folders, and the class of each image.

    Classes are numbered in the order of the folders' names.

    Raises
    ------
    Absent
        If the folder holds no folders.
    """
    folders = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    if not folders:
        raise Absent(
            f"{os.fspath(folder)} holds no folders; expected one folder for each "
            "class, named so that the sorted names are in the order of the model's "
            "classes."
        )
    files = [list_folder(path) for path in folders]
    classes = np.repeat(np.arange(len(folders)), [len(names) for names in files])
    return [name for names in files for name in names], classes


def read_idx(path):
    """Read a file of bytes in MNIST's IDX format, gzipped or not, as an array.

    Raises
    ------
    ValueError
        If the file has another format, or is truncated.
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
            f"{os.fspath(path)} holds {len(values)} bytes, but its header says "
            f"{' x '.join(map(str, shape))}. The file may be truncated: download it "
            "again."
        )
    return values.reshape(shape)


def read_svhn(path):
    """Read SVHN's MATLAB file as an uint8 array of shape (n, 32, 32, 3)."""
    return np.ascontiguousarray(loadmat(path)["X"].transpose(3, 0, 1, 2))
