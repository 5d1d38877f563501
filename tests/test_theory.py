"""The theory against the published forms, quadrature and sampling."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, norm

from reactood.theory import (
    clipped_mean,
    epsilon_skew_normal,
    fit_activations,
    mean_reduction,
    rectified_mean,
)

VECTORS = [  # mu, sigma, epsilon, c, mean, reduction
    (0.5, 1, 0, 1, 0.6978, 0.1978),
    (0.5, 1, -0.5, 1, 1.3187, 0.5720),
    (0.5, 1, 0.5, 1, 0.2741, 0.0208),
    (0.3, 0.7, -0.8, 0.9, 1.1938, 0.4655),
    (0, 1, -0.3, 0.5, 0.6742, 0.3985),
]
MU, SIGMA = st.floats(-2, 2), st.floats(0.1, 3)
EPSILON, C = st.floats(-0.95, 0.95), st.floats(0, 4)


@pytest.mark.parametrize("mu, sigma, epsilon, c, mean, reduction", VECTORS)
def test_published_values(mu, sigma, epsilon, c, mean, reduction):
    assert rectified_mean(mu, sigma, epsilon) == pytest.approx(mean, abs=1e-4)
    assert mean_reduction(mu, sigma, epsilon, c=c) == pytest.approx(reduction, abs=1e-4)
    expected = mean - reduction
    assert clipped_mean(mu, sigma, epsilon, c=c) == pytest.approx(expected, abs=2e-4)


@given(mu=MU, sigma=SIGMA, epsilon=EPSILON, c=C)
def test_means_equal_integrals(mu, sigma, epsilon, c):
    """Of the density written out here, from 0 and from the clip up."""

    def density(x):
        side = 1 + epsilon if x < mu else 1 - epsilon
        return norm.pdf((x - mu) / (side * sigma)) / sigma

    def excess(start):
        ends = [x for x in (mu, mu + sigma, mu + 4 * sigma) if x > start]
        stops = [start, *ends, max(start, mu) + 30 * sigma]
        return sum(
            quad(lambda x: (x - start) * density(x), a, b)[0]
            for a, b in itertools.pairwise(stops)
        )

    assert rectified_mean(mu, sigma, epsilon) == pytest.approx(excess(0), abs=1e-7)
    found = mean_reduction(mu, sigma, epsilon, c=c)
    assert found == pytest.approx(excess(c), abs=1e-7)
    assert found >= -1e-12


@given(mu=st.floats(0, 2), sigma=SIGMA, epsilon=EPSILON, above=st.floats(0, 3))
def test_the_papers_forms(mu, sigma, epsilon, above):
    """The closed forms for mu and c - mu of at least 0, as they are printed."""
    phi, Phi = norm.pdf, norm.cdf
    a = -mu / ((1 + epsilon) * sigma)
    mean = (
        mu
        - (1 + epsilon) * Phi(a) * mu
        + (1 + epsilon) ** 2 * phi(a) * sigma
        - 4 * epsilon / np.sqrt(2 * np.pi) * sigma
    )
    assert rectified_mean(mu, sigma, epsilon) == pytest.approx(mean, abs=1e-10)
    c = mu + above
    u = (c - mu) / ((1 - epsilon) * sigma)
    reduction = (1 - epsilon) ** 2 * sigma * phi(u)
    reduction -= (1 - epsilon) * (c - mu) * (1 - Phi(u))
    assert mean_reduction(mu, sigma, epsilon, c=c) == pytest.approx(
        reduction, abs=1e-10
    )
    a, u = -mu / sigma, (c - mu) / sigma
    clipped = (Phi(u) - Phi(a)) * mu + (1 - Phi(u)) * c + (phi(a) - phi(u)) * sigma
    assert clipped_mean(mu, sigma, c=c) == pytest.approx(clipped, abs=1e-10)


@given(mu=MU, sigma=SIGMA, c=C, epsilons=st.tuples(EPSILON, EPSILON))
def test_the_more_skewed_the_more_is_taken(mu, sigma, c, epsilons):
    low, high = sorted(epsilons)
    more, less = (mean_reduction(mu, sigma, epsilon, c=c) for epsilon in (low, high))
    assert more >= less - 1e-12
    if c >= mu:
        wider = mean_reduction(mu, 1.5 * sigma, low, c=c)
        assert wider >= more - 1e-12


def test_shapes_and_no_clip():
    mu = np.zeros((3, 1))
    assert mean_reduction(mu, [1, 2], c=0.5).shape == (3, 2)
    assert mean_reduction(0.5, 1, -0.5, c=np.inf) == 0
    assert clipped_mean(0.5, 1, c=np.inf) == rectified_mean(0.5, 1)
    assert clipped_mean(0.5, 1, c=0) == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sigma": [1, 0]}, "sigma must be above 0"),
        ({"sigma": np.nan}, "sigma must be above 0"),
        ({"epsilon": -1}, r"epsilon must be in \(-1, 1\)"),
        ({"c": -0.1}, "c must be at least 0"),
    ],
)
def test_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        mean_reduction(**({"mu": 0, "sigma": 1, "epsilon": 0, "c": 1} | change))


@pytest.mark.parametrize("epsilon", [-0.9, -0.3, 0, 0.6])
def test_distribution(epsilon):
    law = epsilon_skew_normal(epsilon, loc=0.4, scale=1.7)
    x = np.linspace(-6, 8, 57)
    for upper in x[::8]:
        area = quad(law.pdf, -20, 0.4)[0] if upper > 0.4 else 0
        area += quad(law.pdf, 0.4 if upper > 0.4 else -20, upper)[0]
        assert law.cdf(upper) == pytest.approx(area, abs=1e-8)
    np.testing.assert_allclose(law.sf(x), 1 - law.cdf(x), atol=1e-12)
    q = np.linspace(0.001, 0.999, 41)
    np.testing.assert_allclose(law.cdf(law.ppf(q)), q, atol=1e-12)
    assert law.cdf(0.4) == pytest.approx((1 + epsilon) / 2)
    assert law.mean() == pytest.approx(0.4 - 4 * epsilon * 1.7 / np.sqrt(2 * np.pi))
    sample = law.rvs(size=20_000, random_state=0)
    assert kstest(sample, law.cdf).pvalue > 0.001
    assert sample.std() == pytest.approx(law.std(), rel=0.03)
    for n in (2, 3, 4):
        moment = quad(lambda x, n=n: x**n * law.pdf(x), -30, 0.4)[0]
        moment += quad(lambda x, n=n: x**n * law.pdf(x), 0.4, 40)[0]
        assert law.moment(n) == pytest.approx(moment, rel=1e-6)
    assert np.isnan(epsilon_skew_normal.pdf(0, 1.0))


@pytest.mark.parametrize("mu", [-0.5, 0.3, 2.0])
@pytest.mark.parametrize("epsilon", [-0.7, 0.0, 0.3])
def test_a_fit_finds_the_truth(mu, epsilon):
    law = epsilon_skew_normal(epsilon, loc=mu, scale=0.8)
    X = np.maximum(law.rvs(size=(20_000, 1), random_state=1), 0)
    fitted = fit_activations(X)
    tolerance = 0.12 if mu > 0 else 0.35  # most of the unit is out of sight below 0
    assert fitted.mu[0] == pytest.approx(mu, abs=tolerance)
    assert fitted.sigma[0] == pytest.approx(0.8, abs=tolerance)
    assert fitted.epsilon[0] == pytest.approx(epsilon, abs=tolerance)
    parameters = fitted.mu, fitted.sigma, fitted.epsilon
    for c in (0.5, 1.0, 2.0):
        expected = mean_reduction(mu, 0.8, epsilon, c=c)
        found = mean_reduction(*parameters, c=c)[0]
        assert found == pytest.approx(expected, abs=0.015)


def test_fits_scale_with_the_activations(rng):
    X = np.maximum(rng.normal(0.3, 1, size=(500, 3)), 0)
    one, other = fit_activations(X), fit_activations(1000 * X)
    np.testing.assert_allclose(other.mu, 1000 * one.mu, rtol=1e-2, atol=1)
    np.testing.assert_allclose(other.sigma, 1000 * one.sigma, rtol=1e-2)
    np.testing.assert_allclose(other.epsilon, one.epsilon, atol=1e-2)


def test_units_without_enough_activations(rng):
    X = np.maximum(rng.normal(size=(100, 3)), 0)
    X[:, 0], X[:, 1] = 0, 2.0
    fitted = fit_activations(X)
    np.testing.assert_array_equal(np.isnan(fitted.mu), [True, True, False])


def test_signed_features_are_refused(rng):
    with pytest.raises(ValueError, match="negative activations, down to -"):
        fit_activations(rng.normal(size=(50, 2)))
