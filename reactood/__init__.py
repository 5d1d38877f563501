"""Out-of-distribution detection with ReAct, as scikit-learn estimators."""

# The names below are imported when they are first used (PEP 562): torch takes seconds
# to import, and `reactood --help` and `import reactood` do not need it.
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from reactood._utils._version import __version__ as __version__

if _TYPE_CHECKING:  # for type checkers and editors, which do not run the code below
    from reactood.detector import ReActDetector
    from reactood.extractor import TorchFeatureExtractor
    from reactood.model_selection import ReActDetectorCV
    from reactood.pipeline import make_react_pipeline

__all__ = [
    "ReActDetector",
    "ReActDetectorCV",
    "TorchFeatureExtractor",
    "make_react_pipeline",
]

_HOMES = {
    "ReActDetector": "reactood.detector",
    "ReActDetectorCV": "reactood.model_selection",
    "TorchFeatureExtractor": "reactood.extractor",
    "make_react_pipeline": "reactood.pipeline",
}
_MODULES = {
    "baselines",
    "cache",
    "conformal",
    "datasets",
    "detector",
    "distributed",
    "export",
    "extractor",
    "inspection",
    "metrics",
    "model_selection",
    "monitoring",
    "persistence",
    "pipeline",
    "rectifiers",
    "scores",
    "theory",
}


def __getattr__(name):
    """Import a public name or module at its first use."""
    if name in _HOMES:
        value = getattr(_import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = _import_module(f"reactood.{name}")
    else:
        raise AttributeError(f"module 'reactood' has no attribute {name!r}")
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__():
    """Return all public names, those that are not imported yet among them."""
    return sorted(globals().keys() | _HOMES.keys() | _MODULES)
