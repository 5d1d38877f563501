"""make_react_pipeline: from images to decisions in one scikit-learn Pipeline."""

import os
from collections.abc import Iterator

import numpy as np
from PIL import Image
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from torch import nn
from torch.utils.data import DataLoader, Dataset

from reactood._networks._head import ModelHead, find_head
from reactood._utils._display import Shown
from reactood._utils._messages import did_you_mean
from reactood._utils._response import parts_of
from reactood._utils._sklearn import _wrap_data_with_container
from reactood.detector import ReActDetector
from reactood.extractor._extractor import TorchFeatureExtractor

__all__ = ["ReActPipeline", "make_react_pipeline"]


def _classifies(pipeline):
    """Return whether the last step knows the classifier's own decision."""
    return hasattr(pipeline.steps[-1][1], "predict_class")


def _streams(pipeline):
    """Return whether the steps can learn from batches."""
    first, last = pipeline.steps[0][1], pipeline.steps[-1][1]
    return isinstance(first, TorchFeatureExtractor) and isinstance(last, ReActDetector)


def _is_of_batches(X):
    """Return whether X gives batches of images, and is not itself a set of images."""
    if isinstance(X, Iterator):
        return True
    if isinstance(X, DataLoader | Dataset | str | os.PathLike) or hasattr(X, "shape"):
        return False
    if isinstance(X, list | tuple):
        return len(X) > 0 and _is_batch(X[0])
    return hasattr(X, "__iter__") and not hasattr(X, "__len__")


def _is_batch(images):
    """Return whether this holds several images, and is not one."""
    if isinstance(images, list | tuple) and images:
        first = images[0]
        if isinstance(first, str | os.PathLike | Image.Image):
            return True
        if hasattr(first, "ndim"):
            return first.ndim >= 3
    return np.ndim(images) == 4


def _without_labels(batch):
    """Return the images of a batch, which may be a pair of images and labels."""
    if isinstance(batch, list | tuple) and batch and getattr(batch[0], "ndim", 0) == 4:
        return batch[0]
    return batch


def _detects(pipeline):
    return hasattr(pipeline.steps[-1][1], "detect")


