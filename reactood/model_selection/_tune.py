"""tune_percentile: chooses the percentile by surrogates, without OOD data."""

import itertools
from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from reactood._utils._estimators import checked
from reactood._utils._labels import id_rows
from reactood._utils._response import parts_of
from reactood._utils._sklearn import Interval
from reactood._utils._warnings import warn
from reactood.detector import ReActDetector
from reactood.model_selection._detector_cv import PERCENTILES, ReActDetectorCV
from reactood.model_selection._surrogates import (
    iterate_surrogates,
    make_surrogate_features,
)

__all__ = ["tune_percentile"]

AT_ONCE = 64  # surrogate images in memory
MOST_SURROGATES = 1000


@checked(
    n_surrogates=[Interval(Integral, 1, None, closed="left"), None],
    random_state=["random_state"],
)
def tune_percentile(
    estimator,
    X_id,
    y=None,
    *,
    surrogate=None,
    percentiles=PERCENTILES,
    scoring="fpr95",
    cv=5,
    n_surrogates=None,
    random_state=0,
):
    """Choose the percentile by surrogate OOD data, when there are no real OOD data.

    The best candidate is the one that best separates held-out in-distribution (ID)
    rows from surrogates made from ID data, as in the paper [1]_. No clipping is always
    one of the candidates.

    Parameters
    ----------
    estimator : Pipeline or ReActDetector
        A pipeline that ends in a :class:`~reactood.ReActDetector`, as made by
        :func:`~reactood.make_react_pipeline`, for images; or the detector alone, for
        features. It need not be fitted, and is not changed.

    X_id : images, or array-like of shape (n_samples, n_features)
        ID data; if possible, data on which the classifier was not trained.

    y : array-like of shape (n_samples,), default=None
        Class labels, for a detector whose head is a classifier to be trained.

    surrogate : str, default=None
        The `kind` of :func:`make_surrogate_ood` or, for features, of
        :func:`make_surrogate_features`. None means `"gaussian_noise"`, as in the
        paper, for images and `"permuted_units"` for features.

    percentiles : sequence of float or None, default=(10, 65, 80, 85, 90, 95, 99)
        The candidates, in percent; the default is the paper's. None, which means no
        clipping, is always added as the last candidate.

    scoring : str or callable, default="fpr95"
        The metric that compares the candidates, as in
        :class:`~reactood.ReActDetectorCV`. Among candidates with equal scores, the one
        with the best AUROC is chosen, then the first.

    cv : int or splitter, default=5
        The folds.

    n_surrogates : int, default=None
        Number of surrogates; None for as many as `X_id` has rows, but at most 1,000.

    random_state : int, RandomState instance or None, default=0
        Makes the surrogates repeatable.

    Returns
    -------
    tuned : Bunch
        Its attributes are named as in a fitted `GridSearchCV`:

        ``best_estimator_`` : Pipeline or ReActDetector
            Like `estimator`, with the chosen percentile, fitted to all of `X_id`.
        ``best_percentile_`` : float or None
            The chosen percentile, in percent. If no percentile is better than no
            clipping, it is None, and a warning is issued.
        ``best_score_``, ``unclipped_score_`` : float
            Mean scores over the folds of the chosen candidate and of no clipping: the
            higher, the better. By default minus the FPR95, as a fraction.
        ``best_index_`` : int
            Index of the chosen candidate in `cv_results_`.
        ``cv_results_`` : dict of ndarray
            As in :class:`~reactood.ReActDetectorCV`; no clipping comes last.
        ``near_best_percentiles_`` : list
            All candidates whose mean score is within one standard error of the best
            mean score. A long list means that the choice matters little. With a single
            fold there is no standard error: the list holds the candidates whose score
            equals the best.

    Raises
    ------
    TypeError
        If `estimator` is neither a ReActDetector nor a pipeline that ends in one.
    ValueError
        If the detector has a `threshold`, which overrides any percentile.

    See Also
    --------
    make_surrogate_ood : The kinds of surrogates.
    reactood.ReActDetectorCV : Chooses by real OOD data.
    reactood.inspection.MetricCurveDisplay : Draws the result.

    Notes
    -----
    Surrogates are easier to detect than most real OOD data. If all candidates in
    `cv_results_` have about the same score, the choice means little, and the default
    of 90 is as good. Each image goes through the network once.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.model_selection import tune_percentile
    >>> digits = load_digits_ood()
    >>> tuned = tune_percentile(
    ...     make_react_pipeline(digits_classifier),
    ...     digits.X_test,
    ...     surrogate="phase_scrambled",
    ... )
    >>> bool(tuned.best_score_ > tuned.unclipped_score_)
    True
    >>> tuned.best_estimator_.predict(digits.X_test).shape == (len(digits.X_test),)
    True
    """
    steps, detector = _parts(estimator)
    kind = surrogate or ("permuted_units" if steps is None else "gaussian_noise")
    if steps is None:
        H = X_id
    else:
        steps = clone(steps)
        H = steps.fit_transform(X_id, y)
    id_rows(y, H)  # raises if y is not valid
    known = _without_nan(detector, H)
    n = min(known.sum(), MOST_SURROGATES) if n_surrogates is None else n_surrogates
    if steps is None:
        some = H if known.all() else np.asarray(H)[known]
        H_ood = make_surrogate_features(
            some, kind, n_samples=n, random_state=random_state
        )
    else:
        rows = np.flatnonzero(known)
        made = iterate_surrogates(X_id, kind, n, random_state, rows=rows)
        H_ood = _features_of(steps, made)
    labels = np.ones(len(H)) if y is None else np.asarray(y)
    results, best = _search(
        detector,
        np.asarray(H)[known],
        np.asarray(H_ood),
        labels[known],
        percentiles=[p for p in percentiles if p is not None] + [None],
        scoring=scoring,
        cv=cv,
    )
    percentile = results["param_percentile"][best]
    if percentile is None:
        warn(
            f"No percentile detects the surrogates ({kind}) better than no clipping, "
            f"whose score is {results['mean_test_score'][best]:.4g}: "
            "percentile=None is chosen. Clipping may still help on other OOD data: try "
            "another surrogate, or real OOD data with ReActDetectorCV.",
        )
    chosen = clone(detector).set_params(percentile=percentile).fit(H, y)
    return Bunch(
        best_estimator_=_joined(estimator, steps, chosen),
        best_percentile_=percentile,
        best_score_=float(results["mean_test_score"][best]),
        unclipped_score_=float(results["mean_test_score"][-1]),
        best_index_=best,
        near_best_percentiles_=_near(results, best),
        cv_results_=results,
    )


