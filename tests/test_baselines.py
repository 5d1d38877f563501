"""The baselines against references of a few lines, and scikit-learn's contract."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from reactood import TorchFeatureExtractor
from reactood.baselines import (
    MahalanobisDetector,
    ODINFeatureExtractor,
    make_odin_pipeline,
)
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import ood_report
from reactood.model_selection import OODSplit
from reactood.rectifiers import BATS


@pytest.fixture
def data(rng):
    y = rng.integers(0, 3, size=300)
    spread = rng.normal(size=(5, 5))
    return 4 * rng.normal(size=(3, 5))[y] + rng.normal(size=(300, 5)) @ spread, y


@parametrize_with_checks(
    [MahalanobisDetector(), MahalanobisDetector(LedoitWolf(assume_centered=True))]
)
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("shift", [0, 1e4])
def test_mahalanobis(data, shift, rng):
    X, y = data
    new = rng.normal(scale=5, size=(40, 5)) + shift
    X = X + shift
    detector = MahalanobisDetector().fit(X, y)
    means = [X[y == k].mean(axis=0) for k in range(3)]
    centered = np.concatenate([X[y == k] - means[k] for k in range(3)])
    precision = np.linalg.inv(centered.T @ centered / len(X))
    expected = [-min(mahalanobis(x, m, precision) ** 2 for m in means) for x in new]
    np.testing.assert_allclose(detector.score_samples(new), expected, rtol=1e-6)
    np.testing.assert_allclose(detector.means_, means)
    np.testing.assert_allclose(detector.precision_, precision, rtol=1e-6, atol=1e-9)
    assert np.mean(detector.predict(X) == -1) == pytest.approx(0.05, abs=0.004)


def test_mahalanobis_tells_what_lies_between_classes(data, rng):
    X, y = data
    between = X.mean(axis=0) + 0.5 * rng.normal(size=(50, 5))
    labels = np.repeat([1, -1], [300, 50])
    rows = np.concatenate([X, between])

    def auroc(detector):
        return roc_auc_score(labels, detector.score_samples(rows))

    by_class = MahalanobisDetector().fit(X, y)
    pooled = MahalanobisDetector().fit(X)
    assert auroc(by_class) > auroc(pooled)
    assert pooled.means_.shape == (1, 5)


def test_mahalanobis_leaves_ood_rows_out(data, rng):
    X, y = data
    mixed = np.concatenate([X, rng.normal(50, size=(20, 5))])
    labels = np.concatenate([y, np.full(20, -1)])
    one, other = (
        MahalanobisDetector().fit(mixed, labels),
        MahalanobisDetector().fit(X, y),
    )
    np.testing.assert_array_equal(one.score_samples(mixed), other.score_samples(mixed))
    assert list(one.classes_) == [0, 1, 2]


def test_mahalanobis_with_features_that_depend_on_each_other(data):
    """The pseudo-inverse sees the same distances as without the copies."""
    X, y = data
    alone = MahalanobisDetector().fit(X, y).score_samples(X)
    twice = MahalanobisDetector().fit(np.hstack([X, X]), y)
    np.testing.assert_allclose(twice.score_samples(np.hstack([X, X])), alone, rtol=1e-6)


def test_mahalanobis_float32(data):
    X, y = data
    one = MahalanobisDetector().fit(X.astype(np.float32), y)
    other = MahalanobisDetector().fit(X, y)
    np.testing.assert_allclose(one.score_samples(X), other.score_samples(X), rtol=1e-3)


def test_mahalanobis_of_clipped_features_and_in_a_report(data, rng):
    X, y = data
    detector = make_pipeline(BATS(2.0), MahalanobisDetector()).fit(X, y)
    report = ood_report(detector, X, {"far": rng.normal(9, 9, size=(50, 5))})
    assert report["far"]["auroc"] > 0.5


def test_mahalanobis_needs_classes_that_vary():
    with pytest.raises(ValueError, match="do not vary around the means of their 2 cla"):
        MahalanobisDetector().fit([[1.0, 2.0], [3.0, 4.0]], ["a", "b"])


# ODIN


def odin_reference(net, x, *, noise, temperature, c):
    """Perturb and score with the network as its owner has it."""
    net = copy.deepcopy(net).eval()
    *body, last = net

    def logits(x):
        for layer in body:
            x = layer(x)
        return last(x.clamp(max=c)) / temperature

    x = x.clone().requires_grad_()
    out = logits(x)
    torch.nn.functional.cross_entropy(out, out.argmax(1), reduction="sum").backward()
    moved = x.detach() - noise * torch.where(x.grad >= 0, 1.0, -1.0)
    with torch.no_grad():
        return logits(moved).softmax(dim=1).max(dim=1).values.double().numpy()


@pytest.fixture
def images(rng):
    return rng.normal(size=(30, 3, 9, 9)).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
@pytest.mark.parametrize("noise", [0.0, 0.005, 0.1])
@pytest.mark.parametrize("options", [{}, {"threshold": 0.3}, {"percentile": 80}])
def test_odin(net, images, noise, temperature, options):
    odin = make_odin_pipeline(
        net, noise=noise, temperature=temperature, batch_size=7, **options
    )
    odin.fit(images)
    c = np.inf
    if options:
        features = TorchFeatureExtractor(net).fit_transform(images)
        c = options.get("threshold", np.percentile(features, 80))
    assert odin[0].activation_threshold_ == pytest.approx(c)
    expected = odin_reference(
        net,
        torch.from_numpy(images),
        noise=noise,
        temperature=temperature,
        c=float(c),
    )
    np.testing.assert_allclose(odin.score_samples(images), expected, rtol=1e-6)


def test_odin_moves_scores_and_leaves_model_and_images_alone(net, images):
    before, pixels = copy.deepcopy(net.state_dict()), images.copy()
    odin = make_odin_pipeline(net, noise=0.1, temperature=1.0).fit(images)
    still = clone(odin).set_params(extractor__noise=0.0).fit(images)
    moved = odin.score_samples(images) - still.score_samples(images)
    assert np.mean(moved > 0) > 0.9  # towards the predicted class
    np.testing.assert_array_equal(images, pixels)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[name], v) for name, v in net.state_dict().items())


def test_odin_learns_its_clip_from_id_images(net, images):
    y = np.where(np.arange(30) < 20, 1, -1)
    extractor = ODINFeatureExtractor(net, percentile=90).fit(images, y)
    features = TorchFeatureExtractor(net).fit_transform(images[:20])
    assert extractor.activation_threshold_ == pytest.approx(np.percentile(features, 90))
    again = extractor.fit(images[:20])  # another fit starts from unperturbed images
    assert again.activation_threshold_ == pytest.approx(np.percentile(features, 90))
    assert extractor.transform(images).max() <= extractor.activation_threshold_


def test_odin_keeps_through_clone_and_pickle(net, images):
    odin = make_odin_pipeline(net, temperature=1.0, percentile=90).fit(images)
    loaded = pickle.loads(pickle.dumps(odin))
    np.testing.assert_array_equal(
        loaded.score_samples(images), odin.score_samples(images)
    )
    parameters = clone(odin).get_params()
    assert parameters["extractor__percentile"] == 90
    assert parameters["detector__score_function"] == "msp"


def test_odin_in_a_search(images):
    digits = load_digits_ood()
    X = np.concatenate([digits.X_test[:80], digits.ood["letters"][:40]])
    y = np.repeat([1, -1], [80, 40])
    search = GridSearchCV(
        make_odin_pipeline(digits_classifier),
        {"extractor__noise": [0.0, 0.02], "extractor__percentile": [None, 85]},
        scoring="roc_auc",
        cv=OODSplit(2, random_state=0),
    ).fit(X, y)
    assert search.best_score_ > 0.8


def test_odin_whose_clip_fails_is_not_fitted(net, images):
    extractor = ODINFeatureExtractor(net, noise=0.1, percentile=1)
    with pytest.raises(ValueError, match="percent"):
        extractor.fit(images)
    with pytest.raises(NotFittedError):
        extractor.transform(images)


def test_odin_that_fails_to_fit_again_goes_on_perturbing(net, images):
    extractor = ODINFeatureExtractor(net, noise=0.1, temperature=1.0).fit(images)
    before = extractor.transform(images)
    with pytest.raises(ValueError, match="percent"):
        extractor.set_params(percentile=1).fit(images)
    np.testing.assert_array_equal(extractor.transform(images), before)


def test_odin_errors(net, images):
    with pytest.raises(ValueError, match="noise"):
        ODINFeatureExtractor(net, noise=-1).fit(images)
    with pytest.raises(TypeError, match="cache"):
        make_odin_pipeline(net, cache="folder")
