"""Ranking metrics: FPR at a TPR, AUROC, both AUPRs, detection error.

Labels are 1 for in-distribution (ID) and -1 for out-of-distribution (OOD) samples. A
higher score means more in-distribution. Some names stand for several metrics in the
literature. The default is then the convention of the ReAct paper's code.
"""

from numbers import Real

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    make_scorer,
    roc_auc_score,
    roc_curve,
)
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from reactood._utils._estimators import checked
from reactood._utils._sklearn import Interval, StrOptions
from reactood._utils._warnings import warn

__all__ = [
    "aupr_in",
    "aupr_out",
    "auroc",
    "detection_error",
    "fpr_at_tpr",
    "ood_scorers",
]


TPR = Interval(Real, 0, 1, closed="right")


@checked(tpr=[TPR], convention=[StrOptions({"paper", "sklearn", "vim", "openood"})])
def fpr_at_tpr(y_true, y_score, *, tpr: float = 0.95, convention: str = "paper"):
    """False positive rate: share of OOD samples accepted at a given TPR.

    The threshold accepts a share `tpr` of the ID samples. With the default of 0.95,
    this is FPR95, the most common metric of OOD detection. Several conventions are in
    use.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for in-distribution (ID), -1 for out-of-distribution (OOD).

    y_score : array-like of shape (n_samples,)
        Scores: the higher, the more in-distribution.

    tpr : float, default=0.95
        The share of ID samples to accept, a fraction in (0, 1].

    convention : {"paper", "sklearn", "vim", "openood"}, default="paper"
        How the threshold is chosen, and what is counted.

        - `"paper"`: the ID score at index `round((1 - tpr) * n)` in ascending order,
          where Python's `round` rounds half to even. OOD samples strictly above it are
          accepted [1]_.
        - `"sklearn"`: the first point of :func:`sklearn.metrics.roc_curve` with a
          true positive rate of at least `tpr`. OOD samples at or above its threshold
          are accepted. With tied scores, that function leaves out points that lie on a
          straight line.
        - `"vim"`: the ID score at position `floor(tpr * n)` in descending order,
          counted from 1. OOD samples at or above it are accepted.
        - `"openood"`: a different quantity, with OOD as the positive class. It is the
          share of *ID* samples that are rejected when a share `tpr` of the *OOD*
          samples is rejected, at the first such point of
          :func:`sklearn.metrics.roc_curve`.

    Returns
    -------
    fpr : float
        A fraction in [0, 1]; the lower, the better. With the paper's convention, an
        OOD sample that ties with the threshold counts as rejected. If the threshold is
        the highest ID score and OOD samples tie with it, there is a warning.

    Raises
    ------
    ValueError
        If `y_true` lacks ID or OOD samples or holds other labels, if `tpr` is not a
        fraction, if the convention is not known, or if scores are NaN or infinite.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> from reactood.metrics import fpr_at_tpr
    >>> fpr_at_tpr([1, 1, 1, 1, -1, -1], [4.0, 3.0, 2.0, 1.0, 2.5, 0.0])
    0.5
    """
    id_scores, ood_scores = _split(y_true, y_score)
    if convention == "openood":  # swap the classes and reverse the order
        return _at_first_point(-ood_scores, -id_scores, tpr)
    if convention == "sklearn":
        return _at_first_point(id_scores, ood_scores, tpr)
    n = len(id_scores)
    if convention == "vim":
        threshold = id_scores[
            -int(tpr * n)
        ]  # position 0 accepts all: [-0] is the lowest
        return float(np.mean(ood_scores >= threshold))
    threshold = id_scores[place_of_threshold(n, tpr)]
    if threshold == id_scores[-1] and threshold in ood_scores:
        warn(
            f"The scores are tied at the top: no ID sample scores above the threshold, "
            f"{threshold:.6g}, so no OOD sample counts as accepted and the FPR is "
            "meaningless. This happens with float32 probabilities that saturate at 1.",
        )
    return float(np.mean(ood_scores > threshold))


def auroc(y_true, y_score):
    """Area under the ROC curve: how often an ID sample scores above an OOD sample.

    Ties count one half. Random scores give 0.5.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for in-distribution (ID), -1 for out-of-distribution (OOD).

    y_score : array-like of shape (n_samples,)
        Scores: the higher, the more in-distribution.

    Returns
    -------
    auroc : float
        A fraction in [0, 1]; the higher, the better.

    Raises
    ------
    ValueError
        If `y_true` lacks ID or OOD samples or holds other labels, or if scores are
        NaN or infinite.

    Examples
    --------
    >>> from reactood.metrics import auroc
    >>> auroc([1, 1, -1, -1], [3.0, 1.0, 2.0, 0.0])
    0.75
    """
    id_scores, ood_scores = _split(y_true, y_score)
    return float(roc_auc_score(*_joined(id_scores, ood_scores)))


