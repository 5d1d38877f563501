"""StreamingMixin: learn from batches that are seen once, and join what was learned."""

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator

from reactood._scoring._clip import CountingClip, learn_clip
from reactood._scoring._drift import Drift, StreamView, change_of
from reactood._scoring._heads import IdentityHead, LinearHead, fixed_head
from reactood._scoring._histogram import Zoom
from reactood._scoring._percentile import check_range
from reactood._scoring._stream import Stream, float32_blocks
from reactood._utils._estimators import as_a_whole
from reactood._utils._labels import id_rows
from reactood._utils._sklearn import Interval, _fit_context
from reactood._utils._warnings import warn

# What follows from the stream, and is computed when it is first asked for.
SETTLED = (
    "activation_threshold_",
    "lower_activation_threshold_",
    "clipped_share_",
    "offset_",
)


class StreamingMixin(BaseEstimator):
    """Adds `partial_fit`, `fit_stream`, `merge` and `drift`; it is the first base."""

    _parameter_constraints: ClassVar[dict] = {
        "sample_size": [Interval(Integral, 1, None, closed="left")],
    }
    _stream: Stream

    @_fit_context(prefer_skip_nested_validation=False)
    @as_a_whole
    def partial_fit(self, X, y=None):
        """Learn from one more batch of in-distribution features, which is not kept.

        Memory does not grow with the number of batches. What is learned is the same for
        any order of the rows and any split into batches. After `fit`, which keeps no
        counts, it begins anew.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features. They are counted as float32.

        y : array-like of shape (n_samples,), default=None
            Rows where `y` is -1 are out-of-distribution and left out. Other values are
            ignored.

        Returns
        -------
        self : ReActDetector
            The detector. It scores and decides after any batch.

        Raises
        ------
        ValueError
            If `X` holds NaN or inf (with `on_nan="reject"`: inf). Nothing of the batch
            is learned then. Also if `per_unit` or `sample_size` is another than at the
            first batch, or if the head is a classifier that is not fitted.

        See Also
        --------
        merge : Joins what two detectors have learned.
        fit_stream : All batches of an iterable, and the exact percentile on request.

        Notes
        -----
        Up to `sample_size` rows, all of them are kept, and the result is that of `fit`
        on these rows as float32.

        Beyond that, the clip comes from a histogram over the upper 16 bits of float32:
        the sign, the exponent and 7 bits of the mantissa. It lies in the same bucket as
        the percentile, and so differs from it by less than 1/128, 0.8 %, for magnitudes
        above 2**-126, and by less than 2**-126 below. The histogram takes 512 KiB. With
        `per_unit=True` there is one for each unit, of the buckets in use: 8 bytes for
        each of them and each unit, commonly 20 to 60 MiB for 2,048 units, and never
        more than 512 KiB per unit.

        `offset_` comes from a random sample of `sample_size` distinct rows, those with
        the smallest hashes of their bits. With some room for new rows, it takes
        `5 * sample_size * n_features` bytes: 102 MB for 10,000 rows of 2,048 features.
        The share of new ID rows that `offset_` rejects then varies by chance: with
        `contamination=0.05`, it lies between 4.59 % and 5.44 % in 95 of 100 samples of
        10,000 rows, and between 4.81 % and 5.19 % with 50,000.

        `clipped_share_` is exact but for the bucket of the clip.

        Examples
        --------
        >>> import numpy as np
        >>> from reactood import ReActDetector
        >>> rng = np.random.default_rng(0)
        >>> detector = ReActDetector((np.eye(3, 8), np.zeros(3)))
        >>> for _ in range(10):
        ...     detector = detector.partial_fit(rng.gamma(2.0, size=(20, 8)))
        >>> detector.n_samples_seen_
        200
        """
        first = "_stream" not in vars(self)
        if first and "n_samples_seen_" in vars(self):
            warn(
                "partial_fit begins anew: `fit` keeps no counts to go on from, and the "
                f"{self.n_samples_seen_} rows that it learned from do not count."
            )
        X = self._validate(X, reset=first)
        rows = self._rows_of_batch(X, y)
        if first:
            self._take_head(fixed_head(self.head, X))
            self._stream = Stream(
                X.shape[1], per_unit=self.per_unit, sample_size=self.sample_size
            )
        self._check_same_stream()
        self._stream.add(X, rows)
        self._unsettle()
        return self

    @as_a_whole
    def merge(self, other):
        """Add all that another detector has learned from batches.

        The result is that of one detector that has seen the batches of both.

        Parameters
        ----------
        other : ReActDetector
            A detector with the same head, fitted by `partial_fit` or `fit_stream`. It
            stays as it is.

        Returns
        -------
        self : ReActDetector
            This detector.

        Raises
        ------
        ValueError
            If one of the two was not fitted by batches, or if they differ in the head,
            the number of features, `per_unit` or `sample_size`.

        Examples
        --------
        >>> import numpy as np
        >>> from reactood import ReActDetector
        >>> rng = np.random.default_rng(0)
        >>> head = np.eye(3, 8), np.zeros(3)
        >>> one = ReActDetector(head).partial_fit(rng.gamma(2.0, size=(100, 8)))
        >>> two = ReActDetector(head).partial_fit(rng.gamma(2.0, size=(50, 8)))
        >>> one.merge(two).n_samples_seen_
        150
        """
        self._check_mergeable(other)
        self._stream.merge(other._stream)
        self._unsettle()
        return self

    def fit_stream(self, batches, *, exact=False):
        """Learn from all batches of features, each of which is seen once.

        It begins anew, as `fit` does, and otherwise does what `partial_fit` does.

        Parameters
        ----------
        batches : iterable
            Of arrays or tensors of shape (n_samples, n_features), or of pairs of one
            and its labels, as in `partial_fit`; a torch DataLoader of features too.

        exact : bool, default=False
            Whether to go through the batches a second time for a clip that equals
            `numpy.percentile` of all features as float32. `batches` must then give the
            same ones twice: a list or a DataLoader, not a generator. Not with
            `per_unit=True`.

        Returns
        -------
        self : ReActDetector
            The fitted detector.

        Raises
        ------
        ValueError
            As `partial_fit`; also if there is no batch, or if the second pass gives
            other features than the first.

        Examples
        --------
        >>> import numpy as np
        >>> from reactood import ReActDetector
        >>> X = np.random.default_rng(0).gamma(2.0, size=(200, 8)).astype(np.float32)
        >>> detector = ReActDetector((np.eye(3, 8), np.zeros(3)), sample_size=50)
        >>> detector = detector.fit_stream(np.split(X, 10), exact=True)
        >>> bool(detector.activation_threshold_ == np.percentile(X, 90))
        True
        """
        if len(getattr(batches, "shape", ())) == 2:
            raise ValueError(
                f"Got one matrix of shape {tuple(batches.shape)}; expected an iterable "
                "of such matrices, such as a list of one, [X]."
            )
        if exact and iter(batches) is batches:
            raise TypeError(
                f"exact=True goes through the batches twice, and a "
                f"{type(batches).__name__} can be read only once; pass a list, a "
                "DataLoader, or an object whose __iter__ begins anew each time."
            )

        def one_pass(receive):
            for batch in batches:
                receive(*_features_and_labels(batch))

        return self._fit_passes(one_pass, exact=exact)

    @as_a_whole
    def _fit_passes(self, one_pass, *, exact):
        """Learn from all that ``one_pass(receive)`` gives to a function of X and y."""
        if exact and self.per_unit:
            raise ValueError(
                "exact=True is for one clip for all units; use per_unit=False, or "
                "exact=False, whose clips are within 0.8 % of the percentiles."
            )
        for name in [*SETTLED, "_stream", "n_samples_seen_"]:
            self.__dict__.pop(name, None)
        one_pass(self.partial_fit)
        if "_stream" not in vars(self):
            raise ValueError("There was no batch to learn from; expected at least one.")
        if exact and not self._stream.is_small:
            qs = {self.percentile, self.lower_percentile} - {None}
            zoom = Zoom(self._stream.histogram, sorted(qs))

            def look_again(X, y=None):
                X = self._validate(X, reset=False)
                for block in float32_blocks(X, self._rows_of_batch(X, y)):
                    zoom.add(block)

            one_pass(look_again)
            self._stream.exact = zoom.percentiles()
        return self

    def drift(self, other, *, q=(5, 25, 50, 75, 95), confidence=0.95):
        """Compare what this detector has learned with what another one has learned.

        For instance the detector in production with one that was fitted by the batches
        of last week. Both were fitted by `partial_fit` or `fit_stream`.

        Parameters
        ----------
        other : ReActDetector
            A detector with the same head, `percentile` and `lower_percentile`.

        q : sequence of float, default=(5, 25, 50, 75, 95)
            The percentiles of the scores to compare, in percent.

        confidence : float, default=0.95
            The confidence of each interval by itself, a fraction in (0, 1). Of many
            intervals, some leave out 0 by chance.

        Returns
        -------
        drift : Drift
            Clip, clipped share, rejected share and percentiles of the scores, each
            before and after, with the interval of its change. Shares and scores are
            those of the clip and the threshold of this detector.

        Raises
        ------
        ValueError
            If one of the two was not fitted by batches, or if they differ in the head,
            the number of features, `per_unit`, `sample_size` or the percentiles.

        See Also
        --------
        reactood.monitoring.ConformalMonitor : Raises an alarm while samples come in.

        Notes
        -----
        Rows are taken as independent. Intervals of the clip and of the clipped share
        count all rows, those of scores and of the rejected share the rows of the
        sample. Those of the clip are never narrower than the buckets of the histogram.

        Examples
        --------
        >>> import numpy as np
        >>> from reactood import ReActDetector
        >>> rng = np.random.default_rng(0)
        >>> head = np.eye(3, 8), np.zeros(3)
        >>> now = ReActDetector(head).partial_fit(rng.gamma(2.0, size=(200, 8)))
        >>> later = ReActDetector(head).partial_fit(1.5 * rng.gamma(2.0, size=(200, 8)))
        >>> drift = now.drift(later)
        >>> drift.clip.moved
        True
        >>> print(round(drift.clip.before, 1), round(drift.clip.after, 1))
        3.9 6.0
        """
        if not 0 < confidence < 1:
            raise ValueError(
                f"confidence={confidence!r}; expected a fraction between 0 and 1."
            )
        for one in q:
            check_range("q", one)
        self._check_mergeable(other)
        _check_alike(self, other, ("percentile", "lower_percentile"))
        scorer, clip = self._scorer(self._fitted_head()), self._learned_clip()
        views = [
            StreamView(detector._stream, clip, scorer, confidence)
            for detector in (self, other)
        ]

        def change(what):
            return change_of(*(what(view) for view in views))

        def of_clip(q, name):
            if q is None or (q == self.percentile and self.threshold is not None):
                return None
            values = (getattr(detector, name) for detector in (self, other))
            pairs = zip(views, values, strict=True)
            return change_of(*(view.percentile(q, value) for view, value in pairs))

        return Drift(
            clip=of_clip(self.percentile, "activation_threshold_"),
            lower_clip=of_clip(self.lower_percentile, "lower_activation_threshold_"),
            clipped_share=change(StreamView.clipped_share),
            rejected_share=change(lambda view: view.rejected_share(self.offset_)),
            score_percentiles={
                one: change(lambda view, one=one: view.score_percentile(one))
                for one in q
            },
            confidence=confidence,
        )

    def set_params(self, **params):
        """Set parameters; after batches, they take effect at once.

        Another `percentile`, `threshold`, `contamination` or `score_function` needs no
        second look at the data: what was learned from batches follows from what is
        kept of them. `per_unit`, `sample_size` and the head stay those of the first
        batch. After `fit`, parameters take effect in the next `fit`.

        Parameters
        ----------
        **params : dict
            Such as `percentile=80`.

        Returns
        -------
        self : ReActDetector
            The detector.
        """
        super().set_params(**params)
        if "_stream" in vars(self):
            self._unsettle()
        return self

    def __getattr__(self, name):
        """Compute what follows from the stream when it is first asked for."""
        if name in SETTLED and "_stream" in vars(self):
            self._settle()
            return vars(self)[name]
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def _settle(self):
        stream = self._stream
        stream.check_whole()
        self._check_same_stream()
        if not stream.n_rows:
            raise ValueError("No row was learned from yet; call partial_fit first.")
        rows, counts = stream.rows()
        of_clip: Any = stream
        if stream.is_small:
            of_clip = rows = np.repeat(rows, counts, axis=0)
            counts = None
        clip = learn_clip(
            of_clip,
            None,
            percentile=self.percentile,
            threshold=self.threshold,
            lower_percentile=self.lower_percentile,
            per_unit=self.per_unit,
        )
        rows = torch.from_numpy(rows)
        scorer = self._scorer(self._fitted_head())
        counting = CountingClip(clip)
        (scores,) = scorer.scores(rows, [counting])
        offset = scorer.threshold(rows, scores, self.contamination, counts)
        share = counting.share
        if not stream.is_small:
            share = stream.histogram.share_outside(clip.lower, clip.upper)
        if stream.is_uneven:
            warn(
                f"Many of the {stream.n_rows} rows are copies of few, such as blank "
                "images, so that the sample of rows does not represent them: offset_ "
                "may be off. Leave copies out, or raise sample_size."
            )
        self._set_learned(clip, share, offset)
        self._check_score(rows, None, scorer, clip)

    def _unsettle(self):
        for name in SETTLED:
            self.__dict__.pop(name, None)
        self.n_samples_seen_ = self._stream.n_rows

    def _rows_of_batch(self, X, y):
        """Return the mask of the rows to learn from, None for all; maybe of none."""
        _, rows = id_rows(y, X, some=False)
        return self._known_rows(X, rows)

    def _check_same_stream(self):
        for name in ("per_unit", "sample_size"):
            now, then = getattr(self, name), getattr(self._stream, name)
            if now != then:
                raise ValueError(
                    f"{name}={now!r} was {then!r} at the first batch; set it back, or "
                    "begin with clone(detector)."
                )

    def _check_mergeable(self, other):
        for detector in (self, other):
            if "_stream" not in vars(detector):
                raise ValueError(
                    f"{type(detector).__name__} was not fitted by partial_fit or "
                    "fit_stream, and holds no counts that could be added."
                )
        alike = "n_features", "per_unit", "sample_size"
        _check_alike(self._stream, other._stream, alike)
        names: list[Any] = [
            getattr(d, "feature_names_in_", None) for d in (self, other)
        ]
        if all(some is not None for some in names) and not np.array_equal(*names):
            raise ValueError(
                "The detectors differ in the names of features, or in their order: "
                f"{list(names[0])!r:.80} and {list(names[1])!r:.80}; expected the same."
            )
        if not _same_head(self._fitted_head(), other._fitted_head()):
            raise ValueError(
                "The detectors have different heads; expected the head of one network."
            )

    def __getstate__(self):
        # Arrays, which tools that read states safely know.
        state = super().__getstate__()
        if "_stream" in state:
            state = {**state, "_stream": state["_stream"].arrays()}
        return state

    def __setstate__(self, state):
        if "_stream" in state:
            state = {**state, "_stream": Stream.of_arrays(state["_stream"])}
        super().__setstate__(state)


def _features_and_labels(batch):
    """Return the features and the labels, or None, of what an iterable gives."""
    if isinstance(batch, tuple | list) and len(batch) and np.ndim(batch[0]) == 2:
        if len(batch) > 2:
            raise ValueError(
                f"A batch holds {len(batch)} things; expected features alone, or a "
                "pair of features and labels."
            )
        return batch[0], (batch[1] if len(batch) == 2 else None)
    return batch, None


def _check_alike(one, other, names):
    """Raise unless two detectors, or their streams, have the same attributes."""
    for name in names:
        own, others = getattr(one, name), getattr(other, name)
        if own != others:
            raise ValueError(
                f"The detectors differ in {name}, {own!r} and {others!r}; expected the "
                "same."
            )


def _same_head(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, IdentityHead):
        return True
    if isinstance(one, LinearHead):
        return np.array_equal(one.weight, other.weight) and np.array_equal(
            one.bias, other.bias
        )
    own, others = (head.module.state_dict() for head in (one, other))
    return own.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) for name, tensor in own.items()
    )
