"""Issue warnings that show the line of the user's code."""

import sys
import warnings

# Packages whose code may be between the user's line and the one that warns.
_BETWEEN = {"reactood", "sklearn", "joblib", "torch", "contextlib", "functools"}


def warn(message, category=UserWarning):
    """Issue a warning that shows the nearest line of the user's own code.

    A fixed ``stacklevel`` would often be wrong: `transform` may be called by the user,
    by a pipeline, or through scikit-learn's wrapper for `set_output`.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_between(frame):
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__", "<unknown>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_between(frame):
    """Return whether a frame belongs to this package or to a library that calls it."""
    name = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in _BETWEEN
