"""What a file says of the detector in it, as text."""

import json

import numpy as np
import torchvision

from reactood._utils._response import percentile_of
from reactood._utils._version import __version__
from reactood.export._recipe import recipe_of

OUTPUTS = {
    "logits": "of unclipped features; the largest is the predicted class",
    "score": "the higher, the more in-distribution",
    "is_id": "whether score >= threshold: true for in-distribution",
    "p_value": "share of in-distribution inputs that score no higher, in (0, 1]",
}


def describe(parts, recipe):
    """Return a dict of text about a detector: numbers and lists are JSON.

    It holds no repr of an object of the user, which could name files of a machine.
    """
    detector = parts.detector
    score = detector._scorer(None).score_function
    name = score if isinstance(score, str) else getattr(score, "__name__", "")
    outputs = [key for key in OUTPUTS if key != "p_value" or parts.conformal]
    about = {
        "reactood_version": __version__,
        "percentile": percentile_of(detector),
        "lower_percentile": detector.lower_percentile,
        "per_unit": bool(np.ndim(detector.activation_threshold_)),
        "rectifiers": [type(rule).__name__ for rule in parts.rules],
        "score_function": name or type(score).__name__,
        "temperature": detector.temperature,
        "threshold": parts.offset,
        "classes": np.asarray(detector.classes_).tolist(),
        "outputs": {key: OUTPUTS[key] for key in outputs},
        "preprocessing": _preprocessing(parts, recipe),
    }
    if not np.ndim(detector.activation_threshold_):
        clip = float(detector.activation_threshold_)
        about["activation_threshold"] = clip if np.isfinite(clip) else None
    if parts.conformal is not None:
        about["alpha"] = parts.conformal.alpha
    names = _class_names(parts)
    if names is not None:
        about["class_names"] = names
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in about.items()
    }


def _preprocessing(parts, recipe):
    if parts.extractor is None:
        return {"input": "float32 features (n, n_features)"}
    if recipe is not None:
        return {
            "input": "uint8 pixels (n, height, width, channels)",
            "in_graph": True,
            "steps": recipe.as_dict(),
        }
    about = {
        "input": "float32 prepared images, (n, channels, height, width) of pictures",
        "in_graph": False,
    }
    try:
        return about | {"steps": recipe_of(parts.extractor).as_dict()}
    except ValueError:  # not known
        return about


def _class_names(parts):
    """Return the names of the classes of torchvision's weights; None if unknown."""
    recipe = None if parts.extractor is None else parts.extractor._frozen.recipe
    if recipe is None or recipe[0].startswith("timm/") or recipe[1] is None:
        return None
    weights = recipe[1]
    if isinstance(weights, str):
        weights = torchvision.models.get_model_weights(recipe[0])[weights]
    names = weights.meta.get("categories")
    same = names is not None and len(names) == len(parts.detector.classes_)
    return list(names) if same else None