def _parts(estimator):
    """Return the steps before the detector (None if there are none) and itself."""
    steps, detector = parts_of(estimator)
    if not isinstance(detector, ReActDetector):
        raise TypeError(
            f"estimator is, or ends in, a {type(detector).__name__}; expected a "
            "ReActDetector or a Pipeline that ends in one."
        )
    if detector.threshold is not None:
        raise ValueError(
            f"The detector has threshold={detector.threshold!r}, which overrides any "
            "percentile; set threshold=None to choose one."
        )
    return steps, detector


def _without_nan(detector, H):
    """Return a mask of the rows to use: without NaN if the detector rejects NaN."""
    if detector.on_nan != "reject":
        return np.ones(len(H), bool)
    return ~np.isnan(np.asarray(H)).any(axis=1)


def _features_of(steps, images):
    """Return the features of images from the fitted steps, in batches."""
    features = []
    while some := list(itertools.islice(images, AT_ONCE)):
        arrays = isinstance(some[0], np.ndarray) and len({x.shape for x in some}) == 1
        batch = np.stack(some) if arrays else some
        features.append(np.asarray(steps.transform(batch)))
    return np.concatenate(features)


def _search(detector, H, H_ood, labels, *, percentiles, scoring, cv):
    """Return cv_results_, with no clipping last, and the index of the best."""
    parameters = detector.get_params(deep=False)
    for name in ("percentile", "threshold"):
        del parameters[name]
    search = ReActDetectorCV(
        **parameters, percentiles=percentiles, scoring=scoring, cv=cv
    )
    X = np.concatenate([H, H_ood.astype(H.dtype, copy=False)])
    # As objects, so that -1 is kept: as a string it may be cut to the length of the
    # class names, and unsigned integers have no -1.
    y = np.concatenate([labels.astype(object), np.full(len(H_ood), -1, object)])
    results = search.fit(X, y).cv_results_
    tied = np.flatnonzero(results["rank_test_score"] == 1)
    if len(tied) == 1:
        return results, int(tied[0])
    again = search.set_params(
        percentiles=results["param_percentile"][tied].tolist(), scoring="auroc"
    )
    return results, int(tied[again.fit(X, y).best_index_])


def _near(results, best):
    """Return the candidates within one standard error of the best."""
    folds = np.array([v for k, v in results.items() if k.startswith("split")])
    n = len(folds)
    error = folds[:, best].std(ddof=1) / np.sqrt(n) if n > 1 else 0
    mean = results["mean_test_score"]
    return results["param_percentile"][mean >= mean[best] - error].tolist()


def _joined(estimator, steps, detector):
    """Return the fitted parts in the form of ``estimator``: pipeline or detector."""
    if not isinstance(estimator, Pipeline):
        return detector
    joined = clone(estimator)
    before = [] if steps is None else steps.steps
    joined.steps = [*before, (estimator.steps[-1][0], detector)]
    return joined
