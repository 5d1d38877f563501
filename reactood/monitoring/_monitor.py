"""ConformalMonitor: a test of whether scores still look like those of calibration."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted

from reactood._utils._estimators import FractionHints, as_a_whole
from reactood._utils._response import parts_of, scoring_of, unfrozen
from reactood._utils._sklearn import HasMethods, Interval, _fit_context
from reactood.conformal import ConformalDetector
from reactood.monitoring._bets import first_states, most_won, play, total
from reactood.monitoring._ranks import Bag

CHUNK = 1 << 16  # samples of a batch that are in work at once


class ConformalMonitor(FractionHints, BaseEstimator):
    """Raises an alarm when new scores no longer look like the calibration scores.

    It follows a stream of samples. While they and the calibration samples of a
    :class:`~reactood.conformal.ConformalDetector` are exchangeable, as independent
    samples of one distribution are, the probability that it *ever* raises an alarm is
    at most `alpha`, however long the stream is and however often you look.

    Each new score gets a p-value: its rank among the calibration scores and all scores
    before it. While the samples are exchangeable, these p-values are independent and
    uniform [1]_. The monitor bets on them with a capital of 1, and such a bet wins
    nothing on average. The capital is called a test martingale. It reaches `1 / alpha`
    with a probability of at most `alpha` (Ville's inequality); then there is an alarm.

    Parameters
    ----------
    detector : ConformalDetector or Pipeline
        A fitted :class:`~reactood.conformal.ConformalDetector`, or a fitted Pipeline
        that ends in one. It is not fitted again. In a
        :class:`~sklearn.frozen.FrozenEstimator`, it stays fitted when the monitor is
        cloned.

    alpha : float, default=0.01
        The largest probability of a false alarm over the whole stream, a fraction in
        (0, 1).

    jump_rates : sequence of float, default=(1e-4, 1e-3, 1e-2)
        The shares of the capital that change sides before each sample, fractions in
        (0, 1]. The capital is divided equally among them. Small ones suit changes that
        last, large ones changes that come and go. Any choice keeps the limit `alpha`,
        if it is made before the stream begins.

    random_state : int, RandomState instance or None, default=None
        Breaks ties among scores at random, and makes this repeatable.

    Attributes
    ----------
    log_martingale_ : float
        The natural logarithm of the capital; 0 at the start.

    max_log_martingale_ : float
        The highest value that `log_martingale_` has had.

    alarm_ : bool
        Whether the capital has ever reached `1 / alpha`. It stays True until `reset`.

    n_alarm_ : int or None
        The value that `n_seen_` had at the alarm: 1 if it was the first sample.

    change_ : {"lower", "higher", "wider", "narrower", "outliers"} or None
        Which bet owned most at the alarm: that the scores became lower or higher; that
        there are more extreme or more central scores; or that some scores are lower
        than nearly all others. It is a hint, without a guarantee: of scores that are
        lower, some are outliers too.

    n_seen_ : int
        How many samples there were since the start.

    n_nan_ : int
        How many of them had a score of NaN, as images that cannot be read may have.
        They are left out.

    threshold_ : float
        The value of `log_martingale_` at which there is an alarm: log(1 / `alpha`).

    jump_rates_ : ndarray of shape (n_rates,)
        The jump rates, float64.

    calibration_scores_ : ndarray of shape (n_calibration,)
        The scores of the calibration samples, ascending, float64.

    See Also
    --------
    reactood.conformal.ConformalDetector : Decides about one sample at a time.

    Notes
    -----
    Each bet is a Simple Jumper [2]_, for every jump rate. Besides the paper's bet on
    high or low p-values, there is one on extreme or central p-values, and one on
    p-values of at most 0.01: without these, a stream in which the scores spread, or a
    few samples in a hundred are OOD, rarely raises an alarm. Half of the
    capital is in reserve at the start, and is given to the bets little by little, so
    that a change after a long time is found too. Each of these parts wins nothing on
    average, so their sum does not either.

    p-values against the calibration scores alone would not do. They all depend on the
    same few scores, so a long stream raises a false alarm sooner or later.

    The monitor keeps all scores: 8 bytes for each sample. To forget scores of the
    stream would make the p-values dependent, so there is no limit to set. For a long
    stream, call `reset` from time to time; each start has the probability `alpha` of
    a false alarm.

    After a change, the new scores are soon compared with each other, and look as
    before. With few calibration samples, a small change may thus be missed, and a slow
    one too.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World",
       2nd edition, Springer 2022, chapter 8.

    .. [2] V. Vovk, I. Petej, I. Nouretdinov, E. Ahlberg, L. Carlsson, A. Gammerman,
       "Retrain or not retrain: Conformal test martingales for change-point detection",
       COPA 2021, :arxiv:`2102.10439`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from reactood.conformal import ConformalDetector
    >>> from reactood.monitoring import ConformalMonitor
    >>> rng = np.random.default_rng(0)
    >>> detector = ConformalDetector(IsolationForest(random_state=0), random_state=0)
    >>> detector = detector.fit(rng.normal(size=(1000, 2)))
    >>> monitor = ConformalMonitor(detector, random_state=0).fit()
    >>> path = monitor.update(rng.normal(size=(500, 2)))
    >>> monitor.alarm_
    False
    >>> path = monitor.update(rng.normal(1, 1, size=(500, 2)))
    >>> monitor.alarm_, monitor.change_
    (True, 'outliers')
    """

    log_martingale_: float
    max_log_martingale_: float
    alarm_: bool
    n_alarm_: int | None
    change_: str | None
    n_seen_: int
    n_nan_: int
    _scores: np.ndarray
    _states: np.ndarray

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's own form)
        "detector": [HasMethods(["fit"])],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "jump_rates": ["array-like"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        detector,
        *,
        alpha=0.01,
        jump_rates=(1e-4, 1e-3, 1e-2),
        random_state=None,
    ):
        self.detector = detector
        self.alpha = alpha
        self.jump_rates = jump_rates
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    @as_a_whole
    def fit(self, X=None, y=None):
        """Take the calibration scores of the detector, and start.

        The detector is not fitted.

        Parameters
        ----------
        X : None
            Not used.

        y : None
            Not used.

        Returns
        -------
        self : ConformalMonitor
            The monitor, at the start of a stream.

        Raises
        ------
        TypeError
            If `detector` is no ConformalDetector and no Pipeline that ends in one.

        NotFittedError
            If `detector` is not fitted.

        ValueError
            If a jump rate is not in (0, 1], or there is none.
        """
        self.jump_rates_ = self._checked_rates()
        self.threshold_ = -float(np.log(self.alpha))
        self.calibration_scores_ = self._scores_of_detector()
        # The n-th random number depends on the seed and on n alone: batches do not
        # matter, and two integers are the whole state.
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._n_drawn = 0
        return self._start()

    def reset(self):
        """Start again from the calibration scores: no sample was seen, no alarm raised.

        Use it after an alarm that you have looked into. If the stream has changed for
        good, fit the detector to new calibration samples first, and call `fit` of the
        monitor instead.

        Returns
        -------
        self : ConformalMonitor
            The monitor, at the start of a stream.
        """
        check_is_fitted(self)
        return self._start()

    def update(self, X):
        """Score the next samples of the stream, and bet on each of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or images
            The next samples, in order, of a kind that the detector takes. Batches may
            have any size; only the order of the samples matters.

        Returns
        -------
        path : ndarray of shape (n_samples,)
            `log_martingale_` after each sample.

        Raises
        ------
        ValueError
            If the detector has other calibration scores than it had in `fit`.
        """
        check_is_fitted(self)
        if not np.array_equal(self._scores_of_detector(), self.calibration_scores_):
            raise ValueError(
                "The detector has other calibration scores than when the monitor was "
                "fitted, so new scores cannot be compared with those before. Call "
                "`fit` of the monitor to start again."
            )
        return self.update_scores(scoring_of(self.detector)(X))

    @as_a_whole
    def update_scores(self, scores):
        """Bet on the next samples, whose scores are known.

        Parameters
        ----------
        scores : array-like of shape (n_samples,)
            What `score_samples` of the detector returns for the next samples, in order;
            an exported graph may have computed it. The higher, the more
            in-distribution. Samples with NaN are left out.

        Returns
        -------
        path : ndarray of shape (n_samples,)
            `log_martingale_` after each sample.
        """
        check_is_fitted(self)
        scores = column_or_1d(scores, dtype=np.float64)
        cuts = range(CHUNK, len(scores), CHUNK)
        return np.concatenate([self._bet(some) for some in np.split(scores, cuts)])

    def _start(self):
        """Set all that changes with the stream to its value before the first sample."""
        self._scores = self.calibration_scores_
        self._recent = np.empty(0)
        self._states = first_states(self.jump_rates_)
        self.log_martingale_ = 0.0
        self.max_log_martingale_ = 0.0
        self.alarm_ = False
        self.n_alarm_ = None
        self.change_ = None
        self.n_seen_ = 0
        self.n_nan_ = 0
        return self

    def _bet(self, scores):
        """Bet on some samples; return `log_martingale_` after each."""
        known = ~np.isnan(scores)
        p = self._p_values(scores[known])
        n_before, states = self.n_seen_ - self.n_nan_, self._states
        self._states, logs = play(p, n_before, states, self.jump_rates_)
        values = np.concatenate([[self.log_martingale_], total(logs, n_before)])
        path = values[np.cumsum(known)]
        reached = path >= self.threshold_
        if reached.any() and not self.alarm_:
            first = int(np.argmax(reached))
            self.alarm_, self.n_alarm_ = True, self.n_seen_ + first + 1
            until = p[: np.count_nonzero(known[: first + 1])]
            owned = play(until, n_before, states, self.jump_rates_)[0]
            self.change_ = most_won(owned)
        self.log_martingale_ = float(values[-1])
        self.max_log_martingale_ = max(self.max_log_martingale_, float(values.max()))
        self.n_seen_ += len(scores)
        self.n_nan_ += len(scores) - len(p)
        return path

    def _p_values(self, scores):
        """Return the online p-values of scores, and keep the scores."""
        bag = Bag(self._scores, self._recent)
        n = len(bag) + np.arange(1, 1 + len(scores))
        below, equal = bag.add(scores)
        source = np.random.PCG64(self._seed).advance(self._n_drawn)
        p = (below + np.random.Generator(source).random(len(scores)) * equal) / n
        self._scores, self._recent = bag.scores, bag.recent
        self._n_drawn += len(scores)
        return p

    def _checked_rates(self):
        """Return the jump rates, checked."""
        rates = column_or_1d(self.jump_rates, dtype=np.float64)
        if not len(rates) or not np.all((rates > 0) & (rates <= 1)):
            raise ValueError(
                f"jump_rates={self.jump_rates!r}; expected one or more fractions in "
                "(0, 1], such as (0.0001, 0.001, 0.01)."
            )
        return rates

    def _scores_of_detector(self):
        """Return the calibration scores of the fitted detector."""
        detector = unfrozen(parts_of(unfrozen(self.detector))[1])
        if not isinstance(detector, ConformalDetector):
            raise TypeError(
                f"detector is a {type(detector).__name__}; expected a fitted "
                "ConformalDetector, or a Pipeline that ends in one. For a fitted "
                "detector of another kind: ConformalDetector(FrozenEstimator(detector))"
                ".fit(X), with samples that it was not fitted to."
            )
        check_is_fitted(detector)
        return detector.calibration_scores_
