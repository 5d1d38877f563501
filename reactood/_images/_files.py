"""Find, open and decode image files and encoded images, or say why not.

Only decoders of Pillow that do the work themselves are let near a file, only regular
files are opened, and no more pixels are decoded than `PIL.Image.MAX_IMAGE_PIXELS` says.
"""

import io
import os
import re
import stat
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from reactood._utils._pillow import decoding_lock, load

# Decoders that start Ghostscript, know only the size, or open any format inside.
NOT_DECODED = frozenset({"EPS", "MPEG", "IPTC"})
USUAL = "JPEG", "PNG"
NEVER_ALONE = {"MPO": "JPEG"}  # formats that the decoder of another format opens
MOST_SHOWN = 200  # characters of a value in a message
MOST_BYTES_OF_PATH = 4096
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHERE_EXIF_IS = "exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def formats():
    """Return the names of the formats that are read, as `PIL.Image.open` takes them.

    All that Pillow, or a plugin that the user has imported, decodes itself: no stubs,
    which know the format and leave the decoding to others, and no external programs.
    In the order in which they are tried: the usual ones first, last those that cannot
    tell their own files by how they start.
    """
    Image.init()
    names = (
        name
        for name in Image.ID
        if name not in NOT_DECODED and not _is_stub(Image.OPEN[name][0])
    )
    return sorted(
        names, key=lambda name: (Image.OPEN[name][1] is None, name not in USUAL)
    )


def suffixes():
    """Return the lower-case suffixes of files in these formats."""
    known = set(formats())
    return {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if NEVER_ALONE.get(name, name) in known
    }


def _is_stub(factory):
    return isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)


UNREADABLE = "cannot be read as an image"


class Refused(ValueError):
    """An image is not read; the text is the reason, and what to do about it."""


# --- one image ------------------------------------------------------------------------


def is_path(item):
    """Return whether an item is the path of a file; bytes may be a path or an image."""
    if isinstance(item, bytes):  # an encoded image has these bytes near its start
        text = b"\0" not in item and b"\n" not in item
        return text and 0 < len(item) <= MOST_BYTES_OF_PATH
    return isinstance(item, str | os.PathLike)


def is_encoded(item):
    """Return whether an item is the content of an image file."""
    kinds = bytes | bytearray | memoryview | io.BytesIO
    return isinstance(item, kinds) and not is_path(item)


def content_of(item):
    """Return the bytes of an encoded image."""
    return item.getvalue() if isinstance(item, io.BytesIO) else bytes(item)


def decode(item):
    """Return the image in a file, or in encoded bytes, fully loaded and upright.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the image cannot be read, with the reason and what to do about it.
    """
    if is_path(item):
        return _opened(item, _status(item).st_size, short(os.fspath(item)))
    content = content_of(item)
    name = f"The image with the content {short(content)}"
    return _opened(io.BytesIO(content), len(content), name)


def loaded(image):
    """Return a PIL image of the user's, fully loaded and upright.

    It may have been opened and not read yet; several may read from one file, and one
    may be there several times: they are decoded one after the other.
    """
    name = getattr(image, "filename", "") or f"The {type(image).__name__}"
    try:
        with decoding_lock:
            if _is_closed(image):
                raise Refused(
                    "its file was closed before its pixels were read. Call "
                    "image.load() before, or give the path."
                )
            load(image)
            return upright(image)
    except Exception as error:  # decoders raise errors of any type
        raise ValueError(_unreadable(short(name), error)) from error


def _is_closed(image):
    if not getattr(image, "tile", None):  # nothing is left to read
        return False
    return image.fp is None or getattr(image.fp, "closed", False)


def upright(image):
    """Return a loaded image turned as its EXIF orientation says, or the image itself.

    As viewers do. An orientation that cannot be read is none.
    """
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # broken data may raise any error
        turn = None
    if turn is None:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the other tags cannot be written
        turned = image.transpose(turn)
        for key in _WHERE_EXIF_IS:  # otherwise the image would be turned twice
            turned.info.pop(key, None)
        return turned


