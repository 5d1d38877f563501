"""save and load: a fitted detector to a file and back."""

import datetime
import os
import platform
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch
import torchvision
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from reactood._utils._version import __version__
from reactood.persistence._checks import Unfit
from reactood.persistence._file import read_file, write_file
from reactood.persistence._metadata import ReactoodFileError
from reactood.persistence._reader import Reader
from reactood.persistence._transforms import fingerprint, make_transform
from reactood.persistence._writer import Writer


def save(estimator, path, *, name=None):
    """Save a fitted detector, pipeline or transformer to one file.

    The file is a safetensors file with JSON in its metadata: arrays and text, no code
    and no pickle. Saving is atomic: whatever happens, the file is the old one or the
    new one, whole.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`~reactood.ReActDetector`,
        :class:`~reactood.model_selection.ReActDetectorCV`,
        :class:`~reactood.conformal.ConformalDetector`,
        :class:`~reactood.monitoring.ConformalMonitor`, rectifier, detector of
        :mod:`reactood.baselines` or feature extractor, or a pipeline of these.

    path : path-like
        The file, by custom `NAME.safetensors`.

    name : str, default=None
        What to call it; the name of the file, without its suffix, by default.

    Raises
    ------
    TypeError
        If a parameter or a step is something that a file cannot hold: a score function
        of your own, or an estimator of another library.

    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    load : Makes the estimator again.

    Notes
    -----
    Of a model that is given by name, the file holds the name and a checksum of the
    weights. Of your own model it holds the weights, with normalisation folded into
    convolutions where `fit` did that; its code is not in the file. Parameters that name
    places on this machine, `cache` and `memory`, become None. A head that a function
    makes is saved as weight and bias. Requests for metadata, as of `set_fit_request`,
    are left out: only another `fit` would need them.

    `device` is kept. On a machine that lacks it, set it before use:
    `set_params(device="auto")`, or that of the step of a pipeline.

    The SHA-256 in the file shows damage. It is no signature: whoever changes a file can
    write a new one. Where files come from others, sign them, with Sigstore for
    instance.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from reactood import ReActDetector
    >>> from reactood.persistence import load, save
    >>> X = np.random.default_rng(0).gamma(2.0, size=(99, 4))
    >>> detector = ReActDetector((np.eye(3, 4), np.zeros(3))).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "detector.safetensors")
    ...     save(detector, path)
    ...     same = load(path)
    >>> bool((same.score_samples(X) == detector.score_samples(X)).all())
    True
    """
    check_is_fitted(estimator)
    writer = Writer()
    tree = writer.value(estimator, type(estimator).__name__)
    if not isinstance(tree, dict) or not {"estimator", "pipeline"} & set(tree):
        raise TypeError(f"Got {estimator!r}, expected a fitted estimator of reactood.")
    content = {
        "estimator": tree,
        "network": writer.network(),
        "provenance": {
            "name": Path(path).stem if name is None else str(name),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(
                timespec="seconds"
            ),
            "n_samples": _n_samples(estimator),
            "reactood": __version__,
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
    }
    write_file(path, content, writer.tensors)


def load(path, *, model=None, preprocess=None):
    """Load what :func:`save` saved, after a check of everything in the file.

    Nothing is imported, and no code is run, because a file says so: code comes from
    this package, from the libraries that it uses, and from the arguments.

    Parameters
    ----------
    path : path-like
        The file.

    model : callable, torch.nn.Module or dict, default=None
        A function without arguments that builds your own model, or such a model; its
        weights come from the file. Where both the network and the head of the detector
        are modules of your own, a dict with the keys `"network"` and `"head"`. None if
        the file names its model, or holds none.

    preprocess : callable, default=None
        Your own preprocessing, if it is not made of torchvision's common transforms,
        which are in the file. A warning says so if it is not the same as before.

    Returns
    -------
    estimator : estimator
        Fitted, with the same scores as before. Your own model is its parameter
        `model`, with the weights of the file.

    Raises
    ------
    ReactoodFileError
        If the file is incomplete, changed, made by a newer version or by another
        program, or if its values do not fit each other or the `model`.

    ValueError
        If `model` or `preprocess` is needed and not given, or given and not needed. A
        `preprocess` that is the one in the file may be given.

    See Also
    --------
    save : Writes the file.
    read_metadata : Returns what a file says of itself.
    """
    content, tensors = read_file(path)
    name = repr(os.fspath(path))
    try:
        _check_arguments(name, content, model, preprocess)
        reader = Reader(tensors, content["network"], model, preprocess)
        estimator = reader.value(content["estimator"], fitted=True)
        check_is_fitted(estimator)
    except _Arguments as error:
        raise ValueError(str(error)) from None
    except Unfit as problem:
        raise ReactoodFileError(f"{name} cannot be loaded: it {problem}.") from problem
    except (ImportError, MemoryError, Warning):
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise ReactoodFileError(
            f"{name} is damaged or does not fit this environment: "
            f"{type(error).__name__}: {error}"
        ) from error
    return estimator


class _Arguments(ValueError):
    """An argument of `load` is missing, or not needed."""


def _check_arguments(name, content, model, preprocess):
    """Raise unless what the file does not hold is given, and nothing else."""
    nodes = list(_nodes(content["estimator"]))
    modules = [node["module"] for node in nodes if _is_hinted(node.get("module"))]
    if content["network"] is not None:
        modules.append(content["network"])
    for needed, given, parameter, what in (
        (modules, model, "model", "a network"),
        ([n for n in nodes if "given" in n], preprocess, "preprocess", "preprocessing"),
    ):
        hints = ", ".join(sorted({str(node["hint"]) for node in needed}))
        if needed and given is None:
            raise _Arguments(
                f"{name} was made with {what} of your own, {hints}, whose code is not "
                f"in the file. Pass it: load(path, {parameter}=...)."
            )
        if given is None or needed:
            continue
        if parameter == "preprocess" and _is_that_of(nodes, given):
            continue
        raise _Arguments(
            f"{parameter}= is given, but {name} holds all that it needs"
            + (", and another one" if parameter == "preprocess" else "")
            + "; leave it out."
        )


def _nodes(node):
    """Yield all objects in a tree of JSON."""
    if isinstance(node, dict):
        yield node
    for item in node.values() if isinstance(node, dict) else node:
        if isinstance(item, dict | list):
            yield from _nodes(item)


def _is_hinted(node):
    return isinstance(node, dict) and "hint" in node


def _is_that_of(nodes, preprocess):
    """Return whether a transform is the one in the file, so that it does no harm."""
    found = [fingerprint(make_transform(node)) for node in nodes if "transform" in node]
    return bool(found) and set(found) == {fingerprint(preprocess)}


def _n_samples(estimator):
    """Return how many rows the last step has learned from, or None."""
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    last = getattr(last, "estimator_", last)
    last = last[-1] if isinstance(last, Pipeline) else last
    found = getattr(last, "n_samples_seen_", None)
    return None if found is None else int(found)
