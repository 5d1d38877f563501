"""make_react_pipeline: images in, decisions out, inside scikit-learn."""

import functools
import pickle
import random

import numpy as np
import pytest
import sklearn
import torch
from conftest import conv_net
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils.fixes import parse_version
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms.functional import to_tensor

import reactood._networks._proof
from reactood import ReActDetector, make_react_pipeline
from reactood.datasets import ImageDataset, digits_classifier, load_digits_ood
from reactood.pipeline import ReActPipeline


@pytest.fixture
def X(rng):
    return rng.normal(size=(30, 3, 9, 9)).astype(np.float32)


@pytest.mark.parametrize("kind", ["module", "factory", "partial", "name"])
def test_features_and_head_come_from_the_same_model(net, X, kind):
    models = {
        "module": net,
        "factory": conv_net,
        "partial": functools.partial(conv_net, 3, width=12),
        "name": "resnet18",
    }
    X = np.repeat(X[:6], 4, axis=2).repeat(4, axis=3) if kind == "name" else X
    pipeline = make_react_pipeline(models[kind], weights=None, percentile=80).fit(X)
    assert isinstance(pipeline, Pipeline) and type(pipeline) is ReActPipeline
    extractor, detector = pipeline[0], pipeline[1]
    weight, bias = extractor.head_
    np.testing.assert_array_equal(detector.coef_, weight)
    np.testing.assert_array_equal(detector.intercept_, bias)
    h = extractor.transform(X)
    clipped = np.minimum(h, np.percentile(h, 80))
    expected = logsumexp(clipped @ weight.T + bias, axis=1)
    np.testing.assert_allclose(pipeline.score_samples(X), expected, rtol=1e-5)
    for other in (clone(pipeline).fit(X), pickle.loads(pickle.dumps(pipeline))):
        np.testing.assert_allclose(other.score_samples(X), expected, rtol=1e-5)


def test_a_pipeline_of_names_is_a_small_recipe():
    pipeline = make_react_pipeline("resnet50", percentile=95)
    assert len(pickle.dumps(pipeline)) < 2000


def test_parameters_of_either_step_by_name(net):
    pipeline = make_react_pipeline(
        net,
        memory="cache",
        percentile=70,
        precision="bfloat16",
        batch_size=5,
        detector__batch_size=100,
        extractor__verbose=True,
    )
    parameters = pipeline.get_params()
    assert parameters["memory"] == "cache"
    assert parameters["detector__percentile"] == 70
    assert parameters["extractor__precision"] == "bfloat16"
    assert parameters["extractor__batch_size"] == 5
    assert parameters["detector__batch_size"] == 100
    assert parameters["extractor__verbose"] is True


def test_unknown_parameters_name_close_ones(net):
    with pytest.raises(TypeError, match=r"'percentil'.*did you mean 'percentile'"):
        make_react_pipeline(net, percentil=90)
    with pytest.raises(TypeError, match="'detector__layer' is a parameter of neither"):
        make_react_pipeline(net, detector__layer="x")


def test_a_layer_needs_a_head(net, X):
    with pytest.raises(ValueError, match="pass head="):
        make_react_pipeline(net, layer="2")
    head = nn.Linear(8, 4)
    pipeline = make_react_pipeline(net, layer="2", head=head).fit(X)
    assert pipeline[0].transform(X).shape == (30, 8)


def test_a_module_without_a_linear_head():
    with pytest.raises(ValueError, match="no linear head"):
        make_react_pipeline(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_a_lazy_head_says_what_to_do(X):
    def lazy():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

    with pytest.raises(ValueError, match="final linear layer is lazy"):
        make_react_pipeline(lazy).fit(X)


def test_the_digits_example_end_to_end():
    data = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier).fit(data.X_train)
    assert (pipeline.predict(data.X_train) == 1).mean() == pytest.approx(0.95, abs=0.01)
    for name in ("held_out_digits", "letters", "symbols"):
        assert (pipeline.predict(data.ood[name]) == -1).mean() > 0.8, name
    features = pipeline[:-1].transform(data.X_test)
    classes = pipeline[-1].predict_class(features)
    assert (classes == data.y_test).mean() > 0.99


def test_the_classifiers_decision_in_one_pass(monkeypatch):
    data = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier).fit(data.X_train)
    expected = pipeline[-1].predict_class(pipeline[:-1].transform(data.X_test))
    passes, extract = [], type(pipeline[0])._extract
    monkeypatch.setattr(
        type(pipeline[0]),
        "_extract",
        lambda *args, **kwargs: passes.append(1) or extract(*args, **kwargs),
    )
    found = pipeline.predict_class(data.X_test)
    assert len(passes) == 1
    np.testing.assert_array_equal(found, expected)
    assert (found == data.y_test).mean() > 0.99
    for copy in (pickle.loads(pickle.dumps(pipeline)), pipeline[:]):
        np.testing.assert_array_equal(copy.predict_class(data.X_test), expected)
    assert not hasattr(pipeline[:-1], "predict_class")


