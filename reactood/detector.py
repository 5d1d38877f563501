"""ReAct as a scikit-learn outlier detector."""

from numbers import Real
from typing import ClassVar

import numpy as np

from reactood._scoring._base import BaseReActDetector
from reactood._scoring._clip import Clip, learn_clip, learn_clips
from reactood._scoring._heads import make_head
from reactood._scoring._left_out import leave_classes_out
from reactood._scoring._streaming import StreamingMixin
from reactood._utils._estimators import as_a_whole
from reactood._utils._labels import check_marks, id_rows
from reactood._utils._sklearn import Interval, _fit_context
from reactood._utils._tensors import as_array
from reactood._utils._warnings import warn
from reactood.metrics import auroc

__all__ = ["ReActDetector"]

# The check of the score by left-out classes: on how many rows, and when it warns.
MOST_CHECKED = 2000
LEAST_CHECKED = 300
LEAST_GAP = 0.03  # of AUROC, behind another score
LEAST_RATIO = 1.25  # of the errors, 1 - AUROC
LEAST_DEVIATIONS = 2  # standard errors of the gap
SIGNED = 0.1  # from this share of negative activations on, a lower clip is tried


class ReActDetector(StreamingMixin, BaseReActDetector):
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

    score_function : str or callable, default="energy"
        What turns logits into a score, the higher, the more in-distribution. A name
        stands for a function of :mod:`reactood.scores`:

        - `"energy"`: `T * logsumexp(logits / T)`, the paper's.
        - `"centered_energy"`, `"centered_max_logit"`: the same and the largest logit,
          less the mean of the logits.
        - `"msp"`: the maximum softmax probability.
        - `"max_logit"`: the largest logit.
        - `"entropy"`: the negative entropy of the softmax, in nats.
        - `"gen"`: the negative generalised entropy.
        - `"joint_energy"`: the sum of the energies of all labels, for heads with
          several true labels at once.

        A callable takes logits, a tensor of shape (n_samples, n_classes), and returns
        a tensor of shape (n_samples,); it runs in torch's inference mode, and the
        memory of the logits is used for the next rows as soon as it returns.

    temperature : float, default=1.0
        The temperature `T` > 0 of all named scores but the largest logits.

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

    check_score : bool, default=True
        Whether `fit` checks the score, and warns where another one is clearly better
        on this network: see Notes.

    sample_size : int, default=10000
        Rows that `partial_fit` keeps to set `offset_`, and all that it learns the clip
        from where it has seen no more. `fit` does not use it.

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
        of the ID training rows scores below it; a smaller one where many rows tie
        there, which are then all in-distribution.

    classes_ : ndarray of shape (n_classes,)
        The class labels that `predict_class` returns: 0, 1, ... unless the head
        knows others.

    coef_ : ndarray of shape (n_classes, n_features)
        Weights of a linear head.

    intercept_ : ndarray of shape (n_classes,)
        Biases of a linear head.

    n_samples_seen_ : int
        Number of in-distribution rows that `fit` learned from.

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

    On some networks, Energy with a clip ranks OOD data worse than chance, and nothing
    shows it without OOD data. `fit` therefore leaves half of the classes out of the
    head, three times, on at most 2,000 rows. It compares how well the rows of these
    classes are separated from the others by the detector's own score, the maximum
    softmax probability and the centered energy, each with and without the clip, and
    where at least 10 % of the activations are negative also with a clip from both
    sides, unless `lower_percentile` is given. It warns where the own
    setting is at least 3 points of AUROC behind the best, where
    this gap is at least two standard errors over the parts of the classes, and where
    the setting makes 1.25 times as many errors;
    :func:`~reactood.model_selection.tune_detector` finds a better one. There is no
    check with fewer than 300 rows or three classes, with a score function of your own,
    or with `"joint_energy"`: a row of several true labels belongs to no one class that
    could be left out.

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

    _parameter_constraints: ClassVar[dict] = {
        **BaseReActDetector._parameter_constraints,
        **StreamingMixin._parameter_constraints,
        "percentile": [Interval(Real, 0, 100, closed="right"), None],
        "threshold": [Real, "array-like", None],
        "check_score": ["boolean"],
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
        check_score=True,
        sample_size=10_000,
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
        self.check_score = check_score
        self.sample_size = sample_size

    @_fit_context(prefer_skip_nested_validation=False)  # of the head
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
            check_marks(y, lambda: self._scorer(head).classes(X))
        self._check_score(X, rows, self._scorer(head), clip)
        return self

    def _check_score(self, X, rows, scorer, clip):
        """Warn where another score is clearly better on left-out classes."""
        score = self.score_function
        if not self.check_score or callable(score) or score == "joint_energy":
            return
        index = np.arange(len(X)) if rows is None else np.flatnonzero(rows)
        n_classes = len(scorer.head.classes)
        if len(index) < LEAST_CHECKED or n_classes < 3:
            return
        some = np.linspace(0, len(index) - 1, min(len(index), MOST_CHECKED)).astype(int)
        rows = np.zeros(len(X), bool)
        rows[index[some]] = True
        left_out = leave_classes_out(
            scorer.decisions(X, rows), n_classes, np.random.RandomState(0)
        )
        if len(left_out) < 2:
            return
        names = list(dict.fromkeys([self.score_function, "msp", "centered_energy"]))
        scores = [(name, self.temperature) for name in names]
        clips = [clip] if clip.is_open else [clip, Clip()]
        below = self._share_below_zero(X, rows)
        if below >= SIGNED and self._clips_above_alone():
            clips += self._two_sided(X, rows)
        found = scorer.scores_of_reduced(X, clips, scores, left_out.kept, rows)
        aurocs = {
            (i, score): np.array(list(map(auroc, left_out.labels, of_parts)))
            for i, of_clip in enumerate(found)
            for score, of_parts in enumerate(np.moveaxis(of_clip, 1, 0))
        }
        i, score = best = max(aurocs, key=lambda setting: aurocs[setting].mean())
        gaps = aurocs[best] - aurocs[0, 0]
        own, other = aurocs[0, 0].mean(), aurocs[best].mean()
        error = gaps.std(ddof=1) / np.sqrt(len(gaps))
        if gaps.mean() < max(
            LEAST_GAP, LEAST_DEVIATIONS * error
        ) or 1 - own < LEAST_RATIO * (1 - other):
            return
        by_hand = self.threshold is not None
        if i == 2:
            and_clip = (
                f"with lower_percentile={100 - self.percentile:g} and the same upper"
            )
        else:
            and_clip = "without a" if clips[i].is_open else "with the same"
        clip_parameter = "threshold" if by_hand else f"percentile={self.percentile!r}"
        if self.lower_percentile is not None:
            clip_parameter += f", lower_percentile={self.lower_percentile!r}"
        signed = ""
        if below >= SIGNED:
            signed = (
                f"{100 * below:.0f} % of the activations are negative, and ReAct was "
                "made for features after a ReLU. "
            )
        warn(
            f"score_function={self.score_function!r} with {clip_parameter} detects "
            f"left-out classes worse than {names[score]!r} {and_clip} clip on this "
            f"network (AUROC {own:.3f} against {other:.3f}), and may rank OOD data "
            f"badly. {signed}"
            "reactood.model_selection.tune_detector chooses score and percentile "
            "without OOD data; check_score=False turns this check off."
        )

    def _clips_above_alone(self):
        by_percentile = self.threshold is None and self.percentile is not None
        return by_percentile and self.lower_percentile is None and self.percentile > 50

    def _share_below_zero(self, X, rows):
        return float((as_array(X[np.flatnonzero(rows)]) < 0).mean())

    def _two_sided(self, X, rows):
        """Return the clip that treats both ends alike, unless it is a useless one."""
        ((both,),) = learn_clips(
            X,
            [rows],
            [self.percentile],
            lower_percentile=100 - self.percentile,
            per_unit=self.per_unit,
        )
        return [] if both.problem else [both]