@checked(convention=[StrOptions({"paper", "sklearn"})])
def aupr_in(y_true, y_score, *, convention: str = "paper"):
    """Area under the precision-recall curve with ID as the positive class.

    It depends on the ratio of ID to OOD samples.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for in-distribution (ID), -1 for out-of-distribution (OOD).

    y_score : array-like of shape (n_samples,)
        Scores: the higher, the more in-distribution.

    convention : {"paper", "sklearn"}, default="paper"
        `"paper"`: the trapezoidal rule, with a precision of 0 at a recall of 0, as in
        the paper's code. `"sklearn"`: average precision, without interpolation.

    Returns
    -------
    aupr : float
        A fraction in [0, 1]; the higher, the better.

    Raises
    ------
    ValueError
        If `y_true` lacks ID or OOD samples or holds other labels, if the convention
        is not known, or if scores are NaN or infinite.

    Examples
    --------
    >>> from reactood.metrics import aupr_in
    >>> aupr_in([1, 1, -1, -1], [3.0, 1.0, 2.0, 0.0], convention="sklearn")
    0.8333333333333333
    """
    id_scores, ood_scores = _split(y_true, y_score)
    if convention == "sklearn":
        return float(average_precision_score(*_joined(id_scores, ood_scores)))
    n_id, n_ood = _accepted(id_scores, ood_scores)
    some = n_id + n_ood > 0
    precision = np.append(n_id[some] / (n_id + n_ood)[some], 0.0)
    recall = np.append(n_id[some] / len(id_scores), 0.0)
    return _area(precision, recall)


@checked(convention=[StrOptions({"paper", "sklearn"})])
def aupr_out(y_true, y_score, *, convention: str = "paper"):
    """Area under the precision-recall curve with OOD as the positive class.

    It depends on the ratio of ID to OOD samples.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for in-distribution (ID), -1 for out-of-distribution (OOD).

    y_score : array-like of shape (n_samples,)
        Scores: the higher, the more in-distribution.

    convention : {"paper", "sklearn"}, default="paper"
        As in :func:`aupr_in`.

    Returns
    -------
    aupr : float
        A fraction in [0, 1]; the higher, the better.

    Raises
    ------
    ValueError
        As in :func:`aupr_in`.

    Examples
    --------
    >>> from reactood.metrics import aupr_out
    >>> aupr_out([1, 1, -1, -1], [3.0, 1.0, 2.0, 0.0], convention="sklearn")
    0.8333333333333333
    """
    id_scores, ood_scores = _split(y_true, y_score)
    if convention == "sklearn":
        return float(average_precision_score(*_joined(-ood_scores, -id_scores)))
    accepted = _accepted(id_scores, ood_scores)
    n_id, n_ood = len(id_scores) - accepted[0], len(ood_scores) - accepted[1]
    some = n_id + n_ood > 0
    precision = np.append(0.0, n_ood[some] / (n_id + n_ood)[some])
    recall = np.append(0.0, n_ood[some] / len(ood_scores))
    return _area(precision, recall)


@checked(convention=[StrOptions({"paper", "balanced"})])
def detection_error(y_true, y_score, *, convention: str = "paper"):
    """Share of errors at the best possible threshold.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for in-distribution (ID), -1 for out-of-distribution (OOD).

    y_score : array-like of shape (n_samples,)
        Scores: the higher, the more in-distribution.

    convention : {"paper", "balanced"}, default="paper"
        `"paper"`: the number of rejected ID samples and accepted OOD samples, divided
        by the number of all samples, as in the paper's code. `"balanced"`: the mean of
        the two error rates, as in ODIN [1]_. It does not depend on the ratio of ID to
        OOD samples.

    Returns
    -------
    error : float
        A fraction in [0, 0.5]; the lower, the better.

    Raises
    ------
    ValueError
        If `y_true` lacks ID or OOD samples or holds other labels, if the convention
        is not known, or if scores are NaN or infinite.

    References
    ----------
    .. [1] S. Liang, Y. Li, R. Srikant, "Enhancing The Reliability of
       Out-of-distribution Image Detection in Neural Networks", ICLR 2018,
       :arxiv:`1706.02690`.

    Examples
    --------
    >>> from reactood.metrics import detection_error
    >>> detection_error([1, 1, -1, -1], [3.0, 1.0, 2.0, 0.0])
    0.25
    """
    id_scores, ood_scores = _split(y_true, y_score)
    n_id, n_ood = _accepted(id_scores, ood_scores)
    missed = len(id_scores) - n_id
    if convention == "balanced":
        return float(np.min(missed / len(id_scores) + n_ood / len(ood_scores)) / 2)
    return float(np.min(missed + n_ood) / (len(id_scores) + len(ood_scores)))


