"""What estimators have in common when something is wrong."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import IsolationForest

from reactood import ReActDetector, ReActDetectorCV
from reactood.baselines import MahalanobisDetector
from reactood.conformal import ConformalDetector
from reactood.rectifiers import ASH, BATS, DICE, SCALE, VRAP, BFAct

Y = np.where(np.arange(80) % 4, 1, -1)
HEAD = np.eye(3, 6), np.zeros(3)
CONSTANT = np.ones((80, 4))
NEGATIVE = -np.ones((80, 4))


class Fussy(IsolationForest):
    """Stores what scikit-learn stores first, then fails."""

    def fit(self, X, y=None, sample_weight=None):
        super().fit(X, y)
        if X.shape[1] == 4:
            raise ValueError("not these")
        return self


@pytest.mark.parametrize(
    ("estimator", "bad"),
    [
        (ReActDetector(HEAD), CONSTANT),
        (ReActDetector(), CONSTANT),
        (ReActDetectorCV(HEAD, cv=2), CONSTANT),
        (ReActDetectorCV(cv=2), CONSTANT),
        (ConformalDetector(Fussy(n_estimators=5), random_state=0), CONSTANT),
        (ConformalDetector(ReActDetector(), random_state=0), CONSTANT),
        (MahalanobisDetector(), CONSTANT),
        (DICE(HEAD), CONSTANT),
        (BATS(), np.full((80, 4), np.nan)),
        (VRAP(), NEGATIVE),
        (BFAct(), NEGATIVE),
        (ASH(), NEGATIVE),
        (SCALE(), NEGATIVE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failed_refit_leaves_the_first_fit_as_it_was(rng, estimator, bad):
    X = pd.DataFrame(rng.gamma(2.0, size=(80, 6)), columns=list("abcdef"))
    estimator.fit(X, Y)
    before = vars(estimator).copy()
    method = "transform" if hasattr(estimator, "transform") else "score_samples"
    expected = getattr(estimator, method)(X)
    with pytest.raises(ValueError):
        estimator.fit(bad, Y)
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(getattr(estimator, method)(X), expected)


@pytest.mark.parametrize("estimator", [ReActDetector(HEAD), BATS()])
def test_a_failed_first_fit_leaves_nothing(estimator):
    with pytest.raises(ValueError):
        estimator.fit(np.full((80, 6), np.nan))
    assert not hasattr(estimator, "n_features_in_")
