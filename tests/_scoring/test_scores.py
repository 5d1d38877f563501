"""Scores against scipy, and their directions."""

import functools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import spearmanr
from sklearn.base import clone

from reactood import ReActDetector
from reactood import scores as public
from reactood._scoring._scores import SCORES

REFERENCES = {
    "energy": lambda f, t: t * logsumexp(f / t, axis=1),
    "centered_energy": lambda f, t: t * logsumexp(f / t, axis=1) - f.mean(axis=1),
    "centered_max_logit": lambda f, t: f.max(axis=1) - f.mean(axis=1),
    "msp": lambda f, t: softmax(f / t, axis=1).max(axis=1),
    "max_logit": lambda f, t: f.max(axis=1),
    "entropy": lambda f, t: (softmax(f / t, axis=1) * log_softmax(f / t, axis=1)).sum(
        1
    ),
    "gen": lambda f, t: np.array([generalised_entropy(row / t) for row in f]),
    "joint_energy": lambda f, t: t * np.logaddexp(0, f / t).sum(axis=1),
}


def generalised_entropy(row, gamma=0.1, n_largest=100):
    p, total = softmax(row.astype(np.longdouble)), 0.0
    for k in np.argsort(-row)[:n_largest]:
        total += p[k] ** gamma * np.delete(p, k).sum() ** gamma
    return -float(total)


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


def gen_without_rounding(a, gamma, n_largest):
    n_classes = a.shape[1]
    a = np.sort(a, axis=1)[:, -n_largest:]
    return np.expm1(gamma * (a + np.log1p(-np.expm1(a) / (n_classes - 1)))).sum(axis=1)


def without_rounding(name, logits, temperature):
    """Return the score less that of equal logits, by sums without cancellation."""
    logits = logits.astype(np.longdouble)
    mean = logits.mean(axis=1, keepdims=True)
    w = (logits - mean) / temperature
    log_mean = np.log1p(np.expm1(w).mean(axis=1, keepdims=True))
    a = w - log_mean  # log(n_classes * p)
    return {
        "energy": mean[:, 0] + temperature * log_mean[:, 0],
        "centered_energy": temperature * log_mean[:, 0],
        "centered_max_logit": (logits - mean).max(axis=1),
        "msp": np.expm1(a.max(axis=1)),
        "max_logit": logits.max(axis=1),
        "entropy": np.mean(np.exp(a) * a - np.expm1(a), axis=1),
        "gen": -gen_without_rounding(a, gamma=0.1, n_largest=100),
        "joint_energy": temperature
        * np.log1p(np.expm1(logits / temperature) / 2).sum(axis=1),
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
    detector = ReActDetector(
        head, score_function=name, temperature=temperature, check_score=False
    )
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


@pytest.mark.parametrize("gamma", [0.05, 0.5])
@pytest.mark.parametrize("n_largest", [1, 3, 50])
def test_parameters_of_gen(rng, gamma, n_largest):
    logits = rng.normal(0, 3, size=(20, 7))
    found = public.gen(torch.from_numpy(logits), gamma=gamma, n_largest=n_largest)
    expected = [generalised_entropy(row, gamma, n_largest) for row in logits]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("largest", [10, 30, 80])
def test_gen_ranks_rows_that_are_nearly_certain(largest):
    logits = np.zeros((50, 4), np.float32)
    logits[:, 0] = largest + np.linspace(0, 1, 50, dtype=np.float32)
    found = public.gen(torch.from_numpy(logits))
    assert (np.diff(found) > 0).all()
    expected = [generalised_entropy(row) for row in logits]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_score_with_parameters_in_a_detector(rng):
    X = rng.gamma(2.0, size=(60, 6))
    head = rng.normal(size=(4, 6)), np.zeros(4)
    function = functools.partial(public.gen, gamma=0.3, n_largest=2)
    detector = clone(ReActDetector(head, percentile=None, score_function=function))
    found = pickle.loads(pickle.dumps(detector.fit(X))).score_samples(X)
    expected = [generalised_entropy(row, 0.3, 2) for row in X @ head[0].T]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_every_named_score_is_public():
    assert {name: getattr(public, name) for name in public.__all__} == SCORES


@given(logits=LOGITS, shift=st.floats(-100, 100))
def test_centered_energy_depends_on_the_softmax_alone(logits, shift):
    found = public.centered_energy(torch.from_numpy(logits + shift)).numpy()
    p = log_softmax(logits, axis=1)
    from_uniform = -np.log(logits.shape[1]) - p.mean(axis=1)
    np.testing.assert_allclose(found, np.log(logits.shape[1]) + from_uniform, atol=1e-9)


def test_parameters_of_gen_out_of_range():
    logits = torch.zeros(2, 3)
    for gamma in (-1.0, 0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"gamma={gamma}; expected a number betw"):
            public.gen(logits, gamma=gamma)
    with pytest.raises(ValueError, match="n_largest=0; expected an integer"):
        public.gen(logits, n_largest=0)