def test_a_parameter_of_a_step_says_how_to_set_it(net):
    pipeline = make_react_pipeline(net)
    with pytest.raises(ValueError, match="of a step; expected detector__percentile"):
        pipeline.set_params(percentile=80)
    with pytest.raises(ValueError, match="extractor__device or detector__device"):
        pipeline.set_params(device="cpu")
    with pytest.raises(ValueError, match="Invalid parameter 'perc'"):
        pipeline.set_params(perc=80)
    with pytest.raises(ValueError, match="detector__percentile"):
        GridSearchCV(
            pipeline,
            {"percentile": [80]},
            scoring="roc_auc",
            cv=StratifiedKFold(2, shuffle=True, random_state=0),
        ).fit(np.zeros((4, 3, 9, 9)), [1, 1, -1, -1])
    assert pipeline.set_params(detector__percentile=80)[-1].percentile == 80
    other = ReActDetector(np.ones((2, 8)))
    assert pipeline.set_params(detector=other, verbose=True)[-1] is other
    assert isinstance(clone(pipeline), ReActPipeline)


def test_html_shows_what_the_detector_has_learned(net, X):
    pipeline = make_react_pipeline(net)
    assert "clipped activations" not in pipeline._repr_html_()
    pipeline.fit(X)
    for html in (pipeline._repr_html_(), pipeline._repr_mimebundle_()["text/html"]):
        assert html.count("clipped activations") == 1
        assert f">{pipeline[-1].offset_:.4g}<" in html
    assert "clipped activations" not in pipeline[:-1]._repr_html_()


