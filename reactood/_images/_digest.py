"""A digest of an image's content: the key under which a cache keeps its features."""

import os

import torch
from PIL import Image

from reactood._utils._fingerprint._hashing import feed_tensor, file_version, new_hash
from reactood._utils._fingerprint._walk import Walk
from reactood._utils._tensors import as_tensor


def image_digest(item, *, prepared=False):
    """Return 16 bytes that stand for an image or, for a file, its version.

    A file is told by its path, size, place on the disk and times of change, without
    reading it. None if there is no such file. A PIL image is all that a transform can
    see of it: pixels as they are, palette, EXIF and other notes. Pixels that are
    ``prepared``, cut to size, stand for another image than the same ones that are not;
    floats always are.

    Raises
    ------
    TypeError
        If a PIL image holds something that has no identity beyond this process.
    """
    digest = new_hash(b"prepared" if prepared and item.dtype == torch.uint8 else b"")
    if isinstance(item, str | os.PathLike):
        version = file_version(item)
        if version is None:
            return None
        digest.update(repr(("file", *version)).encode())
    elif isinstance(item, Image.Image):
        walk = Walk()
        walk.walk_picture(item)
        digest.update(walk.digest.digest())
    else:
        feed_tensor(digest, as_tensor(item))
    return digest.digest()
