"""Detectors of the command line: fit them to images, take them apart, save, load."""

import os
from pathlib import Path

import numpy as np
from sklearn.base import clone

from reactood._cli import _models as models
from reactood._cli._exit import UNREADABLE
from reactood._cli._options import running, shows_progress
from reactood._cli._unreadable import problems_of, say_problems
from reactood._utils._response import parts_of, unfrozen
from reactood.conformal import ConformalDetector
from reactood.distributed import _row_scorer as row_scorer
from reactood.distributed._row_scorer import reason_of
from reactood.pipeline import make_react_pipeline


def new_pipeline(options):
    """Return an unfitted pipeline with the settings that the options give."""
    model, weights = models.model_of(options)
    return make_react_pipeline(
        model,
        weights=weights,
        preprocess=models.preprocess_of(options),
        percentile=options.percentile,
        score_function=options.score,
        on_error="nan",
        **running(options),
    )


def load_detector(options):
    """Return the estimator in a file, to be run as the options say."""
    from reactood import persistence

    given = {}
    if options.preprocess is not None:
        given["preprocess"] = models.preprocess_of(options)
    try:
        estimator = persistence.load(
            options.detector, model=models.builder_of(options), **given
        )
    except persistence.ReactoodFileError:
        raise
    except ValueError as error:  # what it needs is not given, or the other way round
        option = options.transform_option if "preprocess=" in str(error) else "--model"
        reason, _, _ = str(error).partition(" Pass it: ")
        advice = f" Give {option} FILE.py:FUNCTION or MODULE:FUNCTION." * (
            reason != str(error)
        )
        reason = reason.replace("model=", "--model").replace("preprocess=", option)
        raise ValueError(reason + advice) from error
    _, extractor, pipeline = take_apart(estimator, options.detector)
    extractor.set_params(verbose=False, **running(options))
    _move(parts_of(pipeline)[1], getattr(options, "device", None))
    return estimator


def _move(detector, device):
    """Have a detector that has a device of its own compute on the one given."""
    detector = unfrozen(getattr(detector, "estimator_", detector))
    if device is not None and getattr(detector, "device", None) is not None:
        detector.set_params(device=device)


def take_apart(estimator, name):
    """Return the conformal detector or None, the extractor, and the pipeline.

    Raises
    ------
    ValueError
        If the estimator does not begin with images.
    """
    conformal, extractor, estimator = row_scorer.take_apart(estimator)
    if extractor is None:
        found = estimator[0] if hasattr(estimator, "steps") else estimator
        raise ValueError(
            f"{name!r} holds a {type(found).__name__} without an extractor, which "
            "takes features; expected a pipeline that takes images, as from reactood "
            "fit or make_react_pipeline."
        )
    return conformal, extractor, estimator


class Features:
    """The features of images that could be read, and the errors of the others.

    Parameters
    ----------
    extractor : TorchFeatureExtractor
        Fitted to the images unless it is fitted already.
    paths : list of str
        The images.
    options : argparse.Namespace
        Says whether to show progress.
    """

    def __init__(self, extractor, paths, options):
        self.paths = paths
        if not hasattr(extractor, "n_features_out_"):
            extractor.fit(paths)
        extractor.set_params(verbose=shows_progress(options))
        features, self.errors = extractor.transform_with_errors(paths)
        extractor.set_params(verbose=False)
        readable = np.ones(len(paths), bool)
        readable[list(self.errors)] = False
        if not readable.any():
            self.report()
            raise ValueError("None of the images could be read; the reasons are above.")
        self.values = features[readable] if self.errors else features

    def report(self):
        """Name the images that could not be read; return the exit code."""
        if not self.errors:
            return 0
        reasons = {row: reason_of(error, row) for row, error in self.errors.items()}
        say_problems(problems_of(reasons, self.paths), len(self.paths))
        return UNREADABLE


def calibrated(pipeline, features, *, alpha, seed):
    """Fit a conformal detector around a pipeline whose extractor is fitted.

    It is what `fit` on the images would give, but the features are there already.
    """
    whole = ConformalDetector(clone(pipeline), alpha=alpha, random_state=seed)
    fitted = ConformalDetector(
        pipeline.steps[-1][1], alpha=alpha, random_state=seed
    ).fit(features)
    pipeline.steps[-1] = pipeline.steps[-1][0], fitted.estimator_
    learned = {name: value for name, value in vars(fitted).items() if name[-1] == "_"}
    for name in ("n_features_in_", "feature_names_in_"):  # of features, not of images
        learned.pop(name, None)
    for name, value in (learned | {"estimator_": pipeline}).items():
        setattr(whole, name, value)
    return whole


def check_folder(path):
    """Raise if a file cannot be made at a path."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"-o {os.fspath(path)}: there is no folder {os.fspath(path.parent)!r}; "
            "make it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"-o {os.fspath(path)} is a folder; expected a file.")


def check_free(path, *, force):
    """Raise if an output cannot be written, before anything is computed."""
    path = Path(path)
    check_folder(path)
    if path.exists() and not force:
        raise FileExistsError(
            f"{os.fspath(path)!r} exists already. Give another -o, or --force to "
            "replace it."
        )
