"""Import modules as the code of a function does."""

import importlib
import importlib.machinery
import importlib.util
import sys

from reactood._utils._fingerprint._libraries import library_version


def absolute_name(level, name, names):
    """Return the absolute name of a module that is imported by a relative name."""
    package = names.get("__package__") or names.get("__name__", "").rpartition(".")[0]
    return importlib.util.resolve_name("." * level + name, package)


def import_for(name, parts):
    """Return the modules that an import returns; None for one that does not exist."""
    if library_version(name) is not None and name not in sys.modules:
        return []  # of a known version, so that the name identifies it
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
    except Exception as error:  # the module's code may raise any exception
        raise TypeError(f"the module {name} cannot be imported ({error!r})") from error