@checked(tpr=[TPR])
def ood_scorers(*, tpr: float = 0.95):
    """Make scorers of all metrics for scikit-learn's cross-validation.

    As scikit-learn requires, a greater score is better. Losses are negated, and their
    names begin with `neg_`.

    Parameters
    ----------
    tpr : float, default=0.95
        The share of ID samples to accept in `neg_fpr_at_tpr`, a fraction in (0, 1].

    Returns
    -------
    scorers : dict of callable
        `"auroc"`, `"aupr_in"`, `"aupr_out"`, `"neg_fpr_at_tpr"` and
        `"neg_detection_error"`, in the paper's conventions. Each takes a fitted
        detector with `decision_function`, `X`, and `y` of 1 (ID) and -1 (OOD).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.model_selection import StratifiedKFold, cross_validate
    >>> from reactood.metrics import ood_scorers
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(90, 2)), rng.normal(8, 1, size=(30, 2))])
    >>> y = np.repeat([1, -1], [90, 30])
    >>> cv = StratifiedKFold(3, shuffle=True, random_state=0)
    >>> forest = IsolationForest(random_state=0)
    >>> results = cross_validate(forest, X, y, scoring=ood_scorers(), cv=cv)
    >>> bool(results["test_auroc"].mean() > 0.8)
    True
    """
    losses = {
        "neg_fpr_at_tpr": (fpr_at_tpr, {"tpr": tpr}),
        "neg_detection_error": (detection_error, {}),
    }
    gains = {"auroc": auroc, "aupr_in": aupr_in, "aupr_out": aupr_out}
    response = {"response_method": "decision_function"}
    return {name: make_scorer(metric, **response) for name, metric in gains.items()} | {
        name: make_scorer(metric, greater_is_better=False, **response, **options)
        for name, (metric, options) in losses.items()
    }


def marks_of(n_id, n_ood):
    """Return labels of so many ID samples, 1, and after them OOD samples, -1."""
    return np.repeat([1, -1], [n_id, n_ood])


def place_of_threshold(n: int, tpr: float) -> int:
    """Return the index of the paper's threshold among ``n`` ascending ID scores."""
    # Without the inner rounding, 1 - 0.95 is a little more than 0.05.
    return min(round(round(1 - tpr, 12) * n), n - 1)


def _split(y_true, y_score):
    """Return the sorted scores of ID and of OOD samples."""
    y_true = column_or_1d(np.asarray(y_true))
    y_score = column_or_1d(np.asarray(y_score))
    if y_score.dtype.kind == "f" and (unknown := np.isnan(y_score)).any():
        raise ValueError(
            f"y_score holds NaN for {unknown.sum()} of {len(y_score)} samples; the "
            f"first is sample number {unknown.argmax()}. A detector with "
            "on_nan='reject' returns NaN for rows that hold NaN. Leave those samples "
            "out."
        )
    y_score = check_array(
        y_score, ensure_2d=False, dtype=np.float64, input_name="y_score"
    )
    check_consistent_length(y_true, y_score)
    labels = np.unique(y_true)
    if not np.array_equal(labels, [-1, 1]):
        raise ValueError(
            f"y_true holds the labels {labels.tolist()}, expected both 1 for "
            "in-distribution and -1 for out-of-distribution samples"
            + (
                ". In cross-validation, each test fold needs both: use "
                "StratifiedKFold(5, shuffle=True)."
                if np.isin(labels, [-1, 1]).all()
                else ": numpy.where(is_ood, -1, 1). `fit` leaves out only the rows "
                "labelled -1, and learns from all others."
            )
        )
    return np.sort(y_score[y_true == 1]), np.sort(y_score[y_true == -1])


def _joined(positive, negative):
    """Return labels of 1 and 0, and the scores, as scikit-learn's metrics take them."""
    y_true = np.repeat([1, 0], [len(positive), len(negative)])
    return y_true, np.concatenate([positive, negative])


def _accepted(id_scores, ood_scores):
    """Count the accepted ID and OOD samples at each threshold, in ascending order.

    The first threshold accepts all samples, the last one none. Tied samples are
    accepted together.
    """
    values = np.unique(np.concatenate([id_scores, ood_scores]))
    n_id, n_ood = (
        len(scores) - np.append(0, np.searchsorted(scores, values, side="right"))
        for scores in (id_scores, ood_scores)
    )
    return n_id, n_ood


def _at_first_point(positive, negative, tpr):
    """Return the false positive rate at the first ROC point that reaches ``tpr``."""
    y_true, y_score = _joined(positive, negative)
    fprs, tprs, _ = roc_curve(y_true, y_score)
    return float(fprs[np.argmax(tprs >= tpr)])


def _area(height, position):
    widths = np.abs(np.diff(position))
    return float(np.sum(widths * (height[1:] + height[:-1]) / 2))
