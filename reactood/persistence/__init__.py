"""Keep fitted detectors in files that hold arrays and text, and run no code.

A file is a safetensors file: `save` writes the parameters and what was learned as JSON
and tensors, and `load` checks everything that it reads.
"""

from reactood.persistence._file import ReactoodFileError, read_metadata
from reactood.persistence._save_load import load, save

__all__ = ["ReactoodFileError", "load", "read_metadata", "save"]
