"""Splitters for in-distribution and out-of-distribution rows."""

from typing import Any

import numpy as np
from sklearn.model_selection import BaseCrossValidator, KFold
from sklearn.utils import check_consistent_length, indexable

from reactood._utils._labels import id_rows, is_missing
from reactood._utils._sklearn import GroupsConsumerMixin

__all__ = ["LeaveOneOODSourceOut", "OODSplit"]


class OODSplit(BaseCrossValidator):
    """Folds that train on in-distribution (ID) rows and test on ID and OOD rows.

    scikit-learn's outlier detectors learn from every row that they are given, also
    from rows that `y` labels as out-of-distribution (OOD). With this splitter they are
    given ID rows only. This makes the comparison fair with
    :class:`~reactood.ReActDetector`, which ignores OOD rows when it learns.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.

    shuffle : bool, default=True
        Whether to shuffle the rows before they are divided into folds.

    random_state : int, RandomState instance or None, default=None
        Makes the shuffling repeatable.

    See Also
    --------
    LeaveOneOODSourceOut : Tests on one source of OOD rows at a time.
    sklearn.model_selection.StratifiedKFold : Trains on OOD rows as well.

    Notes
    -----
    Every row is tested once: each OOD row, like each ID row, is a test row of one
    fold.

    `GridSearchCV` fits the best candidate once more, on all rows, whatever the
    splitter. With a detector that ignores `y`, use `refit=False` and fit the detector
    to the ID rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.model_selection import cross_val_score
    >>> from reactood.model_selection import OODSplit
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(90, 2)), rng.normal(8, 1, size=(30, 2))])
    >>> y = np.repeat([1, -1], [90, 30])
    >>> forest, cv = IsolationForest(random_state=0), OODSplit(3, random_state=0)
    >>> cross_val_score(forest, X, y, cv=cv, scoring="roc_auc").shape
    (3,)
    """

    def __init__(self, n_splits=5, *, shuffle=True, random_state=None):
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def split(self, X, y, groups=None):
        """Yield the rows of each fold.

        Parameters
        ----------
        X : sequence of length n_samples
            Only its length matters.

        y : array-like of shape (n_samples,)
            -1 for OOD rows; 1, or class labels, for ID rows.

        groups : Ignored
            Not used, present for API consistency by convention.

        Yields
        ------
        train : ndarray of int
            ID rows to train on.

        test : ndarray of int
            The fold's ID and OOD rows.

        Raises
        ------
        ValueError
            If `y` is missing, or there are fewer ID or OOD rows than folds.
        """
        _, y = indexable(X, y)
        id_index, ood_index = _both_kinds(y, self.n_splits, self.n_splits)
        folds = zip(
            self._folds().split(id_index), self._folds().split(ood_index), strict=True
        )
        for (train, test), (_, ood_test) in folds:
            yield id_index[train], np.append(id_index[test], ood_index[ood_test])

    def get_n_splits(self, X=None, y=None, groups=None):
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        n_splits : int
            The number of folds.
        """
        return self.n_splits

    def _folds(self):
        state = self.random_state if self.shuffle else None
        return KFold(self.n_splits, shuffle=self.shuffle, random_state=state)


class LeaveOneOODSourceOut(GroupsConsumerMixin, OODSplit):
    """Folds that test on one source of out-of-distribution (OOD) rows at a time.

    The percentile that suits one kind of OOD data may not suit another. These folds
    choose by some sources and test on another source: the train rows of a fold are
    in-distribution (ID) rows and the OOD rows of all other sources, by which
    a :class:`~reactood.ReActDetectorCV`, for instance, can choose.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds of the ID rows for each source, at least 2.

    ood_in_train : bool, default=True
        Whether the train rows include the OOD rows of the other sources. Use False
        for detectors that would learn from OOD rows.

    shuffle : bool, default=True
        Whether to shuffle the ID rows before they are divided into folds.

    random_state : int, RandomState instance or None, default=None
        Makes the shuffling repeatable.

    See Also
    --------
    OODSplit : Tests on all OOD rows together.

    Notes
    -----
    `groups` names the source of each row; the values in ID rows are ignored. The
    folds are ordered by source, in sorted order.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from reactood import ReActDetectorCV
    >>> from reactood.model_selection import LeaveOneOODSourceOut
    >>> rng = np.random.default_rng(0)
    >>> X = rng.gamma(2, size=(140, 8))
    >>> y = np.repeat([1, -1], [100, 40])
    >>> source = np.repeat(["", "near", "far"], [100, 20, 20])
    >>> detector = ReActDetectorCV((rng.normal(size=(3, 8)), np.zeros(3)))
    >>> cv = LeaveOneOODSourceOut(2, random_state=0)
    >>> cv.sources(y, source).tolist()
    ['far', 'near']
    >>> aurocs = cross_val_score(
    ...     detector, X, y, groups=source, cv=cv, scoring="roc_auc"
    ... )
    >>> aurocs.shape  # two folds for each source
    (4,)
    """

    def __init__(
        self, n_splits=5, *, ood_in_train=True, shuffle=True, random_state=None
    ):
        super().__init__(n_splits, shuffle=shuffle, random_state=random_state)
        self.ood_in_train = ood_in_train

    def split(self, X, y, groups=None):
        """Yield the rows of each fold.

        Parameters
        ----------
        X : sequence of length n_samples
            Only its length matters.

        y : array-like of shape (n_samples,)
            -1 for OOD rows; 1, or class labels, for ID rows.

        groups : array-like of shape (n_samples,)
            The source of each row.

        Yields
        ------
        train : ndarray of int
            ID rows to train on, and OOD rows of all other sources.

        test : ndarray of int
            The fold's ID rows, and all OOD rows of one source.

        Raises
        ------
        ValueError
            If `y` or `groups` is missing, as a whole or for an OOD row, if there are
            fewer ID rows than folds, or if
            `ood_in_train` is True and there are fewer than two sources.
        """
        _, y, groups = indexable(X, y, groups)
        id_index, ood_index = _both_kinds(y, self.n_splits, 1)
        sources = self.sources(y, groups)
        if self.ood_in_train and len(sources) < 2:
            raise ValueError(
                f"groups names one source of OOD rows, {sources[0]!r}; expected two or "
                "more, because each fold leaves one out, or ood_in_train=False."
            )
        of_row = np.asarray(groups)[ood_index]
        for source in sources:
            others = ood_index[of_row != source] if self.ood_in_train else ood_index[:0]
            for train, test in self._folds().split(id_index):
                yield (
                    np.append(id_index[train], others),
                    np.append(id_index[test], ood_index[of_row == source]),
                )

    def sources(self, y, groups):
        """Return the names of the sources of OOD rows, in the order of the folds.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            -1 for OOD rows.

        groups : array-like of shape (n_samples,)
            The source of each row.

        Returns
        -------
        sources : ndarray
            The distinct values of `groups` among the OOD rows, sorted.
        """
        if groups is None:
            raise ValueError(
                "groups is missing: expected the source of each row, such as "
                "['', '', 'textures', 'noise'] for y = [1, 1, -1, -1]."
            )
        check_consistent_length(y, groups)
        _, ood_index = _both_kinds(y, 1, 1)
        # As objects: among names, NumPy makes NaN the name "nan".
        missing = [is_missing(s) for s in np.asarray(groups, object)[ood_index]]
        if any(missing):
            raise ValueError(
                f"groups names no source for {sum(missing)} of {len(ood_index)} OOD "
                f"rows, the first of them row {ood_index[np.argmax(missing)]}; name "
                "the source of each OOD row, such as 'unknown'."
            )
        return np.unique(np.asarray(groups)[ood_index])

    def get_n_splits(self, X=None, y=None, groups=None):
        """Return the number of folds: `n_splits` for each source.

        Parameters
        ----------
        X : Ignored
            Not used, present for API consistency by convention.

        y : array-like of shape (n_samples,)
            -1 for OOD rows.

        groups : array-like of shape (n_samples,)
            The source of each row.

        Returns
        -------
        n_splits : int
            The number of folds.
        """
        return self.n_splits * len(self.sources(y, groups))


def _both_kinds(y, least_id, least_ood):
    """Return the indices of the ID and of the OOD rows, or raise if too few."""
    rows: Any = None if y is None else id_rows(y, y)[1]
    n_ood = 0 if rows is None else np.count_nonzero(~rows)
    n_id = 0 if rows is None else np.count_nonzero(rows)
    if n_ood < least_ood or n_id < least_id:
        if y is None:
            got = "no y"
        elif rows is None:
            got = f"y with labels {np.unique(y)[:5].tolist()}"
        else:
            got = f"{n_id} ID and {n_ood} OOD rows"
        raise ValueError(
            f"Got {got}; expected at least {least_id} in-distribution rows, labelled 1 "
            f"or by their class, and {least_ood} out-of-distribution rows, labelled "
            "-1: numpy.where(is_ood, -1, 1)."
        )
    return np.flatnonzero(rows), np.flatnonzero(~rows)
