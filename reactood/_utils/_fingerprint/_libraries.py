"""Decide which code belongs to Python or to a library with a version.

A name is no proof: `functools.wraps` copies names, and a script may have the name of a
module of Python.  So a thing belongs to a library if it is found there, or if its code
was read from one of the library's files.
"""

import functools
import importlib.util
import os
import sys
import sysconfig
import types
from typing import Any

_LIBRARIES = {"torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "PIL"}
_LIBRARIES |= {"reactood", "transformers", "huggingface_hub"}
_STDLIB = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_SITE = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))


def module_name(thing):
    """Return the name of the module that a thing claims to come from."""
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    name = getattr(thing, "__module__", None)
    # In child processes, the main script has the name __mp_main__.
    return {None: "builtins", "__mp_main__": "__main__"}.get(name, name)


def library_version(name):
    """Return the version of the library of a module, or None if it is not known."""
    top = str(name).partition(".")[0]
    if top in _LIBRARIES:
        module: Any = sys.modules.get(top)
        known = hasattr(module, "__path__") and hasattr(module, "__version__")
        return str(module.__version__) if known else None
    if top not in sys.stdlib_module_names or top == "__main__":
        return None
    # A script of the user may have the name of a module that is not imported.
    file = _file(top)
    if file is None or (file.startswith(_STDLIB) and not file.startswith(_SITE)):
        return "{}.{}".format(*sys.version_info)
    return None


def is_of_library(thing):
    """Return whether a module, a class or an object belongs to a library."""
    name = module_name(thing)
    if library_version(name) is None:
        return False
    if isinstance(thing, types.ModuleType):
        return sys.modules.get(name) is thing
    return find(name, _qualname(thing)) is thing


def is_library_code(function):
    """Return whether a function's code is in a file of a library."""
    name = function.__globals__.get("__name__")
    home = sys.modules.get(name)
    if library_version(name) is None or home is None:
        return False
    if vars(home) is not function.__globals__:
        return False
    top = name.partition(".")[0]
    file = function.__code__.co_filename
    if top in _LIBRARIES:
        return file.startswith(_folders(top))
    return file.startswith("<frozen ") or (
        file.startswith(_STDLIB) and not file.startswith(_SITE)
    )


def find(module, qualname):
    """Return the object that a module has under a dotted name, or None."""
    found = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _qualname(thing):
    return str(getattr(thing, "__qualname__", getattr(thing, "__name__", "")))


@functools.cache
def _folders(top):
    return tuple(os.path.join(folder, "") for folder in sys.modules[top].__path__)


def _file(top):
    """Return the file of a module, imported or not; None if it has no file."""
    if top in sys.modules:
        return getattr(sys.modules[top], "__file__", None)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None and spec.has_location else None
