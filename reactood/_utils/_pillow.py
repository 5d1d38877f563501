"""Decode PIL images without any conversion, one thread at a time."""

import threading

# Decoders read from the file that an image holds, which other images may hold too.
decoding_lock = threading.Lock()


def load_as_it_is(image):
    """Decode an image of the user's that may have been opened and not read yet."""
    with decoding_lock:
        load(image)


def load(image):
    """Decode an image, not by mapping its file into memory.

    Pillow lays the map of a TIFF file out by the size that the image has once it is
    turned: photos that lie on their side come out scrambled. It maps no file without a
    name.
    """
    name = getattr(image, "filename", "")
    if name:
        image.filename = ""
    try:
        image.load()
    finally:
        if name:
            image.filename = name
