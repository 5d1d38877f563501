"""What a file says of itself, read without torch."""

import json
import os

FORMAT = "reactood"
VERSION = 1
FOREIGN = {  # how files of other kinds begin
    b"\x80": "a pickle, which can run code when it is opened",
    b"PK": "a zip archive, such as torch.save writes",
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF": "an HDF5 file",
}
LENGTH = 8  # bytes that hold the length of the header


class ReactoodFileError(ValueError):
    """A file is no file of this package, is damaged, or is too new."""


def read_metadata(path):
    """Return what a file says of itself, without its arrays.

    Nothing is rebuilt, and the checksum of the arrays is not verified.

    Parameters
    ----------
    path : path-like
        A file that :func:`save` wrote.

    Returns
    -------
    metadata : dict
        With `"estimator"`, a tree of class names, parameters and learned values, where
        arrays stand by their names; `"network"`; `"provenance"`: the name, the date
        and the versions; `"format_version"`; and `"sha256"`, which identifies the file.

    Raises
    ------
    ReactoodFileError
        If it is no such file, is incomplete, or too new.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from reactood import ReActDetector
    >>> from reactood.persistence import read_metadata, save
    >>> X = np.random.default_rng(0).gamma(2.0, size=(99, 4))
    >>> detector = ReActDetector((np.eye(3, 4), np.zeros(3))).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "detector.safetensors")
    ...     save(detector, path)
    ...     read_metadata(path)["provenance"]["n_samples"]
    99
    """
    size = os.stat(path).st_size
    with open(path, "rb") as stream:
        start = stream.read(LENGTH)
        length = int.from_bytes(start, "little")
        header = stream.read(length) if length <= size else b""
        metadata, content = checked_metadata(path, start + header, size)
    return {**content, "format_version": VERSION, "sha256": metadata["sha256"]}


def checked_metadata(path, data, size):
    """Return the metadata and the content that it holds, from the first bytes."""
    name = shown(path)
    if size < LENGTH:
        raise ReactoodFileError(f"{name} is empty or incomplete: it has {size} bytes.")
    kind = next((FOREIGN[key] for key in FOREIGN if data.startswith(key)), None)
    length = int.from_bytes(data[:LENGTH], "little")
    if kind and length > size:
        raise ReactoodFileError(
            f"{name} is {kind}; expected a file that reactood.persistence.save wrote."
        )
    if length > size - LENGTH:
        raise ReactoodFileError(
            f"{name} is incomplete, or no file of reactood: it has {size} bytes, and "
            f"its header alone would have {length}."
        )
    try:
        header = json.loads(data[LENGTH : LENGTH + length])
        metadata = header.pop("__metadata__", {})
        ours = metadata.get("format") == FORMAT
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        expected = LENGTH + length + int(end)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ReactoodFileError(
            f"{name} is damaged, or no file of reactood: its header cannot be read."
        ) from error
    except RecursionError as error:
        raise ReactoodFileError(f"{name} is damaged: its header is nested.") from error
    if not ours:
        raise ReactoodFileError(
            f"{name} is a safetensors file, but not one of reactood; expected a file "
            "that reactood.persistence.save wrote."
        )
    version = metadata.get("format_version", "")
    if not (isinstance(version, str) and version.isdecimal() and len(version) < 9):
        raise ReactoodFileError(f"{name} is damaged: its version is {version!r:.40}.")
    if int(version) > VERSION:
        raise ReactoodFileError(
            f"{name} has version {version} of the format, and this version of reactood "
            f"reads up to {VERSION}. Install a newer one: pip install -U reactood."
        )
    if int(version) < 1:
        raise ReactoodFileError(f"{name} is damaged: its version is {version}.")
    if size != expected:
        what = "incomplete" if size < expected else "damaged"
        raise ReactoodFileError(
            f"{name} is {what}: it has {size} bytes, and its header says {expected}."
        )
    try:
        content = json.loads(metadata["content"], parse_constant=_no_constant)
        if not (isinstance(content, dict) and isinstance(metadata["sha256"], str)):
            raise TypeError(f"content is a {type(content).__name__}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ReactoodFileError(
            f"{name} is damaged: its metadata cannot be read ({error})."
        ) from error
    return metadata, content


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON")


def shown(path):
    """Return a path as errors show it."""
    return repr(os.fspath(path))
