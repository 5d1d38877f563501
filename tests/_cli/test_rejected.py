"""How far chance goes in the share of in-distribution images that is rejected."""

import numpy as np
import pytest

from reactood import ReActDetector
from reactood._cli._rejected import clearly_more, note_of_few, range_of_new
from reactood.conformal import ConformalDetector


@pytest.mark.parametrize(("n", "contamination"), [(20, 0.05), (100, 0.05), (41, 0.1)])
def test_the_range_holds_in_95_of_100_fits(n, contamination):
    scores = np.random.default_rng(0).random((20_000, n))  # uniform: a share is a score
    shares = np.percentile(scores, 100 * contamination, axis=1)
    low, high = range_of_new(n, contamination)
    inside = (shares >= low) & (shares <= high)
    assert 0.945 <= inside.mean() <= 0.99  # more where it lies between two scores
    assert max((shares < low).mean(), (shares > high).mean()) <= 0.03


def test_no_note_for_many_images_or_no_share():
    few, many, other = ReActDetector(), ReActDetector(), object()
    few.n_samples_seen_, many.n_samples_seen_ = 299, 300
    assert "rests on 299 images: it rejects between 2." in note_of_few(few)
    assert note_of_few(many) == note_of_few(other) == ""
    few.n_samples_seen_ = 1
    assert "rests on 1 image:" in note_of_few(few)


def test_what_chance_explains():
    """About 5 of 100 ID images are rejected; where few set the threshold, up to 26."""
    detector = ReActDetector(contamination=0.05)
    for n_fit, most in ((20, 26), (300, 11), (100_000, 10)):
        detector.n_samples_seen_ = n_fit
        found = [clearly_more(n, 100, detector, detector) for n in range(101)]
        assert found == [n > most for n in range(101)]
    del detector.n_samples_seen_
    assert not clearly_more(9, 100, detector, detector)
    assert clearly_more(11, 100, detector, detector)
    assert not clearly_more(100, 100, object(), object())


def test_chance_explains_as_many_as_in_a_simulation():
    rng, detector = np.random.default_rng(0), ReActDetector(contamination=0.1)
    detector.n_samples_seen_ = 41  # an order statistic, without interpolation
    thresholds = np.percentile(rng.random((4000, 41)), 10, axis=1)
    n_rejected = rng.binomial(60, thresholds)
    alarms = [clearly_more(n, 60, detector, detector) for n in n_rejected]
    assert 0.01 <= np.mean(alarms) <= 0.03


def test_what_chance_explains_of_a_calibrated_one():
    detector, inner = ConformalDetector(None, alpha=0.2), ReActDetector()
    detector.calibration_scores_ = np.zeros(99)
    assert not clearly_more(25, 100, detector, inner)
    assert clearly_more(40, 100, detector, inner)
