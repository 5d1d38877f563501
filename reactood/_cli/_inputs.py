"""The images that a command is given: folders, files, patterns, a list on stdin."""

import glob
import os
import random
import sys

from reactood.datasets import list_images

STDIN = "-"


def list_inputs(names, *, null=False):
    """Return the paths of images as text, in the order in which they were given.

    Parameters
    ----------
    names : list of str
        Folders, files, patterns of files, or ``"-"`` for a list on stdin.
    null : bool
        Whether the list on stdin is separated by NUL characters. It is then read even
        if no name is given.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or none for a pattern. A file of the list
        on stdin may be missing.
    ValueError
        If there are no images at all.
    """
    if null and STDIN not in names:
        names = [*names, STDIN]
    paths = [path for name in names for path in _paths_of(name, null)]
    if not paths:
        raise ValueError("Got no images: the list on stdin is empty.")
    return paths


def draw(paths, limit, seed):
    """Return at most ``limit`` of the paths, drawn at random, in their order."""
    if limit is None or limit >= len(paths):
        return paths
    picked = random.Random(seed).sample(range(len(paths)), limit)
    return [paths[row] for row in sorted(picked)]


def _paths_of(name, null):
    if name == STDIN:
        return _listed(sys.stdin.buffer.read(), null)
    if os.path.isdir(name):
        return [os.fspath(path) for path in list_images(name)]
    if os.path.lexists(name):
        return [name]
    found = sorted(glob.glob(name, recursive=True))
    if not found:
        raise FileNotFoundError(f"There is no file or folder {name!r}.")
    return [path for one in found for path in _paths_of(one, null)]


def _listed(content, null):
    """Return the paths of a list; a name may be bytes that are no text."""
    if null:
        names = content.split(b"\0")
    else:
        names = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]


def counted(n, kind=""):
    """Return a number of images, of a kind such as ``"ID "``, in words."""
    return f"{n:,} {kind}image{'s' * (n != 1)}"
