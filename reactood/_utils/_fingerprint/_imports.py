"""Import modules as the code of a function does."""

import importlib
import importlib.machinery
import importlib.util
import sys

from reactood._utils._fingerprint._libraries import library_version


def absolute_name(level, name, names):
    """Return the whole name of a module that is imported below a package."""
    package = names.get("__package__") or names.get("__name__", "").rpartition(".")[0]
    return importlib.util.resolve_name("." * level + name, package)


def import_for(name, parts):
    """Return what a function's import gives it; None for what is not there."""
    if library_version(name) is not None and name not in sys.modules:
        return []  # Python's own: its name says all
    top = name.partition(".")[0]
    module = _import(name)
    for part in parts:  # from package import module
        if hasattr(module, "__path__") and not hasattr(module, part):
            _import(f"{name}.{part}")
    return [module] if top == name else [_import(top), module]


def _import(name):
    """Import a module as the function would; None if that fails."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
    except Exception as error:  # whatever a module does when it is read
        raise TypeError(f"the module {name} cannot be imported ({error!r})") from error