def test_images_that_cannot_be_read_are_rejected(net, photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = [*map(str, photos), str(broken)]
    pipeline = make_react_pipeline(net, on_error="nan", preprocess=_small)
    assert pipeline[-1].on_nan == "reject"
    with pytest.warns(UserWarning, match="could not be read"):
        pipeline.fit(images)
    with pytest.warns(UserWarning, match="could not be read"):
        labels, scores = pipeline.predict(images), pipeline.score_samples(images)
    assert labels[-1] == -1 and np.isnan(scores[-1])
    assert np.isfinite(scores[:-1]).all()
    expected = make_react_pipeline(net, preprocess=_small).fit(images[:-1])
    assert pipeline[-1].offset_ == pytest.approx(expected[-1].offset_)
    with pytest.warns(UserWarning, match="could not be read"):
        assert len(pipeline.predict_class(images)) == len(images)
    for given in ({"on_nan": "raise"}, {"detector__on_nan": "raise"}):
        assert make_react_pipeline(net, on_error="nan", **given)[-1].on_nan == "raise"
    assert make_react_pipeline(net)[-1].on_nan == "raise"


def _small(image):
    return to_tensor(image.convert("RGB").resize((9, 9)))


@pytest.mark.parametrize("kind", ["array", "tensor", "ImageDataset"])
def test_grid_search_over_the_whole_pipeline(kind):
    data = load_digits_ood()
    X = np.concatenate([data.X_test[:150], data.ood["symbols"][:90]])
    y = np.repeat([1, -1], [150, 90])
    if kind == "tensor" and parse_version(sklearn.__version__) < parse_version("1.7"):
        pytest.skip("scikit-learn before 1.7 does not search over tensors")
    if kind != "array":
        X = torch.from_numpy(X)
    if kind == "ImageDataset":
        X = ImageDataset(TensorDataset(X, torch.from_numpy(y)))
    search = GridSearchCV(
        make_react_pipeline(digits_classifier),
        {"detector__percentile": [80, None]},
        scoring="roc_auc",
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
    ).fit(X, y)
    assert search.best_params_ == {"detector__percentile": 80}
    assert search.best_score_ > 0.9
    assert search.best_estimator_[-1].n_features_in_ == 96
    assert set(search.predict(X)) == {-1, 1}


def test_grid_search_in_two_processes():
    data = load_digits_ood()
    X = np.concatenate([data.X_test[:80], data.ood["symbols"][:40]])
    y = np.repeat([1, -1], [80, 40])
    results = [
        GridSearchCV(
            make_react_pipeline(digits_classifier),
            {"detector__percentile": [80, 90]},
            scoring="roc_auc",
            cv=StratifiedKFold(2, shuffle=True, random_state=0),
            n_jobs=n_jobs,
        )
        .fit(X, y)
        .cv_results_["mean_test_score"]
        for n_jobs in (1, 2)
    ]
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_memory_keeps_the_extractor_and_its_features(tmp_path, X, monkeypatch):
    pipeline = make_react_pipeline(conv_net, memory=str(tmp_path)).fit(X)
    monkeypatch.setattr(  # the next fit must not get here
        "reactood.extractor._extractor.TorchFeatureExtractor._extract", None
    )
    again = clone(pipeline).set_params(detector__percentile=70).fit(X)
    assert again[1].activation_threshold_ < pipeline[1].activation_threshold_


def test_the_head_follows_the_extractors_weights():
    pipeline = make_react_pipeline("resnet18", extractor__weights=None)
    X = np.random.default_rng(0).normal(size=(6, 3, 64, 64)).astype(np.float32)
    pipeline.fit(X)
    np.testing.assert_array_equal(pipeline[1].coef_, pipeline[0].head_[0])


# --- a function that builds another network each time -------------------------------

RANDOM = np.random.default_rng(0)


def another_each_time(width=8):
    """Draw weights from a generator that nothing seeds."""
    net = conv_net(width=width)
    with torch.no_grad():
        net[-1].weight += torch.from_numpy(RANDOM.normal(size=(4, width))).float()
    return net


class Counting:
    """A factory that changes when it is called."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        net = conv_net()
        with torch.no_grad():
            net[-1].bias += self.calls
        return net


FACTORIES = {
    "function": lambda: another_each_time,
    "lambda": lambda: lambda: another_each_time(),
    "partial": lambda: functools.partial(another_each_time, width=5),
    "object": Counting,
    "method": lambda: Counting().__call__,
}


@pytest.mark.parametrize("kind", FACTORIES)
def test_the_head_of_another_network_is_refused(kind, X):
    pipeline = make_react_pipeline(FACTORIES[kind]())
    with pytest.raises(ValueError, match="built a network with another head than"):
        pipeline.fit(X)
    if kind in ("object", "method"):  # copies start alike, and so build alike
        pipeline = clone(pipeline).fit(X)
        np.testing.assert_array_equal(pipeline[1].coef_, pipeline[0].head_[0])
        np.testing.assert_array_equal(pipeline[1].intercept_, pipeline[0].head_[1])
        return
    with pytest.raises(ValueError, match="built a network with another head than"):
        clone(pipeline).fit(X)
    features = pipeline[0].transform(X)
    with pytest.raises(ValueError, match="built a network with another head than"):
        clone(pipeline[1]).fit(features)  # in steps
    if kind != "lambda":
        with pytest.raises(ValueError, match="built a network with another head than"):
            pickle.loads(pickle.dumps(pipeline)).fit(X)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_search_refuses_the_head_of_another_network(n_jobs, X):
    search = GridSearchCV(
        make_react_pipeline(another_each_time),
        {"detector__percentile": [80, 90]},
        scoring=lambda pipeline, X, y: pipeline.score_samples(X).mean(),
        cv=2,
        n_jobs=n_jobs,
        error_score="raise",
    )
    with pytest.raises(ValueError, match="built a network with another head than"):
        search.fit(X, np.ones(len(X)))


CHECKPOINT = {"bias": 0.0}


def from_checkpoint():
    net = conv_net()
    with torch.no_grad():
        net[-1].bias += CHECKPOINT["bias"]
    return net


def test_a_checkpoint_that_changes_between_two_fits(X, tmp_path, monkeypatch):
    monkeypatch.setitem(CHECKPOINT, "bias", 0.0)
    pipeline = make_react_pipeline(from_checkpoint, memory=str(tmp_path))
    first = pipeline.fit(X).score_samples(X)
    monkeypatch.setitem(CHECKPOINT, "bias", 1.0)
    again = make_react_pipeline(from_checkpoint).fit(X)
    np.testing.assert_allclose(again.score_samples(X), first + 1, rtol=1e-5)
    with pytest.raises(ValueError, match="built a network with another head than"):
        clone(pipeline).fit(X)  # the extractor of before comes out of the memory


def test_notes_of_heads_travel_with_the_recipe(X):
    pipeline = make_react_pipeline(functools.partial(another_each_time, 8))
    features = pipeline[0].fit(X).transform(X)
    pickled = pickle.dumps(pipeline[1])
    reactood._networks._head._HEADS.clear()  # as in another process
    with pytest.raises(ValueError, match="built a network with another head than"):
        pickle.loads(pickled).fit(features)
    assert len(pickled) < 3000
    reactood._networks._head._HEADS.clear()
    make_react_pipeline(conv_net)[1].fit(features)  # nothing is known: any head


def test_random_numbers_of_numpy_and_python_are_seeded_for_factories(X):
    def build():
        net = conv_net()
        with torch.no_grad():
            net[-1].bias += np.random.normal() + random.random() + torch.rand(())
        return net

    states = [np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()]
    a, b = (make_react_pipeline(build).fit(X).score_samples(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])
    assert random.getstate() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
