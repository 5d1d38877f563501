"""ReActDetectorCV: chooses the percentile by cross-validation with OOD rows."""

import inspect
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.metrics import get_scorer
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.pipeline import Pipeline

from reactood._scoring._base import BaseReActDetector
from reactood._scoring._clip import learn_clip, learn_clips
from reactood._scoring._heads import make_head
from reactood._scoring._scores import SCORES
from reactood._utils._estimators import as_a_whole
from reactood._utils._labels import id_rows
from reactood._utils._sklearn import Interval, StrOptions, _fit_context
from reactood._utils._warnings import warn
from reactood.detector import ReActDetector
from reactood.metrics import auroc, ood_scorers
from reactood.model_selection._candidates import results_table

__all__ = ["ReActDetectorCV"]
PERCENTILES = 10, 65, 80, 85, 90, 95, 99  # the paper's
SHORT_NAMES = {"fpr95": "neg_fpr_at_tpr", "detection_error": "neg_detection_error"}


class ReActDetectorCV(BaseReActDetector):
    """ReAct with a percentile chosen by cross-validation.

    It makes the same choice as a :class:`~sklearn.model_selection.GridSearchCV` of
    :class:`~reactood.ReActDetector` over `percentile`, in a fraction of the time: each
    fold is read once for the clips of all candidates, and no candidate is fitted.

    It needs some out-of-distribution (OOD) rows, labelled -1, to compare the
    candidates. Without any, use :func:`~reactood.model_selection.tune_percentile`.

    Parameters
    ----------
    head : None, (weight, bias), torch.nn.Module, classifier, callable or Pipeline, \
            default=None
        What maps features to logits, as in :class:`~reactood.ReActDetector`. Or a
        pipeline on images that ends in one, as :func:`~reactood.make_react_pipeline`
        makes it: then `X` is images everywhere, which pass through the network once in
        `fit`. The head is that of the pipeline's detector, whose other parameters do
        not count.

    percentiles : sequence of float or None, default=(10, 65, 80, 85, 90, 95, 99)
        The candidates, in percent; None means no clipping. The default is the paper's
        grid [1]_.

    scoring : str or callable, default="fpr95"
        The metric that compares the candidates: `"fpr95"` or any other of
        :func:`~reactood.metrics.ood_scorers`, the name of a scikit-learn scorer such
        as `"roc_auc"`, or a scorer that uses `decision_function`.

    cv : int, splitter or iterable, default=5
        The folds. A number means that many stratified folds, shuffled with a fixed
        seed. The test rows of each fold must include in-distribution (ID) and OOD rows.

    lower_percentile : float, default=None
        As in :class:`~reactood.ReActDetector`.

    per_unit : bool, default=False
        Whether to learn one clip per feature instead of one for all.

    score_function : str, callable or list of these, default="energy"
        The function that turns logits into a score: the higher, the more
        in-distribution; names as in :class:`~reactood.ReActDetector`. Of a list, each
        is tried with each percentile, and the best pair is chosen.

    temperature : float, default=1.0
        The temperature of the named scores.

    contamination : float, default=0.05
        The share of the ID training rows that may be flagged as OOD, in (0, 0.5].

    batch_size : int, default=None
        Rows per block of computation; None chooses a number.

    device : str or torch.device, default=None
        The device to compute on; None uses the device of `X`.

    on_nan : {"raise", "reject"}, default="raise"
        What to do with rows that hold NaN: raise an error, or give them a score of NaN
        and -1 from `predict`. With "reject", `fit` ignores ID and OOD rows with NaN.

    Attributes
    ----------
    best_percentile_ : float or None
        The candidate with the best mean score, in percent; the first if several are
        equal.

    best_score_function_ : str or callable
        The score function of the best candidate.

    best_score_ : float
        Mean score of the best candidate over the folds: the higher, the better. Losses
        are negated, so that `"fpr95"` gives minus a fraction.

    best_index_ : int
        Index of the best candidate in `percentiles` and in `cv_results_`.

    cv_results_ : dict of ndarray
        As in `GridSearchCV`: `"param_percentile"`, for a list of scores
        `"param_score_function"`, `"split0_test_score"` and so on,
        `"mean_test_score"`, `"std_test_score"` and `"rank_test_score"`; `"params"`, a
        list of dicts; and `"failure"`, the reason why the score of a candidate is NaN,
        or "". Two examples: the percentile is below the share of zeros, so that the
        clip is 0; or the percentile is not above `lower_percentile`.

    n_splits_ : int
        Number of folds.

    steps_ : Pipeline
        The fitted steps from images to features, where a pipeline is given.

    activation_threshold_, lower_activation_threshold_, clipped_share_, offset_, \
    classes_, coef_, intercept_, n_samples_seen_, n_features_in_, feature_names_in_
        As in :class:`~reactood.ReActDetector`, learned with the best percentile from
        all ID rows.

    See Also
    --------
    reactood.model_selection.tune_percentile : Chooses without OOD data.
    sklearn.model_selection.GridSearchCV : Searches over any other parameter too.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import ReActDetectorCV
    >>> rng = np.random.default_rng(0)
    >>> X_id, X_ood = rng.gamma(2, size=(200, 8)), rng.gamma(1, 3, size=(50, 8))
    >>> head = rng.normal(size=(3, 8)), np.zeros(3)
    >>> X, y = np.concatenate([X_id, X_ood]), np.repeat([1, -1], [200, 50])
    >>> detector = ReActDetectorCV(head, scoring="roc_auc").fit(X, y)
    >>> detector.best_percentile_ in (10, 65, 80, 85, 90, 95, 99)
    True
    >>> detector.predict(X_id).shape
    (200,)
    """

    # With metadata routing, groups go to an outer splitter unless fit requests them.
    __metadata_request__fit = {"groups": False}  # noqa: RUF012

    _parameter_constraints: ClassVar[dict] = {
        **BaseReActDetector._parameter_constraints,
        "percentiles": ["array-like"],
        "scoring": [str, callable],
        "cv": [Interval(Integral, 2, None, closed="left"), "cv_object"],
        "score_function": [StrOptions(set(SCORES)), callable, list, tuple],
    }

    def __init__(
        self,
        head=None,
        *,
        percentiles=PERCENTILES,
        scoring="fpr95",
        cv=5,
        lower_percentile=None,
        per_unit=False,
        score_function="energy",
        temperature=1.0,
        contamination=0.05,
        batch_size=None,
        device=None,
        on_nan="raise",
    ):
        self.head = head
        self.percentiles = percentiles
        self.scoring = scoring
        self.cv = cv
        self.lower_percentile = lower_percentile
        self.per_unit = per_unit
        self.score_function = score_function
        self.temperature = temperature
        self.contamination = contamination
        self.batch_size = batch_size
        self.device = device
        self.on_nan = on_nan

    @_fit_context(prefer_skip_nested_validation=False)  # of the head
    @as_a_whole
    def fit(self, X, y, *, groups=None):
        """Choose the percentile, then learn the clip and the decision threshold.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,)
            -1 for OOD rows, which only serve to compare the candidates; 1, or class
            labels, for ID rows.

        groups : array-like of shape (n_samples,), default=None
            Passed to the splitter.

        Returns
        -------
        self : ReActDetectorCV
            The fitted detector.

        Raises
        ------
        ValueError
            If there are no OOD rows, if a fold lacks ID or OOD rows, if no candidate
            can be used, or for the reasons given in :meth:`ReActDetector.fit`.
        """
        X = self._validate(X, reset=True)
        y, rows = id_rows(y, X)
        percentiles, functions = as_percentiles(self.percentiles), self._functions()
        if rows is None:
            raise ValueError(_no_ood(y, len(X)))
        measure = measure_of(self.scoring)
        labels = np.where(rows, 1, -1)
        known = self._without_nan(X, np.ones(len(X), bool))
        rows = rows & known
        splits = list(self._splits(X, labels, known, groups))
        if not splits:
            raise ValueError(f"cv={self.cv!r} has no folds; expected at least one.")
        trains, tests = zip(*splits, strict=True)
        all_clips = learn_clips(
            X,
            [train & rows for train in trains],
            percentiles,
            lower_percentile=self.lower_percentile,
            per_unit=self.per_unit,
        )
        folds = []
        for train, test, clips in zip(trains, tests, all_clips, strict=True):
            head = make_head(self._given_head(), X, y, train & rows)
            of_functions = [
                _score_fold(
                    self._scorer(head, function), X, test, labels, clips, measure
                )
                for function in functions
            ]
            folds.append(np.concatenate(of_functions))
        scores, aurocs = np.moveaxis(np.array(folds), -1, 0)
        problems = [
            next((clip.problem for clip in clips if clip.problem), "")
            for clips in zip(*all_clips, strict=True)
        ]
        candidates = [
            {"percentile": percentile, "score_function": function}
            if self._chooses_function()
            else {"percentile": percentile}
            for function in functions
            for percentile in percentiles
        ]
        results = results_table(candidates, scores, problems * len(functions))
        if np.isnan(results["mean_test_score"]).all():
            reason = f"scoring={self.scoring!r} returned NaN for all of them."
            raise ValueError(
                f"None of percentiles={percentiles} can be used. "
                + next(filter(None, problems), reason)
            )
        if np.nanmax(aurocs) < 0.5:
            warn(
                f"OOD rows score higher than ID rows with every candidate, in every "
                f"fold: the best AUROC is {np.nanmax(aurocs):.3f}. Are the labels the "
                "wrong way round (1 is ID, -1 is OOD), or the scores of a custom "
                "score_function (the higher, the more in-distribution)?",
            )
        best = int(np.argmin(results["rank_test_score"]))
        percentile = candidates[best]["percentile"]
        clip = learn_clip(
            X,
            rows,
            percentile=percentile,
            threshold=None,
            lower_percentile=self.lower_percentile,
            per_unit=self.per_unit,
        )
        self.best_score_function_ = functions[best // len(percentiles)]
        self._learn(X, make_head(self._given_head(), X, y, rows), clip, rows)
        self.cv_results_, self.n_splits_ = results, len(folds)
        self.best_index_, self.best_percentile_ = best, percentile
        self.best_score_ = float(results["mean_test_score"][best])
        return self

    def _validate(self, X, *, reset):
        """Return features: of images, if a pipeline is given for a head."""
        if _is_pipeline(self.head):
            if reset:
                self.steps_ = clone(self.head[:-1])
                X = self.steps_.fit_transform(X)
            else:
                X = self.steps_.transform(X)
        return super()._validate(X, reset=reset)

    def _given_head(self):
        return self.head[-1].head if _is_pipeline(self.head) else self.head

    def _scorer(self, head, function=None):
        scorer = super()._scorer(head)
        scorer.score_function = function or self.best_score_function_
        return scorer

    def _chooses_function(self):
        return isinstance(self.score_function, list | tuple)

    def _functions(self):
        if not self._chooses_function():
            return [self.score_function]
        functions = list(self.score_function)
        for function in functions:
            if not callable(function) and function not in SCORES:
                raise ValueError(
                    f"score_function holds {function!r}; expected functions of logits, "
                    f"or names among {', '.join(SCORES)}."
                )
        if not functions:
            raise ValueError("score_function is empty; expected at least one.")
        return functions

    def _splits(self, X, labels, known, groups):
        """Yield, for each fold, masks of the train and test rows that are ``known``."""
        cv = self.cv
        if isinstance(cv, Integral):
            cv = StratifiedKFold(cv, shuffle=True, random_state=0)
        cv = check_cv(cv)
        for fold, sides in enumerate(cv.split(np.zeros(len(X)), labels, groups)):
            train, test = (np.zeros(len(X), bool) for _ in sides)
            for mask, index in zip((train, test), sides, strict=True):
                if len(np.unique(index)) < len(index):
                    raise ValueError(
                        f"Fold {fold} holds a row more than once, but repeated rows "
                        "count only once here. Use a splitter that repeats no row, or "
                        "GridSearchCV(ReActDetector(...), {'percentile': [...]})."
                    )
                mask[index] = True
                mask &= known
            for kind, expected, where in (
                ("in-distribution (1)", train & (labels == 1), "train"),
                ("in-distribution (1)", test & (labels == 1), "test"),
                ("out-of-distribution (-1)", test & (labels == -1), "test"),
            ):
                if not expected.any():
                    raise ValueError(
                        f"Fold {fold} has no {kind} rows on its {where} side. Rows "
                        "sorted by label need shuffled, stratified folds: "
                        "cv=StratifiedKFold(5, shuffle=True)."
                    )
            yield train, test


def as_percentiles(percentiles):
    """Return candidates as a list, or raise where one of them is no percentile."""
    candidates = list(percentiles)
    interval = Interval(Real, 0, 100, closed="right")
    for percentile in candidates:
        if percentile is not None and not interval.is_satisfied_by(percentile):
            raise ValueError(
                f"percentiles holds {percentile!r}; expected numbers in percent, above "
                "1 and at most 100, or None for no clipping."
            )
    if not candidates:
        raise ValueError("percentiles is empty; expected at least one candidate.")
    return candidates


def measure_of(scoring):
    """Return the function that judges a candidate by labels and scores."""
    scorer = scoring
    if not callable(scorer):
        ours = ood_scorers()
        name = SHORT_NAMES.get(scorer, scorer)
        scorer = ours[name] if name in ours else get_scorer(name)
    try:
        inspect.signature(scorer).bind(None, None, None)
    except TypeError:
        raise TypeError(
            f"scoring={scoring!r} does not take (estimator, X, y) as a scorer does; "
            "expected a name, such as 'roc_auc' or 'fpr95', or a scorer. Make one of a "
            "metric: make_scorer(metric, response_method='decision_function')."
        ) from None
    except ValueError:  # a builtin without a signature
        pass

    def measure(labels, scores):
        try:
            return scorer(_Scored(), scores, labels)
        except AttributeError as error:
            raise ValueError(
                f"scoring={scoring!r} uses more than decision_function, but a "
                "candidate has no other method here. Use a scorer that needs only "
                "scores, such as 'roc_auc' or 'fpr95', or "
                "GridSearchCV(ReActDetector(...), {'percentile': [...]})."
            ) from error

    return measure


def _score_fold(scorer, X, test, labels, clips, measure):
    """Return the metric and the AUROC of each clip: (n_clips, 2), NaN if unusable."""
    usable = [i for i, clip in enumerate(clips) if not clip.problem]
    found = np.full((len(clips), 2), np.nan)
    scores = scorer.scores(X, [clips[i] for i in usable], test)
    for i, of_clip in zip(usable, scores, strict=True):
        found[i] = measure(labels[test], of_clip), auroc(labels[test], of_clip)
    return found


class _Scored(OutlierMixin, BaseEstimator):
    """Stands in for a detector in scikit-learn's scorers: its X is the scores."""

    def decision_function(self, scores):
        return scores

    score_samples = decision_function


def _is_pipeline(head):
    """Return whether ``head`` is a pipeline from images to a detector."""
    return (
        isinstance(head, Pipeline)
        and isinstance(head[-1], ReActDetector)
        and len(head) > 1
    )


def _no_ood(y, n_samples):
    got = "no y" if y is None else f"y with labels {np.unique(y)[:5].tolist()}"
    return (
        f"Got {got} (n_samples={n_samples}); expected some rows labelled -1, "
        "out-of-distribution, to judge the percentiles by: numpy.where(is_ood, -1, 1). "
        "Without OOD data, use reactood.model_selection.tune_percentile."
    )
