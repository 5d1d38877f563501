"""tune_detector: chooses score and percentile by left-out classes."""

from numbers import Integral

import numpy as np
import torch
from sklearn.utils import Bunch, check_random_state

from reactood._scoring._left_out import N_PARTS, N_REPEATS
from reactood._utils._estimators import checked
from reactood._utils._sklearn import Interval, _safe_indexing
from reactood._utils._tensors import as_array
from reactood.model_selection._candidates import choose, make_candidates, results_table
from reactood.model_selection._copies import fit_unchecked, unfitted
from reactood.model_selection._parts import detector_of, features_of, joined
from reactood.model_selection._trial import MOST_ROWS, Trial

__all__ = ["tune_detector"]

COUNT = Interval(Integral, 1, None, closed="left")


@checked(
    candidates=[dict, list, tuple, None],
    n_parts=[Interval(Integral, 2, None, closed="left")],
    n_repeats=[COUNT],
    max_samples=[COUNT, None],
    random_state=["random_state"],
)
def tune_detector(
    estimator,
    X_id,
    y=None,
    *,
    candidates=None,
    n_parts=N_PARTS,
    n_repeats=N_REPEATS,
    max_samples=MOST_ROWS,
    random_state=0,
):
    """Choose score and percentile without OOD data, by leaving classes out.

    Which score and which percentile work depends on how the network was trained, and
    cannot be seen from outside. Here, part of the classes are taken from the head, and
    the in-distribution (ID) rows of these classes are out-of-distribution (OOD) to the
    head that is left. The best candidate is the one that separates them best from the
    other rows, by AUROC. No OOD data, no training and no labels are needed.

    Parameters
    ----------
    estimator : Pipeline or ReActDetector
        A pipeline that ends in a :class:`~reactood.ReActDetector`, as made by
        :func:`~reactood.make_react_pipeline`, for images; or the detector alone, for
        features. It need not be fitted, and is not changed.

    X_id : images, or array-like of shape (n_samples, n_features)
        ID data; if possible, data on which the classifier was not trained. 500 rows
        or more, from at least three classes.

    y : array-like of shape (n_samples,), default=None
        Class labels, for a detector whose head is a classifier to be trained. Rows
        where `y` is -1 are left out.

    candidates : dict, list or None, default=None
        What to choose from, besides the estimator's own setting.

        - None: the scores `"energy"`, `"centered_energy"`, `"centered_max_logit"`,
          `"max_logit"` and `"msp"`, each with the percentiles None (no clipping), 99,
          95, 90, 85, 80 and 65.
        - A dict of lists: all combinations of these parameters of the detector, such
          as `{"percentile": [90, 95], "per_unit": [False, True]}`.
        - A list of dicts, each a setting of the detector, and of other detectors on
          features: baselines, or pipelines of a rectifier and a detector. In these,
          each parameter `head` that is not None gets the reduced heads.

    n_parts : int, default=2
        Into how many parts the classes are dealt, each of which is left out once.

    n_repeats : int, default=3
        How many times they are dealt anew. Few classes can be dealt in few ways: parts
        that come again are left out.

    max_samples : int, default=10_000
        The number of rows to choose by, drawn at random where there are more; None
        for all. The choice is fitted to all rows.

    random_state : int, RandomState instance or None, default=0
        Makes the parts, and the rows, repeatable.

    Returns
    -------
    tuned : Bunch
        Its attributes are named as in a fitted `GridSearchCV`:

        ``best_estimator_`` : estimator
            Like `estimator`, with the chosen setting, fitted to all of `X_id`.
        ``best_params_`` : dict
            The chosen setting; `{"estimator": ...}` for a detector of the list.
        ``best_score_``, ``own_score_`` : float
            Mean AUROC on left-out classes of the choice and of the estimator's own
            setting, fractions: the higher, the better.
        ``best_index_`` : int
            Index of the choice in `cv_results_`; 0 is the estimator's own setting.
        ``near_best_`` : list of dict
            The candidates that count as equal to the best one: their error, 1 - AUROC,
            is at most 1.2 times as large. If many scores are among them, the choice
            matters little.
        ``cv_results_`` : dict of ndarray
            All candidates, as in `GridSearchCV`. The splits are the parts. `"failure"`
            holds the reason for a score of NaN.
        ``summary_`` : str
            The choice and its reason, in words.

    Raises
    ------
    TypeError
        If `estimator` is neither a ReActDetector nor a pipeline that ends in one, or
        if `candidates` holds something else.
    ValueError
        If `candidates` is empty, or holds a parameter that the detector does not have,
        or a value that it does not take; if the head has fewer than three classes, if
        too few rows belong to each part, or if no candidate can be used.

    See Also
    --------
    tune_percentile : Chooses the percentile only.
    make_surrogate_features : Makes the same parts, to use them by yourself.
    reactood.ReActDetectorCV : Chooses by real OOD data.

    Notes
    -----
    The estimator's own setting is kept where it counts as equal to the best. Otherwise
    `"centered_energy"` is preferred where one of its percentiles counts as equal to
    the best, then `"centered_max_logit"`: training says nothing about the mean of the
    logits, and they do not depend on it. The user guide has the study by which this
    rule was made.

    Left-out classes are near-OOD data. Of far OOD data they say less: see the study.
    Each row counts for the class with the largest logit, so that heads with several
    true labels at once cannot be judged.

    Nothing is learned from rows where `y` is -1, nor from rows of NaN where the
    estimator has `on_nan="reject"`, whatever the candidate. The check of `fit`
    (`check_score`) is off meanwhile.

    The head is applied once for each clip, whatever the number of scores and parts.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.model_selection import tune_detector
    >>> digits = load_digits_ood()
    >>> tuned = tune_detector(make_react_pipeline(digits_classifier), digits.X_test)
    >>> labels = tuned.best_estimator_.predict(digits.X_test)
    >>> len(tuned.cv_results_["params"])
    35
    """
    steps, detector = detector_of(estimator)
    candidates = make_candidates(detector, candidates)
    steps, H = features_of(steps, X_id, y)
    trial = Trial.of(
        detector,
        H,
        y,
        n_parts=n_parts,
        n_repeats=n_repeats,
        max_samples=max_samples,
        random=check_random_state(random_state),
    )
    aurocs, problems = trial.judge(candidates)
    if np.isnan(aurocs.mean(axis=0)).all():
        raise ValueError(
            "None of the candidates can be used. " + next(filter(None, problems), "")
        )
    best, equal = choose(aurocs, candidates)
    mean = aurocs.mean(axis=0)
    trial.warn_of_weak_evidence(np.nanmax(mean))
    chosen = _fitted(candidates[best], trial, H, y)
    return Bunch(
        best_estimator_=joined(estimator, steps, chosen),
        best_params_=candidates[best].params,
        best_score_=float(mean[best]),
        own_score_=float(mean[0]),
        best_index_=best,
        near_best_=[candidates[i].params for i in np.flatnonzero(equal)],
        cv_results_=results_table([c.params for c in candidates], aurocs, problems),
        summary_=_summary(candidates, aurocs, problems, best, equal, trial),
    )


