"""Keep fitted detectors in files that hold arrays and text, and run no code.

A file is a safetensors file: `save` writes the parameters and what was learned as JSON
and tensors, and `load` checks everything that it reads.
"""

from importlib import import_module as _import_module

from reactood.persistence._metadata import ReactoodFileError, read_metadata

__all__ = ["ReactoodFileError", "load", "read_metadata", "save"]


def __getattr__(name):
    """Import `save` and `load` at their first use: metadata need no torch."""
    if name not in ("load", "save"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module("reactood.persistence._save_load"), name)


def __dir__():
    """Return all public names."""
    return sorted(globals().keys() | set(__all__))
