"""ReAct as a scikit-learn outlier detector."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from reactood._scoring._blocks import (
    Workspace,
    check_finite,
    nan_rows,
    rows_per_block,
    take_rows,
    tensor_blocks,
)
from reactood._scoring._clip import learn_clip, rectify
from reactood._scoring._heads import LinearHead, make_head
from reactood._scoring._scores import (
    SCORES,
    check_result,
    check_scores,
    check_spread,
    common_part,
)
from reactood._utils._ambient import without_autocast
from reactood._utils._display import Shown
from reactood._utils._estimators import FractionHints, as_a_whole
from reactood._utils._labels import check_marks, id_rows
from reactood._utils._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    validate_array,
)
from reactood._utils._tensors import as_tensor, choose_device

__all__ = ["ReActDetector"]


class ReActDetector(FractionHints, Shown, OutlierMixin, BaseEstimator):
    """Detects out-of-distribution inputs by rectified activations (ReAct).

    A classifier is overconfident on inputs unlike its training data because some
    units of its last hidden layer are activated far beyond what in-distribution (ID)
    data does to them. ReAct clips these activations at a percentile learned from ID
    data, passes them through the classifier's own head and scores the logits [1]_.

    The input is a matrix of features, the input of the classifier's last linear
    layer: :class:`~reactood.TorchFeatureExtractor` makes it from images, and
    :func:`~reactood.make_react_pipeline` joins the two. `fit` learns the clip and the
    decision threshold from ID data. It does not train the backbone, and it needs no
    out-of-distribution (OOD) data.

    Parameters
    ----------
    head : None, (weight, bias), torch.nn.Module, classifier or callable, default=None
        What maps features to logits.

        - None: `X` already holds logits. `percentile` then clips logits, which is not
          ReAct: give `percentile=None` for the plain scores.
        - `(weight, bias)`: arrays of shapes (n_classes, n_features) and (n_classes,),
          as in :class:`torch.nn.Linear`.
        - `torch.nn.Module`: a linear layer or any other module. It is copied and
          never altered.
        - A linear scikit-learn classifier: one wrapped in
          :class:`~sklearn.frozen.FrozenEstimator` is used as it is; any other is
          cloned and trained in `fit` on the class labels in `y` (a fitted one is
          used as it is where `y` holds no class labels).
        - A callable without arguments that returns one of these.

        A head with one output, and `X` with one column of logits, are those of a
        classifier of two classes: the logit z becomes -z/2 and z/2.

    percentile : float or None, default=90.0
        The percentile of the ID activations at which they are clipped, in percent:
        above 1 and at most 100, not a fraction. None for no clipping, which gives
        the plain score that ReAct is compared with.

    threshold : float or array-like of shape (n_features,), default=None
        A clip given by hand. It overrides `percentile`.

    lower_percentile : float, default=None
        If given, activations are also clipped from below, at this percentile of the
        ID activations, in percent: in [0, 100). Meant for signed features, such as
        those of transformers.

    per_unit : bool, default=False
        Whether to learn one clip per feature instead of one for all.

    score_function : {"energy", "msp", "max_logit", "entropy"} or callable, \
            default="energy"
        What turns logits into a score, the higher, the more in-distribution:
        `T * logsumexp(logits / T)`, the maximum softmax probability, the largest
        logit, or the negative entropy of the softmax, in nats. A callable takes
        logits, a tensor of shape (n_samples, n_classes), and returns a tensor of
        shape (n_samples,); it runs in torch's inference mode, and the memory of the
        logits serves the next rows as soon as it returns.

    temperature : float, default=1.0
        The temperature `T` > 0 of `"energy"`, `"msp"` and `"entropy"`.

    contamination : float, default=0.05
        The share of the ID training rows that may be flagged as OOD, in (0, 0.5]. It
        sets `offset_`; 0.05 keeps 95 % of the rows given to `fit`, as usual in the
        field, and of other ID data if those rows are new to the classifier too: on
        its own training images a classifier is surer than on any other.

    batch_size : int, default=None
        Rows per block of computation; None chooses blocks that stay in the cache.
        Memory depends on it, and the last bits of the scores.

    device : str or torch.device, default=None
        Where to compute; None stays where `X` is, `"auto"` takes cuda, then mps, then
        cpu.

    on_nan : {"raise", "reject"}, default="raise"
        What becomes of rows that hold NaN, such as those of images that could not be
        read: an error, or a score of NaN and -1 from `predict`. With "reject", `fit`
        leaves them out, like rows where `y` is -1. inf is an error in any case.

    Attributes
    ----------
    activation_threshold_ : float or ndarray of shape (n_features,)
        The clip: `numpy.percentile(X, percentile)` over the ID rows; infinite without
        clipping.

    lower_activation_threshold_ : float or ndarray of shape (n_features,)
        The lower clip; minus infinity unless `lower_percentile` is given.

    clipped_share_ : float
        The share of the ID training activations that the clip changes, a fraction:
        about `1 - percentile / 100`.

    offset_ : float
        `decision_function(X) = score_samples(X) - offset_`. The share `contamination`
        of the ID training rows scores below it.

    classes_ : ndarray of shape (n_classes,)
        The class labels that `predict_class` returns: 0, 1, ... unless the head
        knows others.

    coef_ : ndarray of shape (n_classes, n_features)
        Weights of a linear head.

    intercept_ : ndarray of shape (n_classes,)
        Biases of a linear head.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if `X` has string column names.

    See Also
    --------
    make_react_pipeline : From images to decisions.
    TorchFeatureExtractor : Features of a torch classifier.
    sklearn.ensemble.IsolationForest : An outlier detector that needs no classifier.

    Notes
    -----
    Features are expected to be pooled, one number per unit. With the default
    `percentile`, nothing below the clip changes; with `percentile=100` the training
    rows score as without clipping. float32 features are computed in float32,
    everything else in float64. Scores are float64.

    There is no `score` method, as there is no natural one without labels: give
    :class:`~sklearn.model_selection.GridSearchCV` a `scoring`, such as `"roc_auc"`
    with labels of 1 for ID and -1 for OOD.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import ReActDetector
    >>> rng = np.random.default_rng(0)
    >>> X_id = rng.gamma(2.0, size=(200, 8))
    >>> head = np.eye(3, 8), np.zeros(3)
    >>> detector = ReActDetector(head, percentile=90).fit(X_id)
    >>> bool(detector.activation_threshold_ == np.percentile(X_id, 90))
    True
    >>> detector.predict([np.zeros(8), X_id[0]])
    array([-1,  1])
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's own form)
        "head": [
            None,
            tuple,
            list,
            nn.Module,
            HasMethods(["fit", "predict"]),
            callable,
        ],
        "percentile": [Interval(Real, 0, 100, closed="right"), None],
        "threshold": [Real, "array-like", None],
        "lower_percentile": [Interval(Real, 0, 100, closed="left"), None],
        "per_unit": ["boolean"],
        "score_function": [StrOptions(set(SCORES)), callable],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, torch.device, None],
        "on_nan": [StrOptions({"raise", "reject"})],
    }

    def __init__(
        self,
        head=None,
        *,
        percentile=90.0,
        threshold=None,
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
        self.percentile = percentile
        self.threshold = threshold
        self.lower_percentile = lower_percentile
        self.per_unit = per_unit
        self.score_function = score_function
        self.temperature = temperature
        self.contamination = contamination
        self.batch_size = batch_size
        self.device = device
        self.on_nan = on_nan

    @_fit_context(prefer_skip_nested_validation=True)
    @as_a_whole
    def fit(self, X, y=None):
        """Learn the clip and the decision threshold from in-distribution features.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features. Not copied.

        y : array-like of shape (n_samples,), default=None
            Rows where `y` is -1 are out-of-distribution and left out. Other values
            are class labels if `head` is a scikit-learn classifier to be trained, and
            ignored otherwise. A warning says so where they look like marks of OOD
            rows, such as 0 and 1.

        Returns
        -------
        self : ReActDetector
            The fitted detector.

        Raises
        ------
        ValueError
            If `X` holds NaN or inf (with `on_nan="reject"`: inf, or NaN in all rows),
            if the head does not fit `X`, if the clip is degenerate, so that it says
            nothing about the data, or if all rows get the same score.
        """
        X = self._validate(X, reset=True)
        y, id_mask = id_rows(y, X)
        rows = self._without_nan(X, id_mask)
        head = make_head(self.head, X, y, rows)
        clip = learn_clip(
            X,
            rows,
            percentile=self.percentile,
            threshold=self.threshold,
            lower_percentile=self.lower_percentile,
            per_unit=self.per_unit,
        )
        self._learn(X, head, clip, rows)
        if id_mask is None and not head.trained:
            check_marks(y, lambda: self._classes(X))
        return self

    def _learn(self, X, head, clip, rows):
        """Take over a head and a clip, and learn the decision threshold."""
        (scores,) = self._score_clips(X, head, [clip], rows)
        n_classes = len(head.classes)
        common = common_part(self.score_function, n_classes, self.temperature)
        check_spread(scores, X, common)
        share = self._share_clipped(X, clip, rows)
        self._head = head
        self.classes_ = head.classes
        self.__dict__.pop("coef_", None), self.__dict__.pop("intercept_", None)
        if isinstance(head, LinearHead):
            self.coef_, self.intercept_ = head.weight, head.bias
        self.lower_activation_threshold_, self.activation_threshold_ = clip
        self.clipped_share_ = share
        self.offset_ = float(np.percentile(scores, 100 * self.contamination))

    def fit_predict(self, X, y=None):
        """Fit to `X` and return the labels of its rows.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            1 for in-distribution, -1 for out-of-distribution, for all rows of `X`.
        """
        return self.fit(X, y).predict(X)

    def predict(self, X):
        """Tell in-distribution (1) from out-of-distribution (-1) inputs.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            1 where `decision_function` is at least 0, else -1, also for rows that hold
            NaN, with `on_nan="reject"`.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def decision_function(self, X):
        """Return the score above the decision threshold.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            `score_samples(X) - offset_`, float64; at least 0 means in-distribution.
            NaN for rows that hold NaN, with `on_nan="reject"`.
        """
        return self.score_samples(X) - self.offset_

    def score_samples(self, X):
        """Score features after clipping: the higher, the more in-distribution.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            `score_function(head(clip(X)))`, float64. NaN for rows that hold NaN, with
            `on_nan="reject"`.

        Raises
        ------
        ValueError
            If `X` holds NaN or inf; with `on_nan="reject"`, if it holds inf.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        return self._score_clips(X, self._head, [self._learned_clip()])[0]

    def predict_class(self, X):
        """Return the classifier's own decision, from unclipped features.

        Clipping costs no classification accuracy: it serves the scores alone.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The entry of `classes_` with the largest logit. With `on_nan="reject"`, NaN
            counts as 0 here, a silent unit, so that every row gets a class; that of a
            row of NaN says nothing, and `predict` rejects it.
        """
        check_is_fitted(self)
        return self._classes(self._validate(X, reset=False))

    def rectify(self, X):
        """Clip features at the thresholds that `fit` learned.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        clipped : ndarray of shape (n_samples, n_features)
            `min(X, activation_threshold_)`, and where a lower clip was asked for,
            no less than `lower_activation_threshold_`. float32 if `X` is float32 or
            half precision, else float64. NaN stays NaN, with `on_nan="reject"`.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        check_finite(X, allow_nan=self._rejects_nan())
        clip = self._learned_clip()
        return torch.cat(
            [rectify(block, clip).cpu() for block in self._blocks(X)]
        ).numpy()

    def _validate(self, X, *, reset):
        dtypes = [np.float64, np.float32, np.float16]
        return validate_array(self, X, reset=reset, dtype=dtypes)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._rejects_nan()
        return tags

    def _rejects_nan(self):
        return self.on_nan == "reject"

    def _without_nan(self, X, rows):
        """Return the mask of the rows to learn from, None for all."""
        if not self._rejects_nan():
            return rows
        known = np.ones(len(X), bool) if rows is None else rows.copy()
        known[known] = ~nan_rows(X, rows)
        if not known.any():
            raise ValueError(
                f"All {len(X) if rows is None else rows.sum()} in-distribution rows of "
                "X hold NaN, which on_nan='reject' leaves out, so that none is left to "
                "learn from: could no image be read?"
            )
        return rows if known.all() else known

    def _classes(self, X):
        best, unknown = self._largest(X)
        if unknown is not None:
            rest = as_tensor(take_rows(X, unknown)).nan_to_num(nan=0.0)
            best[unknown], _ = self._largest(rest)
        return self.classes_[best]

    def _largest(self, X):
        (best,), unknown = self._map_logits(
            X, self._head, [None], lambda z: z.argmax(1)
        )
        return best.numpy(), unknown

    def _learned_clip(self):
        return self.lower_activation_threshold_, self.activation_threshold_

    def _blocks(self, X, rows=None):
        if self.device is not None:
            device = choose_device(self.device)
        else:
            device = X.device if isinstance(X, torch.Tensor) else torch.device("cpu")
        n_rows = self.batch_size or rows_per_block(X.shape[1], device)
        return tensor_blocks(X, rows, n_rows=n_rows, device=device)

    def _share_clipped(self, X, clip, rows):
        changed, n, clipped = torch.tensor(0, device="cpu"), 0, Workspace()
        for block in self._blocks(X, rows):
            out = clipped.of(block, block.shape[1])
            changed = (
                changed.to(block.device) + (rectify(block, clip, out) != block).sum()
            )
            n += block.numel()
        return int(changed) / n

    def _score_clips(self, X, head, clips, rows=None):
        """Return an array of scores for each clip, NaN for rows that are rejected."""
        score = self.score_function
        if not callable(score):
            function, temperature = SCORES[score], self.temperature
            score = lambda logits: function(logits, temperature)
        results, unknown = self._map_logits(X, head, clips, score, rows)
        results = [scores.double().numpy() for scores in results]
        for scores in results:
            if unknown is not None:
                scores[unknown] = 0
            check_scores(scores)
            if unknown is not None:
                scores[unknown] = np.nan
        return results

    @without_autocast()
    def _map_logits(self, X, head, clips, function, rows=None):
        """Apply ``function`` to the logits of each block, clipped in each way.

        A clip of None is none. All is done with a block before the next is read.
        Returns the results for each clip, and which rows hold NaN, where they may;
        None where no row does.
        """
        results: list[list[torch.Tensor]] = [[] for _ in clips]
        finite, logits = True, None
        clipped = Workspace()
        with torch.inference_mode():
            for block in self._blocks(X, rows):
                logits = logits or head.on(block)
                # A sum shows NaN and inf; looked at once, so no block waits for it.
                finite &= block.sum().isfinite()
                for clip, parts in zip(clips, results, strict=True):
                    features = rectify(block, clip, clipped.of(block, block.shape[1]))
                    result = function(logits(features))
                    check_result(result, len(block))
                    # A copy, as what a function returns may be a part of the logits.
                    parts.append(torch.as_tensor(result, device=block.device).clone())
            whole = [torch.cat(parts).cpu() for parts in results]
        if finite:
            return whole, None
        check_finite(X, rows, allow_nan=self._rejects_nan())
        unknown = nan_rows(X, rows)  # none where the sum of finite numbers overflows
        return whole, unknown if unknown.any() else None
