"""The file: a safetensors file with JSON and a checksum in its metadata."""

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from reactood._utils._new_file import write_whole
from reactood.persistence._metadata import (
    FORMAT,
    VERSION,
    ReactoodFileError,
    checked_metadata,
    shown,
)


def write_file(path, content, tensors):
    """Write a file as a whole: until the end, an older file of this name stays."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "content": text,
        "sha256": _checksum(VERSION, text, tensors),
    }
    write_whole(path, save_tensors(tensors, metadata))


def read_file(path):
    """Return content and tensors of a file, with its checksum verified.

    Raises
    ------
    ReactoodFileError
        If it is no such file, is incomplete, changed, or too new.
    """
    data = Path(path).read_bytes()
    metadata, content = checked_metadata(path, data, len(data))
    try:
        tensors = load_tensors(data)
        found = _checksum(VERSION, metadata["content"], tensors)
    except Exception as error:  # the library raises errors of several types
        raise ReactoodFileError(
            f"{shown(path)} is damaged: its tensors cannot be read ({error})."
        ) from error
    if found != metadata["sha256"]:
        raise ReactoodFileError(
            f"{shown(path)} was changed after it was written: its SHA-256 is not that "
            "of its content. Take another copy."
        )
    return content, tensors


def _checksum(version, text, tensors):
    """Return the SHA-256 of everything that a file holds, in hexadecimal digits."""
    digest = hashlib.sha256(f"{FORMAT} {version} {len(text)} {text}".encode())
    for name, tensor in sorted(tensors.items()):
        about = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        digest.update(f"{len(about)} {about}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor):
    """Return the memory of a contiguous tensor on the CPU."""
    if math.prod(tensor.shape) == 0:
        return b""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