def check_pixels(width, height, what="it has"):
    """Raise ValueError where an image has more pixels than Pillow is told to allow."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise Refused(_too_many(f"{width} x {height} = {width * height}", what))


def _too_many(n_pixels, what="it has"):
    return (
        f"{what} {n_pixels} pixels, more than the limit of {Image.MAX_IMAGE_PIXELS}, "
        "which keeps small files from filling the memory. If you trust the image, "
        "raise PIL.Image.MAX_IMAGE_PIXELS (None: no limit)."
    )


def _status(path):
    """Return the status of a regular file: to open a pipe would wait for ever."""
    name = short(os.fspath(path))
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(missing(path)) from error
    except ValueError as error:
        raise ValueError(f"{name} is not the path of a file ({error}).") from error
    except OSError as error:
        raise ValueError(_unreadable(name, error)) from error
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(
            f"{name} is a folder; expected an image file. Give the folder alone, or "
            "the files in it: reactood.datasets.list_images(folder)."
        )
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise ValueError(f"{name} is {kind}; expected a regular file.")
    return status


def _opened(source, n_bytes, name):
    try:
        if not n_bytes:
            raise Refused("it is empty (0 bytes). Remove or replace it.")
        with Image.open(source, formats=formats()) as image:
            check_pixels(*image.size)
            load(image)
            return upright(image)
    except Exception as error:  # decoders raise errors of any type
        raise ValueError(_unreadable(name, error)) from error


def _unreadable(name, error):
    return f"{name} {UNREADABLE}: {_reason(error)}"


def is_of_file(error):
    """Return whether an error is about one file, and not about what is done to all."""
    return isinstance(error, FileNotFoundError) or UNREADABLE in str(error)


def _reason(error):
    """Return why an image cannot be read, and what to do about it."""
    if isinstance(error, Refused):
        return str(error)
    note = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        n_pixels = re.search(r"\d+", note)
        return _too_many(n_pixels[0] if n_pixels else "many")
    if isinstance(error, UnidentifiedImageError):
        return (
            "it is no image, damaged at its start, or of a format that is not decoded "
            "here. Remove it, or convert it to PNG or JPEG."
        )
    if isinstance(error, PermissionError):
        return f"there is no permission to read it ({error.strerror}). Allow it."
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels. Make it smaller."
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"the operating system refuses it ({error.strerror}), whatever it holds. "
            "Look at the disk, and at the limits of this process."
        )
    if "not available" in note:
        return f"this build of Pillow lacks its decoder ({note}). Install one with it."
    return f"it is damaged or cut short ({short(note)}). Remove or replace it."


# --- folders and messages -------------------------------------------------------------


def list_folder(folder):
    """Return the image files below a folder, sorted by path."""
    known = suffixes()
    files = [path for path in _walk(Path(folder)) if path.suffix.lower() in known]
    if not files:
        raise ValueError(
            f"The folder {short(os.fspath(folder))} holds no image files (looked for "
            ".jpg, .png and the like, in all folders below it too; names that start "
            "with a dot are left out)."
        )
    return sorted(files)


def _walk(folder):
    """Yield all that is no folder below a folder; links to folders are followed."""
    todo: list[tuple[Path, frozenset]] = [(folder, frozenset())]
    while todo:
        folder, above = todo.pop()
        real = os.path.realpath(folder)
        if real in above:
            continue  # a link to a parent folder: no endless loop
        try:
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
            for entry in shown:
                if _is_folder(entry):
                    todo.append((Path(entry.path), above | {real}))
                else:
                    yield Path(entry.path)
        except OSError as error:
            raise type(error)(
                f"The folder {short(os.fspath(folder))} cannot be read "
                f"({error.strerror}), so its images would be missing. Allow it, or "
                "give a list of paths."
            ) from error


def _is_folder(entry):
    try:
        return entry.is_dir()
    except PermissionError:
        raise
    except OSError:  # a link that points to itself
        return False


def missing(path):
    """Say that a file does not exist."""
    return (
        f"{short(os.fspath(path))} does not exist (relative paths start at "
        f"{short(str(Path.cwd()))})."
    )


def short(value: Any) -> str:
    """Return a value as it is printed in Python, its middle left out if it is long."""
    half = MOST_SHOWN // 2
    if isinstance(value, str | bytes | bytearray) and len(value) > MOST_SHOWN:
        ends: Any = value
        value = ends[:half] + ends[-half:]  # enough for a message
    text = repr(value)
    if len(text) <= MOST_SHOWN:
        return text
    return f"{text[: half - 2]}...{text[2 - half :]}"
