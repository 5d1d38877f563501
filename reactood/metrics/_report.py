"""ood_report: all metrics on several OOD sets, with confidence intervals."""

import functools
import operator
import warnings
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted

from reactood._utils._estimators import checked
from reactood._utils._response import parts_of, scoring_of
from reactood._utils._sklearn import Interval, _safe_indexing
from reactood._utils._warnings import warn
from reactood.metrics import _ranking
from reactood.metrics._bootstrap import METRICS, metrics_of_resamples
from reactood.metrics._table import OODReport

MEAN = "mean"


@checked(
    tpr=[_ranking.TPR],
    n_bootstrap=[Interval(Integral, 0, None, closed="left"), None],
    confidence=[Interval(Real, 0, 1, closed="neither")],
    random_state=["random_state"],
)
def ood_report(
    detector,
    X_id,
    X_ood,
    *,
    y_id=None,
    tpr=0.95,
    n_bootstrap=1000,
    confidence=0.95,
    random_state=None,
):
    """Evaluate a fitted detector on in-distribution data and on several OOD sets.

    The report has all metrics of the ReAct paper [1]_, by its conventions, with
    bootstrap confidence intervals and with means over the sets. It also has the shares
    of samples that the detector accepts and rejects at its own threshold.

    Parameters
    ----------
    detector : outlier detector or Pipeline
        A fitted scikit-learn outlier detector, with `predict` and with
        `score_samples` or `decision_function`: the higher, the more in-distribution
        (ID). Or a :class:`~sklearn.pipeline.Pipeline` that ends in one; its other
        steps transform each set once.

    X_id : array-like of shape (n_id, ...) or images
        ID samples, of any kind that the detector takes. It must not have been fitted to
        them.

    X_ood : dict of str to samples, or samples
        Sets of out-of-distribution (OOD) samples by name. A single set without a name
        is called "OOD".

    y_id : array-like of shape (n_id,), default=None
        Class labels of the ID samples, as in `detector.classes_`, to report the
        classification accuracy. It has no effect with detectors that do not classify,
        that is, those without `predict_class` and `rectify`.

    tpr : float, default=0.95
        The share of ID samples to accept in the FPR, a fraction in (0, 1].

    n_bootstrap : int or None, default=1000
        Number of bootstrap resamples; 0 or None for no intervals.

    confidence : float, default=0.95
        Confidence level of the intervals, a fraction in (0, 1).

    random_state : int, RandomState instance or None, default=None
        Makes the intervals repeatable.

    Returns
    -------
    report : OODReport
        Print it to see a table. `report["name"]` is the row of a set, and `to_frame`
        returns a data frame.

    Raises
    ------
    TypeError
        If the detector has no scores, or if names of sets are not strings.
    ValueError
        If a set is empty or has scores of NaN or inf, if `predict` returns other
        labels than 1 and -1, if `y_id` has another length than `X_id` or no class of
        the detector, if there are no sets, if one of several sets is called "mean", or
        if `tpr`, `confidence` or `n_bootstrap` is out of range.
    sklearn.exceptions.NotFittedError
        If the detector is not fitted.

    Warns
    -----
    UserWarning
        If the AUROC is below 0.5 on every OOD set, because the sign of the scores is
        then probably wrong, if the highest scores are tied, or if images cannot be
        read, which are left out: with `on_error="nan"` of a pipeline's extractor.

    See Also
    --------
    fpr_at_tpr : One of the metrics, from scores.
    ood_scorers : The same metrics for cross-validation.

    Notes
    -----
    Intervals are bootstrap percentiles. ID and OOD samples are resampled independently.
    In each replicate, all sets are compared with the same ID samples. The intervals
    show how much the metrics of this detector depend on the choice of test samples.
    They do not show how much the metrics would change with another training run. The
    detection error is a minimum over thresholds, which tends to be lower in resamples.
    With few samples, its interval is therefore too low.

    Both AUPR and the detection error depend on the ratio of ID to OOD samples.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.metrics import ood_report
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> sets = {name: digits.ood[name] for name in ("letters", "symbols")}
    >>> report = ood_report(
    ...     detector,
    ...     digits.X_test,
    ...     sets,
    ...     y_id=digits.y_test,
    ...     n_bootstrap=200,
    ...     random_state=0,
    ... )
    >>> print(report)  # doctest: +ELLIPSIS
    OOD set    n  rejected  FPR95               AUROC
    letters  468   ...      18... [..., ...]   96... [..., ...]
    symbols  360   ...
    mean           ...
    >>> round(report["letters"]["auroc"], 2)
    0.96
    """
    sets = _named_sets(X_id, X_ood)
    check_is_fitted(detector)
    steps, detector = parts_of(detector)
    score = scoring_of(detector, needs_predict=True)

    def evaluate(X, name):
        features, kept = X, None
        if steps is not None:
            features, kept = _readable(steps.transform(X), name)
        scores = _checked_scores(score(features), name)
        return features, scores, _share_accepted(detector, features), kept

    features, id_scores, id_accepted, kept = evaluate(X_id, "X_id")
    y_id = _labels_of(y_id, len(id_scores), kept)
    accuracies = _accuracies(detector, features, y_id)
    del features
    ood_scores, ood_rejected = [], []
    for name, X in sets.items():
        _, scores, accepted, _ = evaluate(X, _called(name))
        ood_scores.append(scores)
        ood_rejected.append(1 - accepted)

    points = np.array([_metrics(id_scores, scores, tpr) for scores in ood_scores])
    if (points[:, METRICS.index("auroc")] < 0.5).all():
        warn(
            "The scores may be the wrong way round: the AUROC is below 0.5 on every "
            "OOD set, so most OOD samples score above most ID samples. Check the sign "
            "of a custom score_function (the higher, the more in-distribution), "
            "whether X_id and X_ood are exchanged, and whether all sets are "
            "preprocessed alike. If all this is correct, the detector fails on these "
            "OOD sets.",
        )
    replicates = None
    if n_bootstrap:
        replicates = metrics_of_resamples(
            id_scores,
            ood_scores,
            tpr=tpr,
            n_bootstrap=n_bootstrap,
            seed=check_random_state(random_state).randint(np.iinfo(np.int32).max),
        )
    sizes = [len(scores) for scores in ood_scores]
    return OODReport(
        rows=_report_rows([*sets], sizes, ood_rejected, points, replicates, confidence),
        n_id=len(id_scores),
        id_accepted=id_accepted,
        id_accuracy=accuracies[0],
        id_accuracy_clipped=accuracies[1],
        tpr=tpr,
        n_bootstrap=n_bootstrap or 0,
        confidence=confidence,
    )


