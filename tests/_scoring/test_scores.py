"""Scores against scipy, and their directions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import spearmanr

from reactood import ReActDetector
from reactood._scoring._scores import SCORES

REFERENCES = {
    "energy": lambda f, t: t * logsumexp(f / t, axis=1),
    "msp": lambda f, t: softmax(f / t, axis=1).max(axis=1),
    "max_logit": lambda f, t: f.max(axis=1),
    "entropy": lambda f, t: (softmax(f / t, axis=1) * log_softmax(f / t, axis=1)).sum(
        1
    ),
}
LOGITS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-100, 100),
)


@pytest.mark.parametrize("name", SCORES)
@given(logits=LOGITS, temperature=st.floats(0.1, 100))
def test_equal_to_scipy(name, logits, temperature):
    ours = SCORES[name](torch.from_numpy(logits), temperature).numpy()
    expected = REFERENCES[name](logits, temperature)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SCORES)
def test_huge_logits_do_not_overflow(name):
    logits = torch.tensor([[1e4, 0.0], [-1e4, -2e4]])
    assert SCORES[name](logits, 1.0).isfinite().all()


@pytest.mark.parametrize("name", SCORES)
def test_higher_is_more_confident(name):
    unsure, sure = SCORES[name](torch.tensor([[0.0, 0, 0], [9.0, 0, 0]]), 1.0)
    assert sure > unsure


def without_rounding(name, logits, temperature):
    """Return the score less that of equal logits, by sums without cancellation."""
    logits = logits.astype(np.longdouble)
    mean = logits.mean(axis=1, keepdims=True)
    w = (logits - mean) / temperature
    log_mean = np.log1p(np.expm1(w).mean(axis=1, keepdims=True))
    a = w - log_mean  # log(n_classes * p)
    return {
        "energy": mean[:, 0] + temperature * log_mean[:, 0],
        "msp": np.expm1(a.max(axis=1)),
        "max_logit": logits.max(axis=1),
        "entropy": np.mean(np.exp(a) * a - np.expm1(a), axis=1),
    }[name].astype(float)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("temperature", [1, 10, 100, 1000, 1e5])
@pytest.mark.parametrize("n_classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.1, 5])
def test_single_precision_keeps_the_rank(rng, name, temperature, n_classes, scale):
    if (scale, name, temperature, n_classes) == (0.1, "entropy", 1e5, 1000):
        pytest.skip("below what float64 tells, as the detector says: see below")
    logits = rng.normal(0, scale, size=(300, n_classes)).astype(np.float32)
    scores = SCORES[name](torch.from_numpy(logits), float(temperature)).numpy()
    expected = without_rounding(name, logits, temperature)
    assert spearmanr(scores, expected).statistic > 0.999


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("temperature", [1, 10, 100, 1000, 1e5])
@pytest.mark.parametrize("n_classes", [3, 1000])
def test_detector_ranks_in_single_as_in_double(rng, name, temperature, n_classes):
    X = np.maximum(rng.normal(0.5, 1, size=(300, 64)), 0).astype(np.float32)
    head = rng.normal(size=(n_classes, 64)).astype(np.float32), np.zeros(n_classes)
    detector = ReActDetector(head, score_function=name, temperature=temperature)
    single = detector.fit(X).score_samples(X)
    double = detector.fit(X.astype(np.float64)).score_samples(X.astype(np.float64))
    assert spearmanr(single, double).statistic > 0.999


@pytest.mark.parametrize("name", ["energy", "msp", "entropy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_temperature_beyond_double_precision_is_refused(rng, name, dtype):
    X = rng.gamma(2.0, size=(100, 6)).astype(dtype)
    head = rng.normal(size=(4, 6)), np.zeros(4)
    detector = ReActDetector(head, score_function=name, temperature=1e14)
    with pytest.raises(ValueError, match=r"same score.* is the temperature very high"):
        detector.fit(X)