def _fitted(candidate, trial, H, y):
    """Return the candidate, fitted to all rows that it may learn from."""
    detector = unfitted(candidate.detector)
    if candidate.is_other:  # it may know neither rows labelled -1 nor rows of NaN
        y = trial.y
        if not trial.known.all():
            index = np.flatnonzero(trial.known)
            H, y = _safe_indexing(H, index), None if y is None else y[index]
        if isinstance(H, torch.Tensor):
            H = as_array(H)
    return fit_unchecked(detector, H, *(() if y is None else (y,)))


def _summary(candidates, aurocs, problems, best, equal, trial):
    """Return the choice and its reason, in words."""
    mean, spread = aurocs.mean(axis=0), aurocs.std(axis=0)
    own = candidates[0]
    resolved = 1 / trial.n_rows  # a smaller error is less than that of one row

    def of(i):
        return f"{mean[i]:.4f}"

    n_classes = len(trial.scorer.head.classes)
    lines = [
        f"{trial.n_rows} rows, {n_classes} classes, left out in {len(trial.left_out)} "
        "parts. AUROC, left-out classes against the others:",
        f"  chosen  {of(best)} (standard deviation over parts {spread[best]:.4f})  "
        f"{candidates[best].text()}",
    ]
    if problems[0]:
        lines.append(f"  own     cannot be used  {own.text()}: {problems[0]}")
    elif best:
        lines.append(f"  own     {of(0)}  {own.text()}")
    top = int(np.nanargmax(mean))
    if top != best:
        lines.append(f"  best    {of(top)}  {candidates[top].text()}")
    if best == 0:
        reason = "Your own setting is kept: no candidate is clearly better."
    elif problems[0]:
        reason = "Your own setting cannot be used."
    elif 1 - mean[best] < resolved:
        reason = (
            f"AUROC is {of(0)} with your own setting and {of(best)} with the chosen "
            "one, whose errors are too few for a ratio."
        )
    else:
        ratio = (1 - mean[0]) / (1 - mean[best])
        reason = (
            f"Your own setting makes {ratio:.1f} times as many errors (1 - AUROC) on "
            "this network."
        )
    n_as_good = int((1 - mean < resolved).sum())  # NaN is not
    if n_as_good:
        few = f"fewer errors than {trial.n_rows} rows can tell apart"
        as_good = f"{n_as_good} of them make{'s' * (n_as_good == 1)} {few}"
    elif equal.sum() == 1:
        as_good = "none of the others counts as equal to the best"
    else:
        as_good = f"{equal.sum()} of them count as equal to the best"
    lines.append(f"{reason} {_compared(candidates)}; {as_good}.")
    lines.append("Left-out classes are near-OOD data; far OOD data may rank otherwise.")
    return "\n".join(lines)


def _compared(candidates):
    """Return how many settings were compared, in words."""
    varied = set().union(*(candidate.params for candidate in candidates))
    of = " (score and percentile)" * (varied == {"score_function", "percentile"})
    return f"{len(candidates)} settings{of} were compared"
