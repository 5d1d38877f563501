"""The displays: their numbers by plain numpy, what is drawn, and what is refused."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    DetCurveDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from reactood import ReActDetector, ReActDetectorCV, make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import (
    ActivationHistogramDisplay,
    ActivationProfileDisplay,
    ContactSheetDisplay,
    EnergyDropDisplay,
    MetricCurveDisplay,
    ReductionDisplay,
    ScoreDistributionDisplay,
    as_classifier,
    explain_clipping,
)
from reactood.inspection._explain import mean_softmax
from reactood.metrics import fpr_at_tpr
from reactood.model_selection import OODSplit, tune_percentile
from reactood.theory import epsilon_skew_normal, mean_reduction

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    """Features of ID and OOD rows, their labels, and a head."""
    rng = np.random.default_rng(0)
    X_id, X_ood = rng.gamma(2.0, size=(200, 8)), rng.gamma(1.0, 3.0, size=(60, 8))
    head = rng.normal(size=(5, 8)), rng.normal(size=5)
    return np.concatenate([X_id, X_ood]), np.repeat([1, -1], [200, 60]), head


@pytest.fixture(scope="module")
def detector(data):
    X, y, head = data
    return ReActDetector(head, percentile=90).fit(X[y == 1])


@pytest.fixture(scope="module")
def search(data):
    X, y, head = data
    percentiles = [50, 70, None, 90]  # the order is the user's
    return ReActDetectorCV(head, percentiles=percentiles, scoring="fpr95").fit(X, y)


def texts(display):
    """Return all that a reader can read."""
    legend = display.ax_.get_legend()
    labels = [text.get_text() for text in legend.texts] if legend else []
    ax = display.ax_
    return " | ".join([ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), *labels])


@pytest.fixture
def displays(data, detector, search):
    X, y, _ = data
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    return [
        ScoreDistributionDisplay.from_estimator(detector, X, y),
        ActivationProfileDisplay.from_estimator(detector, X, y),
        ActivationHistogramDisplay.from_estimator(detector, X),
        MetricCurveDisplay.from_search(search),
        EnergyDropDisplay.from_estimator(detector, X[-1:]),
        ContactSheetDisplay.from_predictions(images, np.arange(20)),
    ]


def test_every_display_draws_again_and_where_it_is_told(displays):
    for display in displays:
        first = display.ax_
        assert display.figure_ is first.figure
        _, ax = plt.subplots()
        assert display.plot(ax=ax) is display
        assert display.ax_ is ax is not first
        display.figure_.canvas.draw()
        assert len(ax.get_children()) == len(first.get_children())


def test_every_axis_has_a_label(displays):
    for display in displays[:-1]:
        assert display.ax_.get_xlabel(), display
        assert display.ax_.get_ylabel() or display.ax_.get_yticklabels(), display


# Scores


def test_score_distribution(data, detector):
    X, y, _ = data
    display = ScoreDistributionDisplay.from_estimator(detector, X, y, bins=12)
    scores = detector.score_samples(X)
    np.testing.assert_array_equal(display.id_scores, scores[y == 1])
    np.testing.assert_array_equal(display.ood_scores, scores[y == -1])
    assert display.auroc == pytest.approx(roc_auc_score(y, scores))
    assert display.fpr95 == fpr_at_tpr(y, scores)
    assert np.mean(display.ood_scores > display.tpr_threshold) == display.fpr95
    assert display.threshold == detector.offset_
    for patch, group in (
        (display.id_patch_, display.id_scores),
        (display.ood_patch_, display.ood_scores),
    ):
        counts, edges = np.histogram(group, display.id_patch_.get_data().edges)
        assert len(edges) == 13
        np.testing.assert_allclose(patch.get_data().values, 100 * counts / len(group))
    assert display.threshold_line_.get_xdata()[0] == detector.offset_
    assert "score_samples (the higher" in texts(display)
    assert f"FPR95 {display.fpr95:.3f} (fractions)" in texts(display)


def test_score_distribution_from_predictions_is_the_same(data, detector):
    X, y, _ = data
    one = ScoreDistributionDisplay.from_estimator(detector, X, y)
    other = ScoreDistributionDisplay.from_predictions(y, detector.score_samples(X))
    assert (one.auroc, one.fpr95) == (other.auroc, other.fpr95)
    assert other.threshold_line_ is None
    assert other.tpr_line_.get_xdata()[0] == one.tpr_threshold


def test_score_distribution_of_another_detector(data):
    X, y, _ = data
    forest = IsolationForest(random_state=0).fit(X[y == 1])
    display = ScoreDistributionDisplay.from_estimator(forest, X, y)
    np.testing.assert_array_equal(display.id_scores, forest.score_samples(X[y == 1]))
    assert display.threshold == forest.offset_


def test_scikit_learns_own_displays(data, detector):
    X, y, _ = data
    pipeline = make_pipeline(FunctionTransformer(np.square), detector)
    forest = IsolationForest(random_state=0).fit(X[y == 1])
    for estimator in detector, pipeline, forest:
        auroc = roc_auc_score(y, estimator.score_samples(X))
        classifier = as_classifier(estimator)
        display = RocCurveDisplay.from_estimator(classifier, X, y)
        assert display.roc_auc == pytest.approx(auroc)
        DetCurveDisplay.from_estimator(classifier, X, y)
        PrecisionRecallDisplay.from_estimator(classifier, X, y)
        display = ConfusionMatrixDisplay.from_estimator(classifier, X, y)
        rejected = estimator.predict(X) == -1
        assert display.confusion_matrix[0, 0] == np.sum(rejected & (y == -1))
        assert display.confusion_matrix[1, 0] == np.sum(rejected & (y == 1))
    with pytest.raises(NotFittedError):
        as_classifier(IsolationForest())


@pytest.mark.parametrize(
    "y, message",
    [
        ([1] * 260, r"labels \[1\], expected both"),
        ([0] * 200 + [1] * 60, r"labels \[0, 1\].*numpy.where\(is_ood, -1, 1\)"),
        ([1, -1], "2 labels for 260 samples"),
    ],
)
@pytest.mark.parametrize(
    "display", [ScoreDistributionDisplay, ActivationProfileDisplay]
)
def test_wrong_labels(data, detector, display, y, message):
    with pytest.raises(ValueError, match=message):
        display.from_estimator(detector, data[0], y)


def test_scores_that_are_no_numbers():
    with pytest.raises(ValueError, match="NaN"):
        ScoreDistributionDisplay.from_predictions([1, -1], [0.5, np.nan])


def test_an_estimator_without_scores(data):
    scaler = FunctionTransformer().fit(data[0])
    with pytest.raises(TypeError, match="neither score_samples nor decision_function"):
        ScoreDistributionDisplay.from_estimator(scaler, *data[:2])


# Activations


@pytest.mark.parametrize("sort", [True, False])
def test_profile(data, detector, sort):
    X, y, _ = data
    display = ActivationProfileDisplay.from_estimator(detector, X, y, sort=sort)
    np.testing.assert_allclose(display.id_mean, X[y == 1].mean(axis=0))
    np.testing.assert_allclose(display.ood_mean, X[y == -1].mean(axis=0))
    for side, percentiles in (1, display.id_percentiles), (-1, display.ood_percentiles):
        expected = np.percentile(X[y == side], [5, 25, 75, 95], axis=0)
        np.testing.assert_allclose(percentiles, expected)
    order = np.argsort(display.id_mean) if sort else np.arange(8)
    np.testing.assert_array_equal(display.id_line_.get_ydata(), display.id_mean[order])
    np.testing.assert_array_equal(
        display.ood_line_.get_ydata(), display.ood_mean[order]
    )
    (clip,) = display.clip_lines_
    assert set(clip.get_ydata()) == {detector.activation_threshold_}
    assert "50 % and 90 % of ID" in texts(display)
    low, high = (display.id_percentiles[i] for i in (0, -1))
    drawn = display.id_bands_[0].get_paths()[0].vertices[:, 1]
    assert (drawn.min(), drawn.max()) == (low.min(), high.max())


def test_profile_of_many_units_is_drawn_in_groups():
    rng = np.random.default_rng(0)
    X, y = rng.gamma(2, size=(60, 1000)), np.repeat([1, -1], 30)
    detector = ReActDetector((np.eye(3, 1000), np.zeros(3)), per_unit=True).fit(X[:30])
    display = ActivationProfileDisplay.from_estimator(detector, X, y)
    drawn = display.id_line_.get_ydata()
    assert len(drawn) == 150 and np.all(np.diff(drawn) >= 0)
    whole = np.sort(display.id_mean)
    np.testing.assert_allclose(drawn[0], whole[:7].mean())  # 1,000 = 100 x 7 + 50 x 6
    np.testing.assert_allclose(drawn[-1], whole[-6:].mean())
    (clip,) = display.clip_lines_
    assert len(clip.get_ydata()) == 150
    np.testing.assert_allclose(display.id_line_.get_xdata()[:2], [3, 10])


def test_profile_with_clips_of_each_unit(data):
    X, y, head = data
    options = {"per_unit": True, "percentile": 90, "lower_percentile": 10}
    detector = ReActDetector(head, **options).fit(X[y == 1])
    display = ActivationProfileDisplay.from_estimator(detector, X, y)
    order = np.argsort(display.id_mean)
    for line, clips in zip(
        display.clip_lines_,
        (detector.activation_threshold_, detector.lower_activation_threshold_),
        strict=True,
    ):
        np.testing.assert_array_equal(line.get_ydata(), clips[order])


def test_histogram(data, detector):
    X = data[0].copy()
    X[:, 0] = 0
    display = ActivationHistogramDisplay.from_estimator(detector, X, bins=20)
    counts, edges = np.histogram(X[X != 0], 20)
    np.testing.assert_array_equal(display.counts, counts)
    np.testing.assert_array_equal(display.bin_edges, edges)
    assert display.zero_share == 1 / 8
    assert display.above_share == np.mean(X > detector.activation_threshold_)
    assert display.below_share == 0
    (line,) = display.clip_artists_
    assert line.get_xdata()[0] == detector.activation_threshold_
    assert "percentile 90" in texts(display)
    assert "12.5% exactly 0" in texts(display)


def test_histogram_with_two_clips_of_each_unit(data):
    X, _, head = data
    options = {"per_unit": True, "percentile": 80, "lower_percentile": 10}
    detector = ReActDetector(head, **options).fit(X)
    display = ActivationHistogramDisplay.from_estimator(detector, X)
    assert display.above_share == pytest.approx(0.2, abs=0.01)
    assert display.below_share == pytest.approx(0.1, abs=0.01)
    assert len(display.clip_artists_) == 2
    assert "of each unit" in texts(display)


def test_histogram_names_a_percentile_only_where_there_is_one(data, search):
    X, _, head = data
    given_by_hand = ReActDetector(head, percentile=90, threshold=2.0).fit(X)
    display = ActivationHistogramDisplay.from_estimator(given_by_hand, X)
    assert "clip at 2" in texts(display)
    assert "percentile" not in texts(display)
    unclipped = ReActDetector(head, percentile=None).fit(X)
    display = ActivationHistogramDisplay.from_estimator(unclipped, X)
    assert display.clip_artists_ == []
    chosen = ActivationHistogramDisplay.from_estimator(search, X)
    assert chosen.percentile == search.best_percentile_


@pytest.mark.parametrize(
    "draw",
    [
        lambda estimator, X: ActivationHistogramDisplay.from_estimator(estimator, X),
        lambda estimator, X: EnergyDropDisplay.from_estimator(estimator, X[:1]),
        explain_clipping,
    ],
)
def test_activations_need_a_fitted_react_detector(data, draw):
    X, _, head = data
    with pytest.raises(
        TypeError, match="is a IsolationForest, expected a fitted ReAct"
    ):
        draw(IsolationForest(), X)
    with pytest.raises(TypeError, match="ends in a IsolationForest"):
        draw(make_pipeline(FunctionTransformer(), IsolationForest()), X)
    with pytest.raises(NotFittedError):
        draw(ReActDetector(head), X)


# Searches


def test_curve(search):
    display = MetricCurveDisplay.from_search(search, negate=True, score_name="FPR95")
    assert list(display.percentiles) == [50, 70, 90, None]
    order = [0, 1, 3, 2]
    results = search.cv_results_
    np.testing.assert_allclose(display.scores, -results["mean_test_score"][order])
    folds = np.array([results[f"split{k}_test_score"] for k in range(search.n_splits_)])
    errors = folds.std(axis=0, ddof=1) / np.sqrt(len(folds))
    np.testing.assert_allclose(display.errors, errors[order])
    assert display.percentiles[display.best_index] == search.best_percentile_
    np.testing.assert_array_equal(display.line_.get_xdata(), [50, 70, 90])
    np.testing.assert_array_equal(display.line_.get_ydata(), display.scores[:3])
    assert display.unclipped_line_.get_ydata()[0] == display.scores[3]
    assert "FPR95" in texts(display)
    assert "percentile of the clip (%)" in texts(display)
    assert f"chosen: {search.best_percentile_}" in texts(display)


def test_curve_of_a_grid_search_equals_that_of_the_cv_detector(data):
    X, y, head = data
    cv = OODSplit(3, random_state=0)
    grid = GridSearchCV(
        ReActDetector(head), {"percentile": [60, 80, 95]}, scoring="roc_auc", cv=cv
    ).fit(X, y)
    one_pass = ReActDetectorCV(
        head, percentiles=[60, 80, 95], scoring="roc_auc", cv=cv
    ).fit(X, y)
    one, other = map(MetricCurveDisplay.from_search, (grid, one_pass))
    np.testing.assert_allclose(one.scores, other.scores)
    np.testing.assert_allclose(one.errors, other.errors)
    assert one.best_index == other.best_index


def test_curve_of_tune_percentile_and_of_a_pipeline():
    digits = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier)
    tuned = tune_percentile(
        pipeline, digits.X_test[:200], surrogate="gaussian_noise", random_state=0
    )
    display = MetricCurveDisplay.from_search(tuned)
    assert display.percentiles[display.best_index] == tuned.best_percentile_


def test_curves_of_two_searches_in_one_picture(search):
    display = MetricCurveDisplay.from_search(search, label="first")
    second = MetricCurveDisplay.from_search(
        search, label="second", color="#009E73", ax=display.ax_
    )
    assert second.ax_ is display.ax_
    read = texts(second)
    assert read.count("no clipping") == 1
    assert f"first (chosen: {search.best_percentile_})" in read
    assert f"second (chosen: {search.best_percentile_})" in read


def results(**changes):
    found = {
        "param_percentile": np.array([70, 80], dtype=object),
        "mean_test_score": np.array([0.5, 0.7]),
        "std_test_score": np.array([0.1, 0.1]),
    }
    return type("Search", (), {"cv_results_": found | changes})()


def test_curve_leaves_out_candidates_that_failed():
    display = MetricCurveDisplay.from_search(
        results(mean_test_score=np.array([np.nan, 0.7]))
    )
    assert list(display.percentiles) == [80]
    assert display.failed == [70]
    assert display.best_ is None
    assert "failed: 70" in texts(display)


def test_curve_with_no_clipping_as_the_choice():
    search = results(param_percentile=np.array([None, 80], dtype=object))
    search.best_index_ = 0
    display = MetricCurveDisplay.from_search(search)
    assert display.percentiles[display.best_index] is None
    assert "chosen: no clipping" in texts(display)


@pytest.mark.parametrize(
    "search, error, message",
    [
        (ReActDetectorCV(), NotFittedError, "call fit first"),
        ([1, 2], TypeError, "a list without cv_results_"),
        (results(mean_test_score=np.full(2, np.nan)), ValueError, "every fit failed"),
        (
            results(param_percentile=np.array([70, 70], dtype=object), param_T=[1, 2]),
            ValueError,
            "other parameters were searched too.*param_T",
        ),
        (
            results(param_detector__percentile=np.array([70, 80], dtype=object)),
            ValueError,
            "no single percentile",
        ),
    ],
)
def test_curve_errors(search, error, message):
    with pytest.raises(error, match=message):
        MetricCurveDisplay.from_search(search)


def test_curve_of_an_unknown_metric(search):
    with pytest.raises(
        ValueError, match=r"no metric 'auc'; expected one of \['score'\]"
    ):
        MetricCurveDisplay.from_search(search, metric="auc")


# One sample


def energy(h, head, temperature=1.0):
    weight, bias = (torch.as_tensor(part, dtype=torch.float64) for part in head)
    logits = h @ weight.T + bias
    return temperature * torch.logsumexp(logits / temperature, dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 20.0])
@pytest.mark.parametrize("options", [{}, {"per_unit": True, "lower_percentile": 20}])
def test_explanation_is_the_integral_of_the_gradient(data, temperature, options):
    """Integrated with autograd and 20,000 steps, for each sample."""
    X, y, head = data
    detector = ReActDetector(head, percentile=70, temperature=temperature, **options)
    detector.fit(X[y == 1])
    X = X[-5:]
    explained = explain_clipping(detector, X)
    clipped = detector.rectify(X)
    np.testing.assert_array_equal(explained.excess, X - clipped)
    for row, (h, low) in enumerate(zip(X, clipped, strict=True)):
        t = (torch.arange(20_000, dtype=torch.float64) + 0.5)[:, None] / 20_000
        path = (torch.tensor(low) + t * torch.tensor(h - low)).requires_grad_()
        energy(path, head, temperature).sum().backward()
        expected = (h - low) * path.grad.mean(axis=0).numpy()
        np.testing.assert_allclose(explained.contribution[row], expected, atol=1e-6)
        drop = energy(torch.tensor(h), head, temperature) - energy(
            torch.tensor(low), head, temperature
        )
        assert explained.drop[row] == pytest.approx(drop.item())


@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(1, 12),
    scale=st.sampled_from([1e-3, 1, 30, 1e4]),
)
def test_contributions_add_up(seed, n_classes, scale):
    rng = np.random.default_rng(seed)
    X = rng.gamma(0.5, size=(20, 6))
    head = scale * rng.normal(size=(n_classes, 6)), rng.normal(size=n_classes)
    detector = ReActDetector(head, threshold=0.5).fit(X)
    explained = explain_clipping(detector, X)
    total = explained.contribution.sum(axis=1)
    np.testing.assert_allclose(total, explained.drop, rtol=1e-8, atol=1e-8 * scale)
    assert np.all(explained.contribution[explained.excess == 0] == 0)


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 10, 300]))
def test_mean_softmax(seed, scale):
    """Against the mean of a million points on the line."""
    rng = np.random.default_rng(seed)
    start, step = scale * rng.normal(size=(2, 1, 3))
    t = (np.arange(100_000) + 0.5)[:, None] / 100_000
    logits = start + t * step
    logits -= logits.max(axis=1, keepdims=True)
    share = np.exp(logits)
    share /= share.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        mean_softmax(start, step)[0], share.mean(axis=0), atol=1e-7
    )


def test_a_small_excess_follows_the_first_order_formula(data):
    X, _, head = data
    X = np.minimum(X, 2.0)
    detector = ReActDetector(head, threshold=2.0).fit(X)
    h = X[:1].copy()
    h[0, 3] = 2.0 + 1e-4
    weight, bias = head
    logits = np.minimum(h, 2.0) @ weight.T + bias
    p = np.exp(logits - logits.max())
    p /= p.sum()
    found = explain_clipping(detector, h).contribution[0]
    assert found[3] == pytest.approx(1e-4 * (p @ weight)[0, 3], rel=1e-3)
    assert np.count_nonzero(found) == 1


def test_explanation_of_a_pipeline_is_that_of_its_features(detector, data):
    X = data[0]
    pipeline = make_pipeline(FunctionTransformer(np.square), detector)
    one, other = explain_clipping(pipeline, X), explain_clipping(detector, X**2)
    np.testing.assert_array_equal(one.contribution, other.contribution)


def test_explanation_needs_a_linear_head(data):
    X = data[0]
    torch.manual_seed(0)
    head = torch.nn.Sequential(
        torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
    )
    detector = ReActDetector(head, percentile=90).fit(X)
    with pytest.raises(ValueError, match=r"head: Sequential.*expected a linear head"):
        explain_clipping(detector, X)


def test_energy_drop(detector, data):
    x = data[0][-1:] + 3
    display = EnergyDropDisplay.from_estimator(detector, x, n_units=2)
    explained = explain_clipping(detector, x)
    np.testing.assert_array_equal(display.contribution, explained.contribution[0])
    assert display.drop == explained.drop[0]
    n_clipped = np.sum(x > detector.activation_threshold_)
    assert display.n_clipped == n_clipped > 3
    widths = [bar.get_width() for bar in display.bars_]
    largest = np.argsort(-np.abs(explained.contribution[0]))[:2]
    np.testing.assert_allclose(widths[:2], explained.contribution[0][largest])
    assert sum(widths) == pytest.approx(display.drop)
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert names == [*(f"unit {u}" for u in largest), f"all others ({n_clipped - 2})"]
    assert "in units of the logits" in texts(display)


def test_energy_drop_beside_those_of_id_samples(detector, data):
    X, y, _ = data
    display = EnergyDropDisplay.from_estimator(detector, X[-1:], X[y == 1])
    np.testing.assert_array_equal(
        display.id_drop, explain_clipping(detector, X[y == 1]).drop
    )
    low, high = np.percentile(display.id_drop, [5, 95])
    assert f"ID samples: {low:.3g} to {high:.3g} (5 to 95 %)" in texts(display)


def test_energy_drop_of_a_sample_that_is_not_clipped(detector, data):
    display = EnergyDropDisplay.from_estimator(detector, np.zeros((1, 8)))
    assert len(display.bars_) == display.drop == 0
    assert "0 of 8 units clipped" in texts(display)


def test_energy_drop_names_units_as_the_data_frame_does(data):
    pd = pytest.importorskip("pandas")
    X, _, head = data
    frame = pd.DataFrame(X, columns=list("abcdefgh"))
    detector = ReActDetector(head, percentile=80).fit(frame)
    display = EnergyDropDisplay.from_estimator(detector, frame[-1:])
    names = {label.get_text() for label in display.ax_.get_yticklabels()}
    assert names <= set("abcdefgh")


def test_energy_drop_errors(detector, data):
    with pytest.raises(ValueError, match="Got 2 samples, expected one"):
        EnergyDropDisplay.from_estimator(detector, data[0][:2])
    with pytest.raises(ValueError, match="n_units=0"):
        EnergyDropDisplay.from_estimator(detector, data[0][:1], n_units=0)


# Images


def kinds(folder, pixels):
    """Return the same grey images in every form in which users have them."""
    files = []
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
        files.append(folder / f"{i}.png")
    return {
        "(n, h, w)": pixels,
        "(n, h, w, 1)": pixels[..., None],
        "(n, 1, h, w)": pixels[:, None],
        "tensor": torch.from_numpy(pixels[:, None]),
        "arrays": list(pixels),
        "PIL": [Image.fromarray(image) for image in pixels],
        "paths": files,
        "folder": folder,
    }


def test_contact_sheet_of_any_kind_of_images(rng, tmp_path):
    pixels = rng.integers(0, 256, (9, 6, 5), dtype=np.uint8)
    scores = rng.permutation(9).astype(float)
    for kind, images in kinds(tmp_path, pixels).items():
        display = ContactSheetDisplay.from_predictions(images, scores, n=3)
        order = np.argsort(scores)
        np.testing.assert_array_equal(display.most_indices, order[::-1][:3], kind)
        np.testing.assert_array_equal(display.least_indices, order[:3], kind)
        np.testing.assert_array_equal(display.most_scores, [8, 7, 6])
        for shown, indices in (
            (display.most, order[::-1][:3]),
            (display.least, order[:3]),
        ):
            grey = [np.atleast_3d(image)[..., 0] for image in shown]  # files are RGB
            np.testing.assert_array_equal(grey, pixels[indices], kind)
        assert [text.get_text() for text in display.captions_] == list("876012")
        assert len(display.images_) == 6


@pytest.mark.parametrize("axis", [1, -1])
def test_contact_sheet_in_colour(rng, axis):
    pixels = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    display = ContactSheetDisplay.from_predictions(
        np.moveaxis(pixels, -1, axis), [0, 1, 2, 3], n=1
    )
    np.testing.assert_array_equal(display.most[0], pixels[3])


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_contact_sheet_of_preprocessed_images(rng, channels):
    images = rng.normal(size=(4, channels, 6, 5)).astype(np.float32)
    display = ContactSheetDisplay.from_predictions(images, [0, 1, 2, 3], n=1)
    shown = display.most[0]
    assert (shown.min(), shown.max()) == (0, 1)
    assert shown.shape == ((6, 5, 3) if channels == 3 else (6, 5))
    flat = ContactSheetDisplay.from_predictions(np.ones_like(images), [0, 1, 2, 3])
    assert np.ptp(flat.most[0]) == 0


def test_contact_sheet_of_a_pipeline():
    digits = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier).fit(digits.X_test[:200])
    images = digits.ood["letters"][:10]
    display = ContactSheetDisplay.from_estimator(pipeline, images, n=20)
    scores = pipeline.score_samples(images)
    np.testing.assert_array_equal(display.most_scores, np.sort(scores)[::-1])
    assert len(display.images_) == 20
    display.figure_.canvas.draw()


def test_contact_sheet_errors(detector, data):
    images = np.zeros((3, 6, 6, 1), dtype=np.uint8)
    with pytest.raises(TypeError, match="takes features, expected a fitted Pipeline"):
        ContactSheetDisplay.from_estimator(detector, data[0])
    with pytest.raises(ValueError, match="2 scores for 3 images"):
        ContactSheetDisplay.from_predictions(images, [1, 2])
    with pytest.raises(ValueError, match="NaN"):
        ContactSheetDisplay.from_predictions(images, [1, 2, np.nan])
    with pytest.raises(ValueError, match="n=0"):
        ContactSheetDisplay.from_predictions(images, [1, 2, 3], n=0)
    with pytest.raises(TypeError, match="An image is a"):
        ContactSheetDisplay.from_predictions(np.zeros((3, 4)), [1, 2, 3])


def test_without_matplotlib(displays, monkeypatch, detector, data):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in displays:
        with pytest.raises(ImportError, match=r"pip install 'reactood\[plot\]'"):
            display.plot()
    assert explain_clipping(detector, data[0]).drop.shape == (260,)


# Theory


def test_reduction(rng):
    law = epsilon_skew_normal
    X_id = np.maximum(law.rvs(0, 0.5, 1, (3000, 4), random_state=rng), 0)
    X_ood = np.maximum(law.rvs(-0.6, 0.5, 1, (3000, 4), random_state=rng), 0)
    X, y = np.concatenate([X_id, X_ood]), np.repeat([1, -1], 3000)
    X[:, 3] = 0
    head = rng.normal(size=(3, 4)), np.zeros(3)
    detector = ReActDetector(head, threshold=1.0).fit(X)
    display = ReductionDisplay.from_estimator(detector, X, y)
    measured = np.maximum(X - 1, 0)
    np.testing.assert_allclose(display.id_measured, measured[y == 1].mean(axis=0))
    np.testing.assert_allclose(display.ood_measured, measured[y == -1].mean(axis=0))
    for epsilon, name in ((0, "id"), (-0.6, "ood")):
        found = getattr(display, f"{name}_predicted")
        expected = mean_reduction(0.5, 1, epsilon, c=1)
        np.testing.assert_allclose(found[:3], expected, atol=0.03)
        assert np.isnan(found[3])
    assert "activation" in texts(display)
    assert display.plot() is display


@pytest.mark.parametrize("options", [{"percentile": None}, {"lower_percentile": 20}])
def test_reduction_needs_an_upper_clip_alone(data, options):
    X, y, head = data
    detector = ReActDetector(head, **options).fit(X)
    with pytest.raises(ValueError, match="a detector that clips only from above"):
        ReductionDisplay.from_estimator(detector, X, y)


def test_frozen_estimators_are_shown_too(rng):
    X = rng.gamma(2, size=(60, 8))
    detector = ReActDetector((rng.normal(size=(3, 8)), np.zeros(3))).fit(X)
    frozen = FrozenEstimator(detector)
    explained = explain_clipping(detector, X)
    np.testing.assert_array_equal(
        explain_clipping(frozen, X).contribution, explained.contribution
    )
    y = np.where(np.arange(60) % 2, 1, -1)
    shown = ScoreDistributionDisplay.from_estimator(frozen, X, y)
    assert shown.threshold == detector.offset_
    with pytest.raises(TypeError, match="takes features, expected a fitted Pipeline"):
        ContactSheetDisplay.from_estimator(frozen, X)
