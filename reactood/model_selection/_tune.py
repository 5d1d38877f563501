"""tune_percentile: chooses the percentile by surrogates, without OOD data."""

import itertools
from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_random_state

from reactood._scoring._left_out import N_PARTS, N_REPEATS, TooFewClasses
from reactood._utils._estimators import checked
from reactood._utils._labels import id_rows
from reactood._utils._sklearn import Interval, StrOptions
from reactood._utils._tensors import as_array
from reactood._utils._warnings import warn
from reactood.model_selection._candidates import Candidate, equal_to_best, results_table
from reactood.model_selection._copies import unfitted, with_params
from reactood.model_selection._detector_cv import (
    PERCENTILES,
    ReActDetectorCV,
    as_percentiles,
    measure_of,
)
from reactood.model_selection._parts import detector_of, features_of, joined
from reactood.model_selection._surrogate_kinds import FEATURE_KINDS, IMAGE_KINDS
from reactood.model_selection._surrogates import (
    iterate_surrogates,
    make_surrogate_features,
)
from reactood.model_selection._trial import MOST_ROWS, Trial

__all__ = ["tune_percentile"]

AT_ONCE = 64  # surrogate images in memory
MOST_SURROGATES = 1000


@checked(
    surrogate=[StrOptions({"left_out_classes", *IMAGE_KINDS, *FEATURE_KINDS}), None],
    percentiles=["array-like"],
    scoring=[str, callable, None],
    cv=[Interval(Integral, 2, None, closed="left"), "cv_object"],
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
    scoring=None,
    cv=5,
    n_surrogates=None,
    random_state=0,
):
    """Choose the percentile by surrogate OOD data, when there are no real OOD data.

    The best candidate is the one that best separates in-distribution (ID) rows from
    surrogates: by default the rows of classes that are left out of the head; noise, as
    in the paper [1]_, on request. No clipping is always one of the candidates.
    :func:`tune_detector` chooses the score too, which often matters more.

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
        The `kind` of :func:`make_surrogate_features`, for features, or of
        :func:`make_surrogate_ood`, for images; or `"left_out_classes"` for both. None
        means `"left_out_classes"`; with a head of two classes, where none can be left
        out, `"phase_scrambled"` for images and `"permuted_units"` for features.

    percentiles : sequence of float or None, default=(10, 65, 80, 85, 90, 95, 99)
        The candidates, in percent; the default is the paper's. The detector's own
        percentile is added if it is not among them, then None, which means no
        clipping.

    scoring : str or callable, default=None
        The metric that compares the candidates, as in
        :class:`~reactood.ReActDetectorCV`. None means `"auroc"` for left-out classes,
        and `"fpr95"` for other surrogates. Among candidates with equal scores, the one
        with the best AUROC is chosen, then the first.

    cv : int or splitter, default=5
        The folds. Left-out classes have parts instead, as in :func:`tune_detector`.

    n_surrogates : int, default=None
        Number of surrogates; None for as many as `X_id` has rows, but at most 1,000.
        Not used for left-out classes.

    random_state : int, RandomState instance or None, default=0
        Makes the surrogates repeatable.

    Returns
    -------
    tuned : Bunch
        Its attributes are named as in a fitted `GridSearchCV`:

        ``best_estimator_`` : Pipeline or ReActDetector
            Like `estimator`, with the chosen percentile, fitted to all of `X_id`.
        ``best_percentile_`` : float or None
            The chosen percentile, in percent. The detector's own is kept, with a
            warning, if it and no clipping count as equal to the best; with left-out
            classes, whenever it counts as equal. None if no percentile is as good as
            no clipping, with a warning.
        ``best_score_``, ``unclipped_score_`` : float
            Mean scores over the folds of the chosen candidate and of no clipping: the
            higher, the better. By default the AUROC, for surrogates that are made
            minus the FPR95, as fractions.
        ``best_index_`` : int
            Index of the chosen candidate in `cv_results_`.
        ``cv_results_`` : dict of ndarray
            As in :class:`~reactood.ReActDetectorCV`; no clipping comes last.
        ``near_best_percentiles_`` : list
            All candidates that count as equal to the best. With left-out classes and
            AUROC, their error, 1 - AUROC, is at most 1.2 times as large as the best
            one's; otherwise they are within one standard error of the best mean score.
            A long list means that the choice matters little.

    Raises
    ------
    TypeError
        If `estimator` is neither a ReActDetector nor a pipeline that ends in one.
    ValueError
        If the detector has a `threshold`, which overrides any percentile, or if
        `surrogate="left_out_classes"` and no class can be left out.

    See Also
    --------
    tune_detector : Chooses the score too.
    make_surrogate_ood : The kinds of surrogates.
    reactood.ReActDetectorCV : Chooses by real OOD data.
    reactood.inspection.MetricCurveDisplay : Draws the result.

    Notes
    -----
    Surrogates that are made of images or features are easier to detect than most real
    OOD data, and left-out classes are near-OOD data. Each image goes through the
    network once.

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
    steps, detector = detector_of(estimator)
    _check_surrogate(surrogate, steps)
    percentiles = as_percentiles([*percentiles, None])
    measure_of(scoring or "auroc")  # raises if it is not valid
    steps, H = features_of(steps, X_id, y)
    id_rows(y, H)  # raises if y is not valid
    percentiles = [p for p in percentiles if p is not None]
    if detector.percentile not in (None, *percentiles):
        percentiles.append(detector.percentile)
    percentiles.append(None)
    found, kind = None, surrogate
    if surrogate in (None, "left_out_classes"):
        kind = "left_out_classes"
        try:
            found = _by_left_out_classes(
                detector, H, y, percentiles, scoring or "auroc", random_state
            )
        except TooFewClasses:
            if surrogate is not None:
                raise
            kind = "permuted_units" if steps is None else "phase_scrambled"
    if found is None:
        known = _without_nan(detector, H)
        n = min(known.sum(), MOST_SURROGATES) if n_surrogates is None else n_surrogates
        if steps is None:
            some = H if known.all() else as_array(H)[known]
            H_ood = make_surrogate_features(
                some, kind, n_samples=n, random_state=random_state
            )
        else:
            rows = np.flatnonzero(known)
            made = iterate_surrogates(X_id, kind, n, random_state, rows=rows)
            H_ood = _features_of(steps, made)
        labels = np.ones(len(H)) if y is None else np.asarray(y)
        found = _by_made_surrogates(
            detector,
            as_array(H)[known],
            as_array(H_ood),
            labels[known],
            percentiles=percentiles,
            scoring=scoring or "fpr95",
            cv=cv,
        )
    results, top, equal = found
    best = _choose(results, top, equal, percentiles, detector.percentile, kind)
    chosen = unfitted(detector).set_params(percentile=percentiles[best]).fit(H, y)
    return Bunch(
        best_estimator_=joined(estimator, steps, chosen),
        best_percentile_=percentiles[best],
        best_score_=float(results["mean_test_score"][best]),
        unclipped_score_=float(results["mean_test_score"][-1]),
        best_index_=best,
        near_best_percentiles_=[percentiles[i] for i in np.flatnonzero(equal)],
        cv_results_=results,
    )


def _check_surrogate(surrogate, steps):
    """Raise for surrogates of images where there are features, and the reverse."""
    of = "images" if steps is not None else "features"
    kinds = list(FEATURE_KINDS if steps is None else IMAGE_KINDS)
    if surrogate not in (None, "left_out_classes", *kinds):
        raise ValueError(
            f"surrogate={surrogate!r} cannot be made of {of}, which the estimator "
            f"takes; expected 'left_out_classes' or one of {', '.join(kinds)}."
        )


def _by_left_out_classes(detector, H, y, percentiles, scoring, random_state):
    """Return cv_results_, the index of the best, and which are equal to it."""
    random = check_random_state(random_state)
    trial = Trial.of(
        detector,
        H,
        y,
        n_parts=N_PARTS,
        n_repeats=N_REPEATS,
        max_samples=MOST_ROWS,
        random=random,
    )
    candidates = [
        Candidate({"percentile": p}, with_params(detector, percentile=p))
        for p in percentiles
    ]
    scores, problems = trial.judge(candidates, measure_of(scoring))
    results = results_table([c.params for c in candidates], scores, problems)
    mean = results["mean_test_score"]
    if np.isnan(mean).all():
        raise ValueError(
            f"None of percentiles={percentiles} can be used. "
            + next(filter(None, problems), "")
        )
    best = int(np.nanargmax(mean))
    if scoring == "auroc":
        trial.warn_of_weak_evidence(mean[best])
        return results, best, equal_to_best(mean)
    return results, best, _within_one_error(results, best)


def _choose(results, best, equal, percentiles, own, kind):
    """Return the index of the choice: the detector's own where a tie has no clipping.

    Left-out classes never tell the candidates apart that they count as equal.
    """
    mean = results["mean_test_score"]
    own_index = percentiles.index(own)
    if equal[own_index] and (equal[-1] or kind == "left_out_classes"):
        if equal[-1] and own is not None:
            warn(
                f"The surrogates ({kind}) do not show that a clip helps: no clipping "
                f"counts as equal to the best candidate ({mean[-1]:.4g}, "
                f"{np.nanmax(mean):.4g}). The detector's own percentile={own!r} is "
                "kept. Try another surrogate, tune_detector, or real OOD data with "
                "ReActDetectorCV."
            )
        return own_index
    if percentiles[best] is None:
        warn(
            f"No percentile detects the surrogates ({kind}) better than no clipping, "
            f"whose score is {mean[best]:.4g}: percentile=None is chosen. Clipping may "
            "still help on other OOD data: try another surrogate, or real OOD data "
            "with ReActDetectorCV.",
        )
    return best


def _without_nan(detector, H):
    """Return a mask of the rows to use: without NaN if the detector rejects NaN."""
    if detector.on_nan != "reject":
        return np.ones(len(H), bool)
    return ~np.isnan(as_array(H)).any(axis=1)


def _features_of(steps, images):
    """Return the features of images from the fitted steps, in batches."""
    features = []
    while some := list(itertools.islice(images, AT_ONCE)):
        arrays = isinstance(some[0], np.ndarray) and len({x.shape for x in some}) == 1
        batch = np.stack(some) if arrays else some
        features.append(np.asarray(steps.transform(batch)))
    return np.concatenate(features)


def _by_made_surrogates(detector, H, H_ood, labels, *, percentiles, scoring, cv):
    """Return cv_results_, the index of the best, and which are equal to it."""
    parameters = detector.get_params(deep=False)
    for name in ("percentile", "threshold", "check_score", "sample_size"):
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
    best = int(tied[0])
    if len(tied) > 1:
        again = search.set_params(
            percentiles=results["param_percentile"][tied].tolist(), scoring="auroc"
        )
        best = int(tied[again.fit(X, y).best_index_])
    return results, best, _within_one_error(results, best)


def _within_one_error(results, best):
    """Return which candidates are within one standard error of the best."""
    folds = np.array([v for k, v in results.items() if k.startswith("split")])
    n = len(folds)
    error = folds[:, best].std(ddof=1) / np.sqrt(n) if n > 1 else 0
    mean = results["mean_test_score"]
    return mean >= mean[best] - error
