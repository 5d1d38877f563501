"""The parts of a decision: they add up, and agree with a plain sum of gradients."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms

from reactood import ReActDetector, make_react_pipeline
from reactood._scoring._scores import SCORES
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import (
    DecisionDisplay,
    EnergyDropDisplay,
    explain_clipping,
    explain_decision,
)

NAMES = sorted(SCORES)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def made(seed, score="energy", n_classes=5, scale=1.0, **options):
    """Return a detector, rows to explain and ID rows."""
    rng = np.random.default_rng(seed)
    X_id, X = rng.gamma(2.0, size=(60, 6)), rng.gamma(1.0, 3.0, size=(3, 6))
    head = scale * rng.normal(size=(n_classes, 6)), rng.normal(size=n_classes)
    options = {"percentile": 85, "check_score": False, **options}
    detector = ReActDetector(head, score_function=score, **options).fit(X_id)
    return detector, X, X_id


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    score=st.sampled_from(NAMES),
    n_classes=st.integers(2, 12),
    temperature=st.sampled_from([0.5, 1.0, 20.0]),
    n_references=st.integers(1, 9),
)
def test_parts_add_up(seed, score, n_classes, temperature, n_references):
    if score == "gen":
        temperature = 20.0  # it is a step where a class has nearly all probability
    detector, X, X_id = made(seed, score, n_classes, temperature=temperature)
    found = explain_decision(detector, X, X_id, n_references=n_references)
    score_of_row = detector.score_samples(X)
    np.testing.assert_allclose(found.score, score_of_row, rtol=1e-12, atol=1e-12)
    references = detector.score_samples(X_id)[found.reference_rows]
    assert found.reference == pytest.approx(references.mean(), rel=1e-12)
    total = score_of_row - references.mean()
    size = np.abs(found.units).sum(axis=1) + np.abs(found.clip_units).sum(axis=1)
    for parts in found.units, found.classes:
        off = np.abs(parts.sum(axis=1) + found.clip - total)
        assert np.all(off <= 1e-7 * size + 1e-12)
    off = np.abs(found.clip_units.sum(axis=1) - found.clip)
    assert np.all(off <= 1e-7 * size + 1e-12)


def test_what_cannot_be_divided_ends():
    """Next to a probability of 1, float64 makes steps of the generalised entropy."""
    detector, X, X_id = made(1808685358, "gen", 5, temperature=0.5)
    with pytest.raises(ValueError, match="Is the score function continuous"):
        explain_decision(detector, X, X_id, n_references=4)


@pytest.mark.parametrize("score", NAMES)
def test_parts_are_the_integral_of_the_gradient(score):
    """Integrated with autograd and 20,000 steps in the features."""
    detector, X, X_id = made(0, score)
    found = explain_decision(detector, X[:1], X_id, n_references=2)
    weight, bias = map(torch.as_tensor, (detector.coef_, detector.intercept_))
    h, references = torch.as_tensor(X[0]), torch.as_tensor(X_id[found.reference_rows])
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5)[:, None] / 20_000
    units, classes = [], []
    for r in references:
        path = (r + t * (h - r)).requires_grad_()
        logits = path @ weight.T + bias
        logits.retain_grad()
        SCORES[score](logits).sum().backward()
        units.append((h - r) * path.grad.mean(dim=0))
        classes.append((weight @ (h - r)) * logits.grad.mean(dim=0))
    for parts, expected in (found.units, units), (found.classes, classes):
        np.testing.assert_allclose(
            parts[0], torch.stack(expected).mean(dim=0), atol=2e-3
        )


def test_the_clip_s_part_is_the_difference_of_the_drops():
    detector, X, X_id = made(1)
    found = explain_decision(detector, X, X_id)
    drop = explain_clipping(detector, X)
    typical = explain_clipping(detector, X_id[found.reference_rows])
    np.testing.assert_allclose(found.clip, typical.drop.mean() - drop.drop)
    expected = typical.contribution.mean(axis=0) - drop.contribution
    np.testing.assert_allclose(found.clip_units, expected, atol=1e-7)


def test_references_are_in_the_middle():
    detector, X, X_id = made(2)
    found = explain_decision(detector, X, X_id, n_references=4)
    ranks = np.argsort(np.argsort(detector.score_samples(X_id)))
    assert sorted(ranks[found.reference_rows]) == [28, 29, 30, 31]
    assert len(explain_decision(detector, X, X_id, n_references=99).units) == 3
    assert found.threshold == detector.offset_


def test_a_reference_row_explains_itself_by_nothing():
    detector, _, X_id = made(3)
    row = explain_decision(detector, X_id[:1], X_id, n_references=1).reference_rows
    found = explain_decision(detector, X_id[row], X_id, n_references=1)
    for parts in found.total, found.units, found.classes, found.clip:
        assert np.all(parts == 0)


def test_logits_without_a_head():
    _, X, X_id = made(4)
    detector = ReActDetector(percentile=None, check_score=False).fit(X_id)
    found = explain_decision(detector, X, X_id)
    np.testing.assert_allclose(found.units, found.classes)
    assert np.all(found.clip == 0)


@pytest.mark.parametrize(
    "score, message",
    [
        (lambda z: z.detach().logsumexp(1), "has no gradient"),
        (lambda z: z.sum(1) + (z[:, 0] > z[:, 1]), "is the score function continuous"),
    ],
)
def test_scores_that_cannot_be_divided(score, message):
    detector, X, X_id = made(5, score)
    with pytest.raises(ValueError, match=f"(?i){message}"):
        explain_decision(detector, X, X_id)


def test_errors():
    detector, X, X_id = made(6)
    with pytest.raises(ValueError, match="n_references=0; expected at least 1"):
        explain_decision(detector, X, X_id, n_references=0)
    with pytest.raises(ValueError, match="n_nearest=-1; expected at least 0"):
        explain_decision(detector, X, X_id, n_nearest=-1)
    head = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Tanh())
    detector = ReActDetector(head, check_score=False).fit(X_id)
    with pytest.raises(ValueError, match=r"head: Sequential.*expected a linear head"):
        explain_decision(detector, X, X_id)


def test_display():
    pytest.importorskip("matplotlib").use("Agg")
    detector, X, X_id = made(7)
    found = explain_decision(detector, X[:1], X_id)
    display = DecisionDisplay.from_estimator(
        detector, X[:1], X_id, n_units=2, n_classes=5, class_names=list("abcde")
    )
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    first = names.index("clip (relative to ID)") + 1
    widths = np.array([bar.get_width() for bar in display.bars_])
    lefts = np.array([bar.get_x() for bar in display.bars_])
    for block in slice(first), slice(first, None):
        reached = display.reference + widths[block].sum()
        assert reached == pytest.approx(found.score[0])
    largest = np.argsort(-np.abs(found.units[0]))[:2]
    assert names[:2] == [f"unit {i}" for i in largest]
    np.testing.assert_allclose(widths[:2], found.units[0][largest])
    assert set(names[first:-1]) == set("abcde")
    low, high = display.ax_.get_xlim()
    assert low < lefts.min() and (lefts + np.maximum(widths, 0)).max() < high
    ax = display.ax_.figure.add_subplot()
    assert display.plot(ax).ax_ is ax
    assert display.pictures_ == []  # features are no images


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_nearest=st.integers(0, 70))
def test_the_nearest_rows_have_the_smallest_angles(seed, n_nearest):
    detector, X, X_id = made(seed)
    found = explain_decision(detector, X, X_id, n_nearest=n_nearest)
    lengths = np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(X_id, axis=1)
    cosines = X @ X_id.T / lengths
    expected = -np.sort(-cosines, axis=1)[:, :n_nearest]
    np.testing.assert_allclose(found.nearest_similarity, expected, atol=1e-12)
    at_rows = np.take_along_axis(cosines, found.nearest_rows, axis=1)
    np.testing.assert_allclose(at_rows, expected, atol=1e-12)


@pytest.fixture(scope="module")
def digits_and_pipeline():
    digits = load_digits_ood()
    return digits, make_react_pipeline(digits_classifier).fit(digits.X_test)


@pytest.mark.parametrize("kind", ["arrays", "paths"])
def test_pictures_of_the_sample_and_of_the_nearest_images(
    digits_and_pipeline, kind, tmp_path
):
    pytest.importorskip("matplotlib").use("Agg")
    digits, pipeline = digits_and_pipeline
    photo, X_id = digits.ood["photo_china"][:1], digits.X_test[:100]
    shown = [photo[0], *X_id]
    if kind == "paths":  # as grey files, which a network of its own steps reads
        pixels = [(255 * np.clip(image[0], 0, 1)).astype(np.uint8) for image in shown]
        paths = [tmp_path / f"{i}.png" for i in range(len(shown))]
        for image, path in zip(pixels, paths, strict=True):
            Image.fromarray(image).save(path)
        preprocess = transforms.Compose(
            [
                transforms.Grayscale(),
                transforms.ToTensor(),
                transforms.Normalize([0.0], [1.0]),
            ]
        )
        pipeline = make_react_pipeline(digits_classifier, preprocess=preprocess)
        photo, X_id = paths[:1], paths[1:]
        pipeline.fit(X_id)
    display = DecisionDisplay.from_estimator(pipeline, photo, X_id, n_nearest=3)
    found = explain_decision(pipeline, photo, X_id, n_nearest=3)
    assert len(display.pictures_) == 4
    assert list(display.nearest_rows) == list(found.nearest_rows[0])
    for picture, row in zip(
        display.pictures_, [-1, *display.nearest_rows], strict=True
    ):
        drawn = np.asarray(picture.get_array(), float)
        expected = shown[row + 1][0]
        if kind == "paths":
            expected = np.repeat(pixels[row + 1][..., None], 3, axis=2)
        else:
            expected = (expected - expected.min()) / np.ptp(expected)
        np.testing.assert_allclose(drawn, expected, atol=1e-6)
    display.figure_.canvas.draw()
    (strip,) = display.ax_.child_axes
    below = [text.get_text().split("\n")[0] for text in strip.texts]
    names = [f"ID row {row}" for row in display.nearest_rows]
    if kind == "paths":
        names = [X_id[row].name for row in display.nearest_rows]
    assert below == ["this sample", *names]
    bare = DecisionDisplay.from_estimator(pipeline, photo, X_id, n_nearest=0)
    assert bare.pictures_ == []


def test_id_images_that_cannot_be_read_are_left_out(digits_and_pipeline, tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    digits, _ = digits_and_pipeline
    X_id, photo = digits.X_test[:40].copy(), digits.ood["photo_china"][:1]
    X_id[[0, 7]] = np.nan
    pipeline = make_react_pipeline(digits_classifier, on_error="nan")
    pipeline.fit(digits.X_test)
    good = np.delete(np.arange(40), [0, 7])
    expected = explain_decision(pipeline, photo, X_id[good])
    with pytest.warns(UserWarning) as noted:
        found = explain_decision(pipeline, photo, X_id)
    said = [str(warning.message) for warning in noted]
    assert any(text.startswith("2 of 40 rows of X_id hold NaN") for text in said)
    np.testing.assert_array_equal(found.units, expected.units)
    for name in "reference_rows", "nearest_rows":
        np.testing.assert_array_equal(found[name], good[expected[name]])
    with pytest.warns(UserWarning):
        drop = EnergyDropDisplay.from_estimator(pipeline, photo, X_id).id_drop
    assert len(drop) == 38
    with (
        pytest.raises(ValueError, match="None of the 2 rows of X_id could be read"),
        pytest.warns(UserWarning, match="2 images could not be read"),
    ):
        explain_decision(pipeline, photo, X_id[[0, 7]])


def test_a_loader_shows_no_pictures(digits_and_pipeline):
    pytest.importorskip("matplotlib").use("Agg")
    digits, pipeline = digits_and_pipeline
    photo, X_id = (
        DataLoader(TensorDataset(torch.from_numpy(images)), 4)
        for images in (digits.ood["photo_china"][:1], digits.X_test[:20])
    )
    display = DecisionDisplay.from_estimator(pipeline, photo, X_id)
    assert display.pictures_ == []
    photo = digits.ood["photo_china"][:1]
    display = DecisionDisplay.from_estimator(pipeline, photo, X_id)
    assert len(display.pictures_) == 1  # the sample alone


def test_tables_and_lists_of_texts_are_no_pictures():
    pytest.importorskip("matplotlib").use("Agg")
    detector, X, X_id = made(8)
    tables = Pipeline([("same", FunctionTransformer()), ("detector", detector)])
    assert DecisionDisplay.from_estimator(tables, X[:1], X_id).pictures_ == []

    def lengths(texts):
        return np.array([[len(text)] * 6 for text in texts], float)

    step = FunctionTransformer(lengths).fit(["a"])
    texts = Pipeline([("lengths", step), ("detector", detector)])
    display = DecisionDisplay.from_estimator(texts, ["word"], ["one", "two words"])
    assert display.pictures_ == []


def test_display_errors():
    detector, X, X_id = made(7)
    with pytest.raises(ValueError, match="Got 3 samples, expected one"):
        DecisionDisplay.from_estimator(detector, X, X_id)
    with pytest.raises(ValueError, match="n_units=0"):
        DecisionDisplay.from_estimator(detector, X[:1], X_id, n_units=0)
