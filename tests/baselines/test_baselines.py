"""The baselines against references of a few lines, and scikit-learn's contract."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import mahalanobis
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import reactood._networks._frozen
from reactood import TorchFeatureExtractor
from reactood.baselines import (
    MahalanobisDetector,
    ODINFeatureExtractor,
    clip_layer,
    make_odin_pipeline,
    with_statistics_of,
)
from reactood.baselines._clip_layer import _AsRGB
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "n_classes"), [(20, 1), (31, 1), (30, 3), (33, 3)])
def test_mahalanobis_with_too_few_rows(rng, n, n_classes, dtype):
    X = rng.normal(size=(n, 30)).astype(dtype)
    y = np.arange(n) % n_classes
    with pytest.raises(ValueError, match=r"so few that all .*=LedoitWolf\(assume"):
        MahalanobisDetector().fit(X, y)
    shrunk = MahalanobisDetector(LedoitWolf(assume_centered=True)).fit(X, y)
    assert np.mean(shrunk.predict(X) == -1) == pytest.approx(0.05, abs=1 / n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mahalanobis_with_dead_units_and_enough_rows(rng, dtype):
    X = rng.normal(size=(60, 30)).astype(dtype)
    X[:, 10:] = 0
    few = MahalanobisDetector().fit(X[:25])  # fewer than features, more than alive
    alive = MahalanobisDetector().fit(X[:25, :10])
    np.testing.assert_allclose(
        few.score_samples(X), alive.score_samples(X[:, :10]), rtol=1e-4
    )


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


def test_odin_of_a_head_of_one_logit_moves_towards_the_predicted_class(net, images):
    net[-1] = nn.Linear(net[-1].in_features, 1)
    two = copy.deepcopy(net)  # the same classifier, with a logit for each class
    two[-1] = nn.Linear(net[-1].in_features, 2)
    with torch.no_grad():
        two[-1].weight.copy_(torch.cat([-net[-1].weight, net[-1].weight]) / 2)
        two[-1].bias.copy_(torch.cat([-net[-1].bias, net[-1].bias]) / 2)
    scores = [
        make_odin_pipeline(model, noise=0.1, temperature=1.0)
        .fit(images)
        .score_samples(images)
        for model in (net, two)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-5)


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


# -------------------------------------------------- the clip after an earlier layer


def layer_values(network, layer, X):
    """Return what a layer of a network puts out."""
    seen = []
    hook = network.get_submodule(layer).register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    with torch.no_grad():
        network(torch.from_numpy(X))
    hook.remove()
    return seen[0]


def test_clip_layer_agrees_with_hooks():
    digits = load_digits_ood()
    X = digits.X_train[:80]
    net = digits_classifier()
    values = layer_values(net, "features.2", X)
    c = np.percentile(values.numpy(), 85)
    extractor = TorchFeatureExtractor(digits_classifier)
    clipped = clip_layer(extractor, "features.2", X, percentile=85, n_values=10**6)
    net.features[2].register_forward_hook(
        lambda module, args, output: output.clamp(max=float(c))
    )
    with torch.no_grad():
        expected = net.features(torch.from_numpy(digits.ood["letters"]))
    found = clipped.fit(X).transform(digits.ood["letters"])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert not hasattr(extractor, "n_features_out_")  # not fitted


def test_clip_layer_samples_values():
    digits = load_digits_ood()
    X = digits.X_train[:200]
    extractor = TorchFeatureExtractor(digits_classifier)
    clips = [
        clip_layer(extractor, "features.2", X, n_values=n).model.features[2][1].c
        for n in (100, 10**6)
    ]
    assert clips[0] == pytest.approx(clips[1], rel=0.1)
    assert clips[0] != clips[1]


def test_clip_layer_leaves_the_users_module_alone(net, rng):
    X = rng.random((6, 3, 8, 8), dtype=np.float32)
    before = copy.deepcopy(net.state_dict())
    children = [*net.children()]
    clip_layer(TorchFeatureExtractor(net), "2", X)
    assert [*net.children()] == children and net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_clip_layer_keeps_the_transform_of_named_weights(photos):
    extractor = TorchFeatureExtractor("resnet18", weights=None, preprocess=ToSmall())
    clipped = clip_layer(extractor, "layer1", photos)
    assert clipped.fit_transform(photos).shape == (len(photos), 512)
    grey = [Image.open(path).convert("L") for path in photos]
    assert _AsRGB(ToSmall())(grey[0]).shape == (3, 32, 32)


class ToSmall:
    """Makes a small tensor of a picture."""

    def __call__(self, image):
        pixels = np.asarray(image.convert("RGB").resize((32, 32)), dtype=np.float32)
        return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def test_clip_layer_says_what_is_wrong():
    digits = load_digits_ood()
    extractor = TorchFeatureExtractor(digits_classifier)
    with pytest.raises(ValueError, match=r"'feature\.2' is not in DigitsNet.*features"):
        clip_layer(extractor, "feature.2", digits.X_train)
    with pytest.raises(ValueError, match=r"percentile=1\.5.* is 0"):
        clip_layer(extractor, "features.2", digits.X_train, percentile=1.5)
    with pytest.raises(ValueError, match=r"percentile=0\.9 means 0\.9 percent"):
        clip_layer(extractor, "features.2", digits.X_train, percentile=0.9)
    for name, value in [
        ("percentile", 101),
        ("percentile", "90"),
        ("percentile", float("nan")),
        ("n_values", -1),
        ("n_values", 2.5),
    ]:
        with pytest.raises(ValueError, match=f"'{name}' parameter of clip_layer must"):
            clip_layer(extractor, "features.2", digits.X_train, **{name: value})


# ---------------------------------------------------------- statistics of other images


def test_statistics_of_one_batch_are_those_of_training_mode():
    digits = load_digits_ood()
    X = digits.ood["letters"][:100]
    net = digits_classifier()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        expected = net.features(torch.from_numpy(X)).numpy()
    extractor = TorchFeatureExtractor(digits_classifier, batch_size=100)
    found = with_statistics_of(extractor, X).fit_transform(X)
    # Running variances are unbiased, those of a batch are not.
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)
    plain = extractor.fit_transform(X)
    assert np.abs(plain - expected).max() > 0.5


def test_statistics_of_the_training_images_change_little():
    digits = load_digits_ood()
    extractor = TorchFeatureExtractor(digits_classifier).fit(digits.X_train)
    same = with_statistics_of(extractor, digits.X_train).fit(digits.X_train)
    before, after = (e.transform(digits.X_test) for e in (extractor, same))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99


def test_statistics_leave_the_users_module_alone(net, rng):
    X = rng.random((8, 3, 8, 8), dtype=np.float32)
    before = copy.deepcopy(net.state_dict())
    with_statistics_of(TorchFeatureExtractor(net), X)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_statistics_say_what_is_wrong():
    digits = load_digits_ood()
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    with pytest.raises(ValueError, match="Sequential has no batch normalisation"):
        with_statistics_of(TorchFeatureExtractor(plain), digits.X_test)


class Remembering(nn.Module):
    """Keeps what it computed in its first pass."""

    def __init__(self, net):
        super().__init__()
        self.net, self.scale = net, None

    def forward(self, x):
        if self.scale is None:
            self.scale = torch.full((1, 3, 1, 1), 0.5) * self.net[0].weight.sum()
        return self.net(x * self.scale)


@pytest.mark.parametrize("remembering", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_odin_of_a_network_that_is_proved_for_the_first_time(
    net, images, remembering, inference
):
    reactood._networks._frozen._FOUND.clear()
    model = Remembering(net) if remembering else net
    with torch.inference_mode(inference):
        odin = make_odin_pipeline(model, noise=0.1, percentile=90).fit(images)
        scores = odin.score_samples(images)
        assert odin[0].model_.arrangement.folds
        pickled = pickle.dumps(odin)
    np.testing.assert_array_equal(odin.score_samples(images), scores)
    again = pickle.loads(pickled).score_samples(images)
    np.testing.assert_array_equal(again, scores)
    assert not any(p.is_inference() for p in odin[0].model_.parameters())


@pytest.mark.parametrize("distance", [1e3, 1e7, 1e9])
def test_mahalanobis_of_classes_that_are_far_apart(rng, distance):
    y = np.repeat([0, 1], 200)
    X = rng.normal(size=(400, 4)) + distance * y[:, None]
    detector = MahalanobisDetector().fit(X, y)
    centered = X - np.array([X[y == c].mean(axis=0) for c in (0, 1)])[y]
    precision = np.linalg.inv(centered.T @ centered / len(X))
    expected = -np.einsum("ij,jk,ik->i", centered, precision, centered)
    rtol = max(1e-9, 1e-13 * distance)
    np.testing.assert_allclose(
        detector.score_samples(X), expected, rtol=rtol, atol=rtol
    )
