"""List the parts of an object that determine what it does, by its type."""

import copyreg
import functools
import gc
import types
from typing import Any

import torch

from reactood._utils._fingerprint._libraries import (
    library_version,
    module_name,
)


def _lru_cached(function):
    """Return the cached function, after a check that it is ``__wrapped__``."""
    inner = function.__wrapped__
    if not any(inner is held for held in gc.get_referents(function)):
        raise TypeError(f"{function!r} calls another function than its __wrapped__")
    return inner, function.cache_parameters()


PARTS: dict[type, Any] = {
    types.MethodType: lambda thing: (thing.__func__, thing.__self__),
    types.MappingProxyType: dict,
    property: lambda thing: (thing.fget, thing.fset, thing.fdel),
    functools.cached_property: lambda thing: (thing.func, thing.attrname),
    functools._lru_cache_wrapper: _lru_cached,
    functools.partial: lambda p: (p.func, p.args, p.keywords, vars(p)),
    classmethod: lambda thing: thing.__func__,
    staticmethod: lambda thing: thing.__func__,
    torch.Generator: lambda thing: (str(thing.device), thing.get_state()),
}


def pickled_parts(thing):
    """Return the parts of an object that a pickle would hold."""
    reduce = copyreg.dispatch_table.get(type(thing))
    try:
        return thing.__reduce_ex__(4) if reduce is None else reduce(thing)
    except Exception as error:  # the object's own method may raise any exception
        raise TypeError(
            f"a {type(thing).__name__} has no identity ({error})"
        ) from error


def contents(thing):
    """Return the content of a plain type's subclass, without its own methods."""
    for base in type(thing).__mro__[1:]:
        if base in (int, float, complex, str, bytes):
            return base.__repr__(thing)
        if base in (tuple, list):
            return list(base.__iter__(thing))
        if base is dict:
            return list(dict.items(thing))
    return None


def reduced_state(state):
    """Return an object's state, with None for an empty dict, which means the same."""
    if isinstance(state, types.GeneratorType):
        return list(state)
    return None if type(state) is dict and not state else state


def memory_order(contiguous, strides):
    """Return the strides if values are not contiguous in memory, else None."""
    return None if contiguous else tuple(strides)


def name_of(thing):
    qualname = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
    module = module_name(thing)
    version = library_version(module)
    return type(thing).__name__, module, str(qualname), version


def are_hooks(name, value):
    """Return whether an attribute of a module is one of torch's dicts of hooks."""
    table = name.startswith("_") and "hooks" in name and isinstance(value, dict)
    return table and all(type(key) is int for key in value)


def is_special(name):
    return name.startswith("__") and name.endswith("__")
