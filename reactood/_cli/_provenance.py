"""Where a detector comes from and what it has learned, as labels and texts."""

import copy
import datetime
import os
import platform
import shlex
from importlib.metadata import version
from inspect import isfunction

import numpy as np

from reactood._cli._inputs import counted
from reactood._scoring._base import BaseReActDetector
from reactood._utils._response import percentile_of, score_and_threshold
from reactood._utils._version import __version__

MOST_SHOWN = 300  # characters of a parameter
VERSIONS = "reactood", "torch", "torchvision", "scikit-learn", "numpy", "python"


def provenance(path, scorer, arguments):
    """Return what there is to say of a detector and of this run, as a dict of texts."""
    from reactood.persistence import read_metadata

    metadata = read_metadata(path)
    made = metadata["provenance"]
    extractor, detector = scorer.extractor, scorer.classifier
    found = {
        "file": os.fspath(path),
        "name": made.get("name"),
        "SHA-256": metadata["sha256"],
        "saved": made.get("created"),
        "saved with": _versions(made),
        "fitted to": _images(made.get("n_samples")),
        "network": _network(extractor),
        "preprocessing": _preprocessing(extractor.preprocess),
        "features": str(extractor.n_features_out_),
        "detector": _parameters(detector),
        **_learned(detector),
        "calibration": _calibration(scorer.detector),
        "threshold of the score": _threshold(scorer),
        "run with": _versions(_here()),
        "run on": datetime.datetime.now(datetime.timezone.utc).isoformat(
            sep=" ", timespec="seconds"
        ),
        "command": shlex.join(["reactood", *map(str, arguments)]),
    }
    return {
        label: _short(text) for label, text in found.items() if text not in (None, "")
    }


def _images(n):
    return None if n is None else counted(n)


def _network(extractor):
    if isinstance(extractor.model, str):
        return f"{extractor.model}, weights {extractor.weights}"
    return f"{_called(extractor.model)} (your own)"


def _preprocessing(preprocess):
    if preprocess is None:
        return "pixels are scaled to [0, 1]"
    if isinstance(preprocess, str):
        return "the transform of the weights"
    return _called(preprocess) if isfunction(preprocess) else repr(preprocess)


def _called(thing):
    """Return the name of a function or class, or of the class of an object."""
    return getattr(thing, "__qualname__", type(thing).__name__)


def _parameters(detector):
    """Return a detector with the parameters that are not the defaults, but the head."""
    shown = copy.copy(detector)
    if "head" in shown.get_params(deep=False):
        shown.set_params(head=None)
    return repr(shown)


def _learned(detector):
    if not isinstance(detector, BaseReActDetector):
        return {}
    percentile = percentile_of(detector)
    by_hand = getattr(detector, "threshold", None) is not None
    return {
        "score": str(detector.score_function),
        "percentile": f"{percentile:g} %" if percentile is not None else None,
        "clip": bounds_of(detector) + (", given by hand" if by_hand else ""),
        "share of activations clipped in fitting": f"{detector.clipped_share_:.2%}",
        "classes": str(len(detector.classes_)),
    }


def bounds_of(detector):
    """Return a clip in words."""
    sides = []
    for bound, name in (
        (detector.lower_activation_threshold_, "from below at "),
        (detector.activation_threshold_, "at "),
    ):
        finite = np.asarray(bound)[np.isfinite(bound)]
        if not finite.size:
            continue
        value = f"{finite.min():.4g}"
        if np.ndim(bound):
            value += f" to {finite.max():.4g}, one for each unit"
        sides.append(name + value)
    return " and ".join(reversed(sides)) or "none"


def _calibration(detector):
    if not hasattr(detector, "calibration_scores_"):
        return None
    n = len(detector.calibration_scores_)
    return f"conformal, alpha {detector.alpha:g}, {_images(n)}"


def _threshold(scorer):
    threshold = score_and_threshold(scorer.detector)[1]
    return None if threshold is None else f"{threshold:.6g}"


def _here():
    found = {name: version(name) for name in VERSIONS[1:-1]}
    return {"reactood": __version__, **found, "python": platform.python_version()}


def _versions(known):
    return ", ".join(f"{name} {known[name]}" for name in VERSIONS if name in known)


def _short(text):
    text = " ".join(str(text).split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ..."
