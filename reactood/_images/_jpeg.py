"""Read the header of a JPEG file: its size, its orientation, what decoders need of it.

Only plain files are described, those that every decoder reads alike. Of all others the
answer is None, and Pillow decides what they are.
"""

from typing import NamedTuple

from PIL import ExifTags, Image

START = b"\xff\xd8\xff"
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; Huffman codes
_TABLES = {0xC4, 0xDB, 0xDD, 0xFE}  # codes, quantisation, restarts; comments
_APPLICATIONS = range(0xE0, 0xF0)
_COLOURS = 0xE0, 0xEE  # JFIF and Adobe: they say how colours are encoded
_SCAN = 0xDA
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_SEVERAL = b"MPF\0"  # more images follow


class JPEG(NamedTuple):
    """A plain JPEG file.

    ``orientation`` is the number that EXIF or XMP has for it, 1 if there is none.
    ``stream`` is the file without what is about the image: decoders would turn it by
    rules of their own.
    """

    width: int
    height: int
    n_channels: int
    orientation: int
    stream: bytearray


def read_jpeg(content):
    """Return the plain JPEG file in these bytes, or None."""
    if not content.startswith(START):
        return None
    frame, about = None, dict[str, bytes]()
    kept = [content[:2]]
    place = 2
    while content[place : place + 1] == b"\xff":
        marker = content[place + 1] if place + 1 < len(content) else 0
        n_bytes = int.from_bytes(content[place + 2 : place + 4], "big")
        end = place + 2 + n_bytes
        if n_bytes < 2 or end > len(content):
            return None
        if marker == _SCAN:
            kept.append(memoryview(content)[place:])
            return None if frame is None else _described(frame, about, kept)
        inside = content[place + 4 : end]
        if marker in _FRAMES:
            if frame is not None or len(inside) < 6:
                return None
            frame = inside
        elif marker in _APPLICATIONS:
            if inside.startswith(_SEVERAL):
                return None
            _note(about, inside, marker)
        elif marker not in _TABLES:
            return None
        if marker not in _APPLICATIONS or marker in _COLOURS:
            kept.append(content[place:end])
        place = end
    return None


def _note(about, inside, marker):
    """Note EXIF and XMP as Pillow does."""
    if marker != 0xE1:
        return
    if inside.startswith(_EXIF):
        about["exif"] = about["exif"] + inside[6:] if "exif" in about else inside
    elif inside.startswith(_XMP):
        about["xmp"] = inside.split(b"\0", 1)[1]


def _described(frame, about, kept):
    bits, n_channels = frame[0], frame[5]
    height, width = (int.from_bytes(frame[i : i + 2], "big") for i in (1, 3))
    if bits != 8 or n_channels not in (1, 3) or not width * height:
        return None
    try:
        orientation = _orientation(about)
    except Exception:  # broken data may raise any error
        return None
    return JPEG(width, height, n_channels, orientation, bytearray().join(kept))


def _orientation(about):
    """Return what Pillow reads of EXIF and XMP."""
    if not about:
        return 1
    image = Image.new("1", (1, 1))
    image.info.update(about)
    return image.getexif().get(ExifTags.Base.Orientation, 1)
