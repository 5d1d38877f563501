"""From images to decisions in one scikit-learn pipeline."""

import difflib

from sklearn.pipeline import Pipeline
from torch import nn

from reactood._backbones import ModelHead, find_head
from reactood.detector import ReActDetector
from reactood.extractor import TorchFeatureExtractor

__all__ = ["make_react_pipeline"]


def make_react_pipeline(model, *, weights="DEFAULT", memory=None, **parameters):
    """Build a pipeline from images to decisions, features and head from one model.

    Parameters
    ----------
    model : str, callable or torch.nn.Module
        The classifier, as in :class:`~reactood.TorchFeatureExtractor`.

    weights : str, torchvision weights or None, default="DEFAULT"
        Pretrained weights of a model given by name.

    memory : str or joblib.Memory, default=None
        Where :class:`~sklearn.pipeline.Pipeline` keeps the fitted extractor and the
        features that it was fitted on. Of use with names and arrays or paths only.

    **parameters
        Parameters of either step by name. Of the extractor: `layer`, `preprocess`,
        `batch_size`, `device`, `precision`, `engine`, `num_workers`, `cache`,
        `on_error`, `verbose`. Of the detector:
        `percentile`, `threshold`, `lower_percentile`, `per_unit`, `score_function`,
        `temperature`, `contamination`, `head`. `batch_size` and `device` by themselves
        mean the extractor's; `detector__batch_size` and `detector__device` mean the
        detector's.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
        With the steps `"extractor"` and `"detector"`. `head=` replaces the model's own
        head, and is needed where `layer=` is given.

    Raises
    ------
    TypeError
        If a parameter belongs to neither step.
    ValueError
        If the model is a module without a linear head, or if `layer` comes without
        `head`.

    See Also
    --------
    ReActDetector : The second step; features in, decisions out.
    TorchFeatureExtractor : The first step; images in, features out.

    Notes
    -----
    The head is taken from `model` once, here or when the pipeline is fitted. To try
    another model or other weights, make another pipeline; setting the extractor's
    `model` or `weights` would leave the head of the first one in place.

    A function is called twice in a `fit`, for the features and for the head; if the
    second network has another head, `fit` raises an error.

    `memory` sees paths, not what the files hold: clear it when they change.

    A Pipeline has no `predict_class`; the classifier's own decision is
    `pipeline[-1].predict_class(pipeline[:-1].transform(images))`.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier, percentile=90)
    >>> labels = detector.fit(digits.X_train).predict(digits.X_test)
    >>> bool((labels == 1).mean() > 0.8)
    True
    """
    extractor = TorchFeatureExtractor(model, weights=weights)
    detector = ReActDetector()
    for name, value in parameters.items():
        step, name = _step_of(name, extractor, detector)
        step.set_params(**{name: value})
    if "head" not in parameters and "detector__head" not in parameters:
        if extractor.layer is not None:
            raise ValueError(
                f"layer={extractor.layer!r} makes features that the model's own head "
                "does not take; pass head=, from these features to logits."
            )
        detector.set_params(head=_head_of(extractor.model, extractor.weights))
    return Pipeline([("extractor", extractor), ("detector", detector)], memory=memory)


def _step_of(name, extractor, detector):
    """Return the step that a parameter belongs to, and its name there."""
    steps = {"extractor": extractor, "detector": detector}
    prefix, _, bare = name.partition("__")
    if bare and prefix in steps and bare in steps[prefix].get_params(deep=False):
        return steps[prefix], bare
    for step in steps.values():
        if name in step.get_params(deep=False):
            return step, name
    known = [k for step in steps.values() for k in step.get_params(deep=False)]
    close = difflib.get_close_matches(name, known)
    raise TypeError(
        f"{name!r} is a parameter of neither TorchFeatureExtractor nor ReActDetector"
        + (f"; did you mean {' or '.join(map(repr, close))}?" if close else ".")
    )


def _head_of(model, weights):
    """Return the model's head in a form that is cheap to clone."""
    if isinstance(model, nn.Module):
        return model.get_submodule(find_head(model))
    # Built in `fit`, like the model itself: a pipeline of names stays a recipe.
    return ModelHead(model, weights)
