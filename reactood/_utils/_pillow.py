"""Decode PIL images without any conversion, one thread at a time."""

import threading

# Decoders read from the open file of an image, which other images may share.
decoding_lock = threading.Lock()


def load_as_it_is(image):
    """Decode a user's image, which may have been opened but not yet read."""
    with decoding_lock:
        load(image)


def load(image):
    """Decode an image without mapping its file into memory.

    For a TIFF file, Pillow reads the mapped memory with the size that the image has
    after its rotation. So photos that are stored rotated by 90 degrees are decoded
    wrongly. Pillow does not map a file if the image has no file name.
    """
    name = getattr(image, "filename", "")
    if name:
        image.filename = ""
    try:
        image.load()
    finally:
        if name:
            image.filename = name
