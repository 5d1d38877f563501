"""Divide the distance of a score from those of ID rows into additive parts."""

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import Bunch, gen_batches

from reactood._scoring._blocks import rows_per_block
from reactood._scoring._scores import score_of
from reactood.inspection._common import activations, id_activations
from reactood.inspection._path import mean_gradient, values

COMPLETE = 1e-6  # residual that is accepted, relative to the sum of all parts


def explain_decision(estimator, X, X_id, *, n_references=16, n_nearest=5):
    """Divide the distance of each score from a typical in-distribution score.

    A row is rejected because its score is far below the scores of in-distribution (ID)
    rows. The distance is divided in two ways: among the units, and among the classes.
    In both, one more part is that of the clip. The parts of a row add up to its
    distance: nothing is left over, and nothing counts twice.

    Parameters
    ----------
    estimator : ReActDetector or Pipeline
        A fitted :class:`~reactood.ReActDetector` with a linear head, or with none, or a
        pipeline that ends in one. All scores of :mod:`reactood.scores` can be divided,
        and every score function that torch can differentiate.

    X : array-like of shape (n_samples, n_features), or images
        What to explain. Features for a detector, images for a pipeline.

    X_id : array-like of shape (n_id, n_features), or images
        ID data, best data that neither the classifier nor the detector was fitted to.
        To compare with the images of one class, pass only these.

    n_references : int, default=16
        Number of ID rows to compare with, at least 1: those in the middle, by their
        score. All, where there are fewer. The time grows with it.

    n_nearest : int, default=5
        Number of most similar ID rows to find for each row, at least 0. All, where
        there are fewer. They have no part in the explanation, and show what the
        network takes a row for.

    Returns
    -------
    explanation : Bunch
        It holds float64 arrays, in units of the score:

        total : ndarray of shape (n_samples,)
            The score minus the reference: negative where a row is less
            in-distribution than a typical ID row.
        units : ndarray of shape (n_samples, n_features)
            The part of each unit, without the clip. With `clip`, they add up to
            `total`.
        classes : ndarray of shape (n_samples, n_classes)
            The part of the logit of each class, without the clip. With `clip`, they
            add up to `total`.
        clip : ndarray of shape (n_samples,)
            The part of the clip: by how much it changes the score of the row, minus by
            how much it changes the scores of the reference rows.
        clip_units : ndarray of shape (n_samples, n_features)
            The part of the clip, by unit: they add up to `clip`.
        score : ndarray of shape (n_samples,)
            The scores.
        residual : ndarray of shape (n_samples,)
            What the parts lack of `total`: rounding errors.
        nearest_rows : ndarray of shape (n_samples, n_nearest), of integers
            The rows of `X_id` whose features, without the clip, have the smallest
            angle to those of the row, the most similar first.
        nearest_similarity : ndarray of shape (n_samples, n_nearest)
            The cosines of these angles: 1 where the features are the same but for a
            factor, and 0 where they have nothing in common.

        And of the ID rows:

        reference : float
            The mean score of the reference rows, which is close to the median of all.
        reference_rows : ndarray of shape (n_references,)
            Which rows of `X_id` these are.
        threshold : float
            The detector's `offset_`: rows with lower scores are rejected.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the detector is not fitted.
    TypeError
        If the estimator is not, and does not end in, a ReActDetector.
    ValueError
        If the head is not linear, if `n_references` is below 1 or `n_nearest` below 0,
        if the score function has no gradient, or if the parts do not add up to `total`
        to one millionth of their sum without signs, because the score function is not
        continuous. So it is with `"gen"` where a class has nearly all probability: next
        to 1, numbers of float64 are too far apart for it.

    Warns
    -----
    UserWarning
        If rows of `X_id` are left out, as their images could not be read.

    See Also
    --------
    DecisionDisplay : Draws the largest parts for one sample.
    explain_clipping : What the clip changes, which is not why a row is rejected.

    Notes
    -----
    With `f` for the score as a function of the logits `z = W h + b`, and a reference
    row `r`, the part of unit `i` is

    `(h[i] - r[i]) * sum_k g[k] * W[k, i]`,

    and the part of class `k` is `(z[k] - z_r[k]) * g[k]`. In both, `g[k]` is the
    derivative of `f` with respect to logit `k`, averaged over the straight line from
    `r` to `h`. This is integrated gradients, equation 1 of [1]_. Of all methods that
    integrate along a path, it is the one that treats all units alike (Theorem 1 there),
    and its parts add up to `f(h) - f(r)` (Proposition 1). The parts are averaged over
    the reference rows, as in expected gradients [2]_, so that no part is due to the
    peculiarities of one row. The mean row would be no substitute: there is no image
    like it, and its score is not typical.

    The clip's part is divided in the same way, along the lines from clipped to
    unclipped features, of the row and of the reference rows. For the energy, it is the
    contribution of :func:`explain_clipping` at the reference rows less that of the row.

    For `"max_logit"` and `"centered_max_logit"`, the average is exact: their gradient
    is constant between the points where another logit becomes the largest, and these
    points are computed. For all other scores, a quadrature is refined until the
    integral equals the change of the score. For `"gen"` with more than 100 classes,
    this takes many seconds for each row, because its gradient jumps where the 100
    likeliest classes change. Everything is computed in float64. Scores of float32
    features differ from those of `score_samples` by the rounding of float32.

    **What it does not say.** It compares with typical ID rows, and other reference rows
    would give other parts: a unit gets a part where its activation differs from theirs
    and the score depends on it. It does not say what would happen if one unit were
    changed alone, nor what in the image activates a unit. A class whose logit is lower
    than at the reference rows gets a part even if nothing in the image has to do with
    it.

    References
    ----------
    .. [1] M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks",
       ICML 2017, :arxiv:`1703.01365`.
    .. [2] G. Erion, J. D. Janizek, P. Sturmfels, S. M. Lundberg, S.-I. Lee, "Improving
       performance of deep learning models with axiomatic attribution priors and
       expected gradients", Nature Machine Intelligence 2021, :arxiv:`1906.10670`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import explain_decision
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> photos = digits.ood["photo_china"][:5]
    >>> explained = explain_decision(detector, photos, digits.X_test)
    >>> parts = explained.units.sum(axis=1) + explained.clip
    >>> bool(np.allclose(parts, explained.total))
    True
    >>> parts = explained.classes.sum(axis=1) + explained.clip
    >>> bool(np.allclose(parts, explained.total))
    True
    """
    if n_references < 1:
        raise ValueError(f"n_references={n_references}; expected at least 1.")
    if n_nearest < 0:
        raise ValueError(f"n_nearest={n_nearest}; expected at least 0.")
    detector, features, clipped = activations(estimator, X)
    _, id_features, id_clipped, read = id_activations(estimator, X_id)
    rows = middle_rows(detector.score_samples(id_features), n_references)
    explained = divide(detector, features, clipped, id_features[rows], id_clipped[rows])
    nearest, similarity = nearest_rows(features, id_features, n_nearest)
    return Bunch(
        reference_rows=read[rows],
        threshold=detector.offset_,
        nearest_rows=read[nearest],
        nearest_similarity=similarity,
        **explained,
    )


