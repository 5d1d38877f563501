"""How well in-distribution is told from out-of-distribution."""

import warnings

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d

__all__ = ["fpr_at_tpr"]


def fpr_at_tpr(y_true, y_score, *, tpr: float = 0.95) -> float:
    """Share of OOD samples accepted where a share `tpr` of ID samples is accepted.

    FPR95, the field's usual number, in the convention of the ReAct paper's code: the
    threshold is the ID score at index `round((1 - tpr) * n)` in ascending order, and
    an OOD sample is accepted if it scores strictly above.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for in-distribution (ID), -1 for out-of-distribution (OOD).

    y_score : array-like of shape (n_samples,)
        Scores: the higher, the more in-distribution.

    tpr : float, default=0.95
        The share of ID samples to accept, a fraction in (0, 1].

    Returns
    -------
    fpr : float
        A fraction in [0, 1]; the lower, the better. Ties with the threshold count as
        rejected; if that is all of the top, a warning says so.

    Raises
    ------
    ValueError
        If `y_true` lacks ID or OOD samples or holds other labels, if `tpr` is not a
        fraction, or if scores are NaN or infinite.

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
    y_true = column_or_1d(np.asarray(y_true))
    y_score = check_array(np.asarray(y_score), ensure_2d=False, dtype=np.float64)
    y_score = column_or_1d(y_score)
    check_consistent_length(y_true, y_score)
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr={tpr} must be a fraction in (0, 1]; 95 % is tpr=0.95.")
    labels = np.unique(y_true)
    if not np.array_equal(labels, [-1, 1]):
        raise ValueError(
            f"y_true holds the labels {labels.tolist()}, wanted both 1 for "
            "in-distribution and -1 for out-of-distribution samples."
        )
    id_scores = np.sort(y_score[y_true == 1])
    threshold = id_scores[min(round((1 - tpr) * len(id_scores)), len(id_scores) - 1)]
    if threshold == id_scores[-1] and threshold in y_score[y_true == -1]:
        warnings.warn(
            f"The scores are tied at the top: no ID sample scores above the threshold, "
            f"{threshold:.6g}, so no OOD sample counts as accepted and the FPR says "
            "nothing. float32 probabilities that saturate at 1 do this.",
            UserWarning,
            stacklevel=2,
        )
    return float(np.mean(y_score[y_true == -1] > threshold))
