"""FPR at TPR against a brute-force count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactood.metrics import fpr_at_tpr

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=60)  # many ties


@pytest.mark.filterwarnings("ignore:The scores are tied at the top")
@given(id_scores=SCORES, ood_scores=SCORES, tpr=st.floats(0.05, 1))
def test_equals_a_count(id_scores, ood_scores, tpr):
    index = min(round((1 - tpr) * len(id_scores)), len(id_scores) - 1)
    threshold = sorted(id_scores)[index]
    accepted = sum(score > threshold for score in ood_scores)
    y_true = [1] * len(id_scores) + [-1] * len(ood_scores)
    assert fpr_at_tpr(y_true, id_scores + ood_scores, tpr=tpr) == pytest.approx(
        accepted / len(ood_scores)
    )


def test_the_papers_threshold_is_at_index_2500_of_50000():
    id_scores = np.arange(50_000.0)
    ood = [2499.0, 2500.0, 2501.0]
    y_true = np.repeat([1, -1], [50_000, 3])
    assert fpr_at_tpr(y_true, np.append(id_scores, ood)) == pytest.approx(1 / 3)


def test_perfect_and_reversed():
    y_true = np.repeat([1, -1], 50)
    assert fpr_at_tpr(y_true, np.arange(100)[::-1]) == 0
    assert fpr_at_tpr(y_true, np.arange(100)) == 1


def test_a_score_that_is_always_the_same_warns():
    with pytest.warns(UserWarning, match="tied at the top"):
        assert fpr_at_tpr([1, 1, -1], [1.0, 1.0, 1.0]) == 0


@pytest.mark.parametrize(
    ("y_true", "y_score", "tpr", "sentence"),
    [
        ([1, 0], [1, 2], 0.95, r"holds the labels \[0, 1\], wanted both 1"),
        ([1, 1], [1, 2], 0.95, r"holds the labels \[1\]"),
        ([1, -1], [1, 2], 95, r"tpr=95 must be a fraction"),
        ([1, -1], [1, np.nan], 0.95, "NaN"),
        ([1, -1, 1], [1, 2], 0.95, "inconsistent numbers"),
    ],
)
def test_bad_input(y_true, y_score, tpr, sentence):
    with pytest.raises(ValueError, match=sentence):
        fpr_at_tpr(y_true, y_score, tpr=tpr)
