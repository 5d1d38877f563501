"""Parcel: a fitted estimator as it travels to other machines."""

import os
import tempfile
from pathlib import Path

import numpy as np
from torch import nn

from reactood import persistence
from reactood.distributed._row_scorer import take_apart
from reactood.extractor import TorchFeatureExtractor

FILE = "estimator.safetensors"


class Parcel:
    """The file of an estimator, and the code of the user's own that belongs to it.

    Ray keeps it in its object store: one copy on each machine, whatever the number of
    actors and tasks.

    Parameters
    ----------
    estimator : estimator or path-like
        Fitted, or the file that :func:`reactood.persistence.save` wrote.
    model : callable or dict
        As in :func:`reactood.persistence.load`, without modules. By default the
        function that the extractor was given.
    preprocess : callable
        As there; by default that of the extractor.
    """

    def __init__(self, estimator, model=None, preprocess=None):
        _check_no_module(model)
        if isinstance(estimator, str | os.PathLike):
            content = Path(estimator).read_bytes()
        else:
            if model is None:
                model = _factory_of(estimator)
            if preprocess is None:
                preprocess = _own_preprocess(estimator)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, FILE)
                persistence.save(estimator, path)
                content = path.read_bytes()
        # As an array, actors read it from the memory that they share.
        self.content = np.frombuffer(content, np.uint8)
        self.model, self.preprocess = model, preprocess

    def open(self):
        """Return the estimator.

        Raises
        ------
        ValueError
            If the code of the user's own is needed and not given.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, FILE)
            path.write_bytes(self.content.data)
            try:
                return persistence.load(
                    path, model=self.model, preprocess=self.preprocess
                )
            except persistence.ReactoodFileError:
                raise
            except ValueError as error:
                raise ValueError(_in_our_words(error, path)) from None


def _check_no_module(model):
    given = model.values() if isinstance(model, dict) else [model]
    for one in given:
        if isinstance(one, nn.Module):
            raise TypeError(
                f"model= is a {type(one).__name__}, a module; expected a function "
                "without arguments that builds it, such as lambda: "
                f"{type(one).__name__}(...). The weights travel in the file."
            )


def _extractor_of(estimator):
    if isinstance(estimator, TorchFeatureExtractor):
        return estimator
    return take_apart(estimator)[1]


def _factory_of(estimator):
    """Return the function that builds the extractor's own model, or None."""
    model = getattr(_extractor_of(estimator), "model", None)
    return model if callable(model) and not isinstance(model, nn.Module) else None


def _own_preprocess(estimator):
    """Return the extractor's own preprocessing, or None."""
    preprocess = getattr(_extractor_of(estimator), "preprocess", None)
    return preprocess if callable(preprocess) else None


def _in_our_words(error, path):
    reason, _, advice = str(error).partition(" Pass it: ")
    reason = reason.replace(repr(os.fspath(path)), "The estimator")
    if not advice:
        return reason
    parameter = "preprocess" if "preprocess=" in advice else "model"
    what = (
        "the function or transform"
        if parameter == "preprocess"
        else "a function without arguments that builds it"
    )
    return f"{reason} Pass it: {parameter}=..., {what}."