def _report_rows(names, sizes, rejected, points, replicates, confidence):
    """Return a dict for each set; ``points`` has the shape (n_sets, n_metrics)."""
    if len(names) > 1:
        names, sizes = [*names, MEAN], [*sizes, None]
        rejected, points = [*rejected, np.mean(rejected)], _with_mean(points, axis=0)
    rows = [
        {"ood": name, "n": size, "ood_rejected": float(share)}
        for name, size, share in zip(names, sizes, rejected, strict=True)
    ]
    intervals = None
    if replicates is not None:
        if len(names) > 1:
            replicates = _with_mean(replicates, axis=1)
        tails = 50 * (1 - confidence), 50 * (1 + confidence)
        intervals = np.percentile(replicates, tails, axis=0)
    for r, row in enumerate(rows):
        for m, metric in enumerate(METRICS):
            row[metric] = float(points[r, m])
            if intervals is not None:
                low, high = intervals[:, r, m].tolist()
                row |= {f"{metric}_low": low, f"{metric}_high": high}
    return rows


def _with_mean(values, axis):
    mean = values.mean(axis=axis, keepdims=True)
    return np.concatenate([values, mean], axis=axis)


def _metrics(id_scores, ood_scores, tpr):
    y_true = _ranking.marks_of(len(id_scores), len(ood_scores))
    y_score = np.concatenate([id_scores, ood_scores])
    functions = {name: getattr(_ranking, name) for name in METRICS if name != "fpr"}
    functions["fpr"] = functools.partial(_ranking.fpr_at_tpr, tpr=tpr)
    return [functions[name](y_true, y_score) for name in METRICS]


