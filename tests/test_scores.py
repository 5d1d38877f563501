"""Scores against scipy, and their directions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, logsumexp, softmax

from reactood._scores import SCORES

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