def middle_rows(scores, n):
    """Return the n rows in the middle of the scores, in the order of the rows."""
    first = max(0, (len(scores) - n) // 2)
    return np.sort(np.argsort(scores, kind="stable")[first : first + n])


def nearest_rows(features, id_features, n):
    """Return the n most similar ID rows of each row, and the cosines to them."""
    n = min(n, len(id_features))
    if n == 0:
        empty = np.empty((len(features), 0))
        return empty.astype(np.intp), empty
    neighbors = NearestNeighbors(n_neighbors=n, metric="cosine").fit(id_features)
    distances, rows = neighbors.kneighbors(features)
    return rows, 1.0 - distances.astype(np.float64)


def divide(detector, features, clipped, references, clipped_references):
    """Divide the distances of rows from reference rows."""
    weight, bias = weights_of(detector)
    score = score_of(detector.score_function, detector.temperature)
    features, clipped, references, clipped_references = (
        np.asarray(rows, np.float64)
        for rows in (features, clipped, references, clipped_references)
    )

    def logits(rows):
        return rows @ weight.T + bias

    def parts(start, end):
        """Return the parts of the units and of the classes, from start to end."""
        origin, step = logits(start), (end - start) @ weight.T
        mean = mean_gradient(score, origin, step, detector.temperature)
        return (end - start) * (mean @ weight), step * mean

    units, classes = np.empty_like(features), np.empty((len(features), len(weight)))
    many = len(references)
    wide = max(features.shape[1], len(weight))
    for some in gen_batches(len(features), max(1, rows_per_block(wide) // many)):
        ends = np.repeat(features[some], many, axis=0)
        found = parts(np.tile(references, (len(ends) // many, 1)), ends)
        for result, part in zip((units, classes), found, strict=True):
            result[some] = part.reshape(-1, many, part.shape[1]).mean(axis=1)
    clip_units = parts(clipped_references, references)[0].mean(axis=0)
    clip_units = clip_units - parts(clipped, features)[0]

    scores, reference_scores = (
        values(score, logits(rows)) for rows in (clipped, clipped_references)
    )
    change = scores - values(score, logits(features))
    reference_change = reference_scores - values(score, logits(references))
    total, clip = scores - reference_scores.mean(), change - reference_change.mean()
    residual = total - units.sum(axis=1) - clip
    _check_complete(residual, units, clip, clip_units)
    return Bunch(
        total=total,
        units=units,
        classes=classes,
        clip=clip,
        clip_units=clip_units,
        score=scores,
        reference=reference_scores.mean().item(),
        residual=residual,
    )


def weights_of(detector):
    """Return the weights and biases of a linear head in float64."""
    if hasattr(detector, "coef_"):
        pair = detector.coef_, detector.intercept_
        return tuple(np.asarray(part, np.float64) for part in pair)
    if detector.head is not None:
        raise ValueError(
            f"The detector has no coef_ (head: {type(detector.head).__name__}); "
            "expected a linear head, such as (weight, bias) or torch.nn.Linear, "
            "because the parts are computed from its weights."
        )
    # The features are logits; one stands for two, as everywhere.
    n = detector.n_features_in_
    weight = np.array([[-0.5], [0.5]]) if n == 1 else np.eye(n)
    return weight, np.zeros(len(weight))


def _check_complete(residual, units, clip, clip_units):
    """Raise where the parts do not add up."""
    size = np.abs(units).sum(axis=1) + np.abs(clip_units).sum(axis=1)
    off = np.maximum(np.abs(residual), np.abs(clip - clip_units.sum(axis=1)))
    bad = ~(off <= COMPLETE * size + 16 * np.finfo(np.float64).eps)
    if bad.any():
        row = bad.argmax()
        raise ValueError(
            f"The parts of row {row} add up to {residual[row]:.3g} less than the "
            f"distance of its score; expected less than {COMPLETE * size[row]:.1g}. Is "
            "the score function continuous, and is its gradient right and finite?"
        )