def _named_sets(X_id, X_ood):
    """Return the OOD sets by name; raise on errors that show before scoring."""
    sets = X_ood if isinstance(X_ood, Mapping) else {"OOD": X_ood}
    if not sets:
        raise ValueError(
            "X_ood holds no sets; expected at least one: {'name': samples}."
        )
    for name in sets:
        if not isinstance(name, str):
            raise TypeError(
                f"X_ood has a set named {name!r}, a {type(name).__name__}; expected "
                "names that are strings."
            )
    if len(sets) > 1 and MEAN in sets:
        raise ValueError(
            f"X_ood has a set named {MEAN!r}, which is the name of the means over all "
            "sets; give it another name."
        )
    for name, X in {
        "X_id": X_id,
        **{_called(name): X for name, X in sets.items()},
    }.items():
        if operator.length_hint(X, 1) == 0:
            raise ValueError(f"{name} is empty; expected at least one sample.")
    return sets


def _called(name):
    return f"X_ood[{name!r}]"


def _readable(features, name):
    """Leave out the images that could not be read: their features are all NaN.

    Return the features of the others, and a mask of them, or None if all were read.
    """
    values = np.asarray(features)
    if values.ndim != 2 or values.dtype.kind != "f" or not np.isnan(values[:, 0]).any():
        return features, None
    kept = ~np.isnan(values).all(axis=1)
    if kept.all():
        return features, None
    if not kept.any():
        raise ValueError(f"None of the {len(kept)} images of {name} could be read.")
    n_bad = len(kept) - np.count_nonzero(kept)
    warn(f"{n_bad} of {len(kept)} images of {name} could not be read: left out.")
    return _safe_indexing(features, np.flatnonzero(kept)), kept


def _labels_of(y_id, n_scores, kept):
    """Return the class labels of the ID samples that were read, or None."""
    if y_id is None:
        return None
    y_id = column_or_1d(np.asarray(y_id))
    n_id = n_scores if kept is None else len(kept)
    if len(y_id) != n_id:
        raise ValueError(f"y_id has {len(y_id)} labels for {n_id} samples in X_id.")
    return y_id if kept is None else y_id[kept]


def _checked_scores(scores, name):
    scores = column_or_1d(np.asarray(scores, dtype=np.float64))
    bad = ~np.isfinite(scores)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(scores)} scores of {name} are NaN or inf; the first "
            f"is the score of sample {bad.argmax()}. Leave out samples that could not "
            "be read, and check whether the detector's scores overflow."
        )
    return scores


def _share_accepted(detector, X):
    labels = np.asarray(detector.predict(X))
    if not np.isin(labels, [1, -1]).all():
        raise ValueError(
            f"predict of {type(detector).__name__} returns the labels "
            f"{np.unique(labels)[:5].tolist()}, expected 1 for in-distribution and -1 "
            "for out-of-distribution samples: is it an outlier detector?"
        )
    return float(np.mean(labels == 1))


def _accuracies(detector, features, y_id):
    """Return the classification accuracy without and with the clip, or two None."""
    if y_id is None:
        return None, None
    if not (hasattr(detector, "predict_class") and hasattr(detector, "rectify")):
        return None, None
    if not np.isin(y_id, detector.classes_).any():
        raise ValueError(
            f"y_id holds none of the detector's classes. It has labels such as "
            f"{y_id[0]!r}; expected labels from classes_, such as "
            f"{detector.classes_[0]!r}."
        )
    unclipped = detector.predict_class(features)
    with warnings.catch_warnings():  # clipped features are an array, without names
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        clipped = detector.predict_class(detector.rectify(features))
    return tuple(float(np.mean(labels == y_id)) for labels in (unclipped, clipped))
