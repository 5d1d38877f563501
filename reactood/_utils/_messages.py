"""Parts of error messages: similar names, lists of names, kinds of values."""

import difflib
from collections.abc import Mapping

import torch


def kind_of(value):
    """Describe a value that a module returned."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {listed(map(str, value))}"
    return f"a {type(value).__name__}"


def did_you_mean(name, known):
    folded = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(name.lower(), list(folded), n=3)
    close = [folded[match] for match in matches]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def listed(names, most=12):
    names = [name for name in names if name]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