class ReActPipeline(Shown, Pipeline):
    """A :class:`~sklearn.pipeline.Pipeline` from images to decisions.

    :func:`~reactood.make_react_pipeline` makes it. It does what any Pipeline does, and
    returns the classifier's own decision too. Shown in a notebook, it tells what its
    detector has learned.

    Parameters
    ----------
    steps : list of (str, estimator)
        The steps by name, the last one a detector.

    transform_input : list of str, default=None
        As in :class:`~sklearn.pipeline.Pipeline`.

    memory : str or joblib.Memory, default=None
        As in :class:`~sklearn.pipeline.Pipeline`.

    verbose : bool, default=False
        Whether to print how long each step takes to be fitted.

    See Also
    --------
    reactood.make_react_pipeline : Makes one of a classifier.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> digits = load_digits_ood()
    >>> pipeline = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> bool((pipeline.predict_class(digits.X_test) == digits.y_test).mean() > 0.9)
    True
    """

    @available_if(_classifies)
    def predict_class(self, X):
        """Return the classifier's own decision, from unclipped features.

        Parameters
        ----------
        X : images
            Whatever the first step takes. They pass through the network once.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            As `predict_class` of the detector.
        """
        steps, detector = parts_of(self)
        return detector.predict_class(X if steps is None else steps.transform(X))

    @available_if(_streams)
    def fit_stream(self, X, *, exact=False):
        """Fit to images that are never all in memory, and neither are their features.

        The extractor is proved on the first images, and the detector learns from each
        batch as it comes: see :meth:`reactood.ReActDetector.partial_fit` for what it
        keeps and how exact it is.

        Parameters
        ----------
        X : images or iterable of images
            A DataLoader, a folder or whatever else the extractor takes; or an iterable
            of batches, each of which the extractor takes, such as a generator of
            arrays of shape (n, height, width, 3), or of lists of paths. A batch may
            also be a pair of such an array and labels, which are ignored.

        exact : bool, default=False
            Whether to go through all images a second time for a clip that equals
            `numpy.percentile` of all features; not for what can be read only once.

        Returns
        -------
        self : ReActPipeline
            The fitted pipeline.

        Raises
        ------
        TypeError
            If a step between extractor and detector would have to be fitted to all
            features first, or if `exact` needs a second pass and there is none.
        ValueError
            As the extractor's and the detector's `fit`.

        Examples
        --------
        >>> from reactood import make_react_pipeline
        >>> from reactood.datasets import digits_classifier, load_digits_ood
        >>> digits = load_digits_ood()
        >>> pipeline = make_react_pipeline(digits_classifier)
        >>> batches = (digits.X_train[i : i + 100] for i in range(0, 500, 100))
        >>> pipeline.fit_stream(batches)["detector"].n_samples_seen_
        500
        """
        (_, extractor), *between, (_, detector) = self.steps
        between = [(name, step) for name, step in between if step != "passthrough"]
        for name, step in between:
            if not isinstance(step, FrozenEstimator):
                raise TypeError(
                    f"Step {name!r} would have to be fitted to all features before the "
                    "detector sees any. Fit it first and pass it as "
                    "FrozenEstimator(step), or leave it out."
                )
        if exact and isinstance(X, Iterator):
            raise TypeError(
                f"exact=True goes through the images twice, and a {type(X).__name__} "
                "can be read only once; pass a DataLoader, a folder or a list."
            )
        fitted = False

        def one_pass(receive):
            nonlocal fitted

            def learn(rows, features):
                # As `fit` would see them, after `set_output` with names.
                features = _wrap_data_with_container(
                    "transform", features, None, extractor
                )
                for _, step in between:
                    features = step.transform(features)
                receive(features)

            for images in X if _is_of_batches(X) else [X]:
                method = extractor.transform if fitted else extractor.fit_transform
                method(_without_labels(images), out=learn)
                fitted = True

        detector._fit_passes(one_pass, exact=exact)
        return self

    @available_if(_detects)
    def detect(self, X):
        """Return scores, decisions and classes; images pass through the network once.

        Parameters
        ----------
        X : images
            Whatever the first step takes.

        Returns
        -------
        detection : Detection
            A named tuple of `scores`, `labels` and `classes`, arrays of shape
            (n_samples,), as `score_samples`, `predict` and `predict_class` return them.
            An image that cannot be read, with `on_error="nan"`, has the score NaN and
            the label -1; its class means nothing.
        """
        steps, detector = parts_of(self)
        return detector.detect(X if steps is None else steps.transform(X))

    def set_params(self, **params):
        """Set parameters of the pipeline or, as `step__parameter`, of its steps.

        Parameters
        ----------
        **params : dict
            Such as `detector__percentile=80`.

        Returns
        -------
        self : ReActPipeline
            The pipeline.

        Raises
        ------
        ValueError
            If there is no such parameter; for one of a step, it says how to set it.
        """
        known = self.get_params(deep=True)
        for name in params:
            places = [f"{step}__{name}" for step, _ in self.steps]
            places = [place for place in places if place in known]
            if name not in known and places:
                raise ValueError(
                    f"{name!r} is no parameter of the pipeline, but of a step; "
                    f"expected {' or '.join(places)}."
                )
        return super().set_params(**params)

    def _detector(self):
        return self.steps[-1][1]


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
        `batch_size`, `device`, `precision`, `engine`, `decoder`, `num_workers`,
        `cache`, `on_error`, `verbose`. Of the detector:
        `percentile`, `threshold`, `lower_percentile`, `per_unit`, `score_function`,
        `temperature`, `contamination`, `head`, `on_nan`, `check_score`, `sample_size`.
        `batch_size` and `device` by themselves mean the extractor's;
        `detector__batch_size` and `detector__device` mean the detector's.
        `on_error="nan"`, for images that cannot be read, brings `on_nan="reject"`,
        unless that is given.

    Returns
    -------
    pipeline : ReActPipeline
        A :class:`~sklearn.pipeline.Pipeline` with the steps `"extractor"` and
        `"detector"`, and with `predict_class`. `head=` replaces the model's own
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
    reactood.pipeline.ReActPipeline : What is returned.
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
    given = {name.removeprefix("detector__") for name in parameters}
    if extractor.on_error == "nan" and "on_nan" not in given:
        detector.set_params(on_nan="reject")
    if "head" not in given:
        if extractor.layer is not None:
            raise ValueError(
                f"layer={extractor.layer!r} makes features that the model's own head "
                "does not take; pass head=, from these features to logits."
            )
        detector.set_params(head=_head_of(extractor.model, extractor.weights))
    return ReActPipeline(
        [("extractor", extractor), ("detector", detector)], memory=memory
    )


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
    raise TypeError(
        f"{name!r} is a parameter of neither TorchFeatureExtractor nor ReActDetector"
        f"{did_you_mean(name, known) or '.'}"
    )


def _head_of(model, weights):
    """Return the model's head in a form that is cheap to clone."""
    if isinstance(model, nn.Module):
        return model.get_submodule(find_head(model))
    # Built in `fit`, like the model itself: a pipeline of names stays a recipe.
    return ModelHead(model, weights)
