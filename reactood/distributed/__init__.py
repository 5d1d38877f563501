"""Scores and fits of datasets on a cluster, by Ray Data; needs `reactood[ray]`."""

from importlib import import_module as _import_module

__all__ = ["fit", "score"]

_HOMES = {"fit": "_fit", "score": "_score"}


def __getattr__(name):
    """Import `fit` and `score` at their first use: this module needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"reactood.distributed.{_HOMES[name]}"), name)


def __dir__():
    """Return all public names."""
    return sorted(globals().keys() | set(__all__))
