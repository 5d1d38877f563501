"""What is loaded says the same as what was saved, bit for bit."""

import copy
import functools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import saved_kinds as kinds
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from reactood import ReActDetector, TorchFeatureExtractor, make_react_pipeline
from reactood.model_selection import ReActDetectorCV
from reactood.monitoring import ConformalMonitor
from reactood.persistence import load, read_metadata, save
from reactood.persistence._file import read_file, write_file
from reactood.persistence._kinds import KINDS
from reactood.persistence._transforms import describe_transform, make_transform


@pytest.fixture(scope="module")
def on_features():
    return kinds.on_features()


@pytest.fixture(scope="module")
def on_images():
    return kinds.on_images()


def assert_same(first, second, X):
    ours, theirs = kinds.outputs(first, X), kinds.outputs(second, X)
    assert ours.keys() == theirs.keys() and ours
    for name, expected in ours.items():
        assert expected.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(expected, theirs[name], err_msg=name)


def learned(estimator):
    params = estimator.get_params(deep=False)
    return {key for key in vars(estimator) if key not in params}


def test_every_kind_on_features(on_features, tmp_path):
    for name, (estimator, code) in on_features.items():
        save(estimator, tmp_path / "file")
        loaded = load(tmp_path / "file", **code)
        assert type(loaded) is type(estimator)
        assert_same(estimator, loaded, kinds.X)
        assert learned(loaded) == learned(estimator), name
        labels = {"cv": kinds.MARKS, "cv-split": kinds.MARKS, "trained": kinds.CLASSES}
        clone(loaded).fit(kinds.X, labels.get(name))


def test_a_monitor_goes_on_where_it_was(on_features, tmp_path):
    monitor = copy.deepcopy(on_features["monitor"][0])
    fresh = ConformalMonitor(monitor.detector, random_state=0).fit()
    monitor.update_scores(np.full(2000, monitor.calibration_scores_[0]))
    for some in (fresh, monitor):  # before the first sample, and after an alarm
        save(some, tmp_path / "file")
        loaded = load(tmp_path / "file")
        for name in learned(some) - {"_scores", "_recent"}:
            np.testing.assert_array_equal(getattr(loaded, name), getattr(some, name))
        assert_same(some, loaded, kinds.X)
        assert_same(some.reset(), loaded.reset(), kinds.X)
    assert monitor.detector.score_samples(kinds.X).shape == (len(kinds.X),)


def test_every_kind_on_images(on_images, tmp_path):
    for name, (estimator, code) in on_images.items():
        save(estimator, tmp_path / "file")
        loaded = load(tmp_path / "file", **code)
        assert type(loaded) is type(estimator)
        assert_same(estimator, loaded, kinds.IMAGES)
        # The network is a parameter now, and fitting it anew gives the same features.
        again = clone(loaded)
        if name not in ("cv", "both"):
            again.fit(kinds.IMAGES)
            assert kinds.outputs(again, kinds.IMAGES).keys()


def test_refitting_uses_the_weights_of_the_file(tmp_path):
    pipeline = make_react_pipeline(kinds.small_net, check_score=False)
    pipeline.fit(kinds.IMAGES)
    save(pipeline, tmp_path / "file")

    def other_weights():
        torch.manual_seed(1)
        return kinds.SmallNet()

    loaded = load(tmp_path / "file", model=other_weights)
    again = clone(loaded).fit(kinds.IMAGES)
    expected = pipeline.score_samples(kinds.IMAGES)
    np.testing.assert_allclose(again.score_samples(kinds.IMAGES), expected, rtol=1e-5)


def test_a_file_of_what_was_loaded(on_images, tmp_path):
    """Saved, loaded, fitted again, saved and loaded: the code is that of the user."""
    pipeline, code = on_images["factory"]
    save(pipeline, tmp_path / "first")
    loaded = load(tmp_path / "first", **code)
    for second in (loaded, clone(loaded).fit(kinds.IMAGES)):
        save(second, tmp_path / "second")
        assert_same(second, load(tmp_path / "second", **code), kinds.IMAGES)


def test_all_kinds_are_tried(on_features, on_images, tmp_path):
    """A class that the package gets later must have a test here."""
    found = set()

    def collect(node):
        if isinstance(node, dict):
            found.add(str(node.get("estimator", "")))
            node = list(node.values())
        if isinstance(node, list):
            for item in node:
                collect(item)

    for estimator, _ in (*on_features.values(), *on_images.values()):
        save(estimator, tmp_path / "file")
        collect(read_metadata(tmp_path / "file"))
    untried = {"LinearSVC", "EmpiricalCovariance", "OAS", "ShrunkCovariance", "KFold"}
    untried |= {"StratifiedShuffleSplit", "LeaveOneOODSourceOut", "NearestNeighbors"}
    assert set(KINDS) - found <= untried


OTHER_PROCESS = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import numpy as np
import saved_kinds as kinds
from reactood.persistence import load
folder = Path(sys.argv[1])
X = {"features": kinds.X, "images": kinds.IMAGES, "named": np.load(folder / "big.npy")}
found = {}
for path in sorted(folder.glob("*.safetensors")):
    code = kinds.small_head if path.stem == "features-module" else kinds.small_net
    needs_code = path.stem.startswith("images") or path.stem == "features-module"
    loaded = load(path, **({"model": code} if needs_code else {}))
    found[path.stem] = kinds.outputs(loaded, X[path.stem.split("-")[0]])
(folder / "found").write_bytes(pickle.dumps(found))
"""


def test_another_process(on_features, on_images, tmp_path):
    """Names of torchvision and timm too, which are built again there."""
    pytest.importorskip("timm")
    expected = {}
    for name in (
        "react",
        "per-unit",
        "knn",
        "mahalanobis",
        "conformal",
        "cv",
        "module",
    ):
        estimator, _ = on_features[name]
        save(estimator, tmp_path / f"features-{name}.safetensors")
        expected[f"features-{name}"] = kinds.outputs(estimator, kinds.X)
    for name in ("factory", "layer", "odin", "conformal"):
        estimator, _ = on_images[name]
        save(estimator, tmp_path / f"images-{name}.safetensors")
        expected[f"images-{name}"] = kinds.outputs(estimator, kinds.IMAGES)
    big = np.random.default_rng(0).random((8, 3, 64, 64), dtype=np.float32)
    np.save(tmp_path / "big.npy", big)
    for name in ("resnet18", "timm/resnet10t"):
        estimator = make_react_pipeline(name, weights=None, check_score=False).fit(big)
        stem = f"named-{name.replace('/', '-')}"
        save(estimator, tmp_path / f"{stem}.safetensors")
        expected[stem] = kinds.outputs(estimator, big)
    estimator[0].set_params(model="resnet34")  # not what was fitted
    with pytest.raises(NotFittedError, match="changed after `fit`"):
        save(estimator, tmp_path / "refused")
    tests = str(Path(__file__).parent)
    subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), tests], check=True
    )
    found = pickle.loads((tmp_path / "found").read_bytes())
    assert found.keys() == expected.keys()
    for stem, outputs in expected.items():
        for name, values in outputs.items():
            np.testing.assert_array_equal(values, found[stem][name], err_msg=stem)


def test_no_tensor_is_stored_twice(tmp_path):
    net = kinds.small_net()
    pipeline = make_react_pipeline(net, check_score=False).fit(kinds.IMAGES)
    save(pipeline, tmp_path / "file")
    header = (tmp_path / "file").read_bytes()
    weight = net.fc.weight.detach().numpy().tobytes()
    assert header.count(weight) == 1  # that of the network, and coef_


def test_places_of_this_machine_are_not_in_the_file(tmp_path):
    pipeline = make_react_pipeline(
        kinds.small_net, cache=str(tmp_path / "secret-place"), check_score=False
    )
    pipeline.set_params(memory=str(tmp_path / "secret-memory")).fit(kinds.IMAGES)
    save(pipeline, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    assert b"secret" not in data and str(tmp_path).encode() not in data
    assert load(tmp_path / "file", model=kinds.small_net)[0].cache is None


def test_requests_for_metadata_are_left_out(tmp_path):
    """They matter for another fit alone."""
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        head = LogisticRegression().set_fit_request(sample_weight=False)
        detector = ReActDetector(head, check_score=False)
        pipeline = make_pipeline(scaler, detector).fit(kinds.X, kinds.CLASSES)
        save(pipeline, tmp_path / "file")
    assert_same(pipeline, load(tmp_path / "file"), kinds.X)


def test_a_device_that_this_machine_lacks(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is such a device")
    pipeline = make_react_pipeline(kinds.small_net, check_score=False).fit(kinds.IMAGES)
    expected = pipeline.score_samples(kinds.IMAGES)
    pipeline.set_params(extractor__device="cuda", detector__device="cuda")
    save(pipeline, tmp_path / "file")
    loaded = load(tmp_path / "file", model=kinds.small_net)
    with pytest.raises(ValueError, match="device='cuda' cannot be used here"):
        loaded.score_samples(kinds.IMAGES)
    loaded.set_params(extractor__device="auto", detector__device="auto")
    np.testing.assert_array_equal(loaded.score_samples(kinds.IMAGES), expected)


def test_defaults_that_are_given_up_are_those_of_each_version(tmp_path):
    """scikit-learn marks them as "deprecated", which older versions do not know."""
    head = LogisticRegression().fit(kinds.X, kinds.CLASSES)
    detector = ReActDetector(FrozenEstimator(head), check_score=False).fit(kinds.X)
    save(detector, tmp_path / "file")
    content, tensors = read_file(tmp_path / "file")
    inner = content["estimator"]["params"]["head"]["params"]["estimator"]["params"]
    inner["C"] = "deprecated"
    write_file(tmp_path / "file", content, tensors)
    loaded = load(tmp_path / "file")
    assert loaded.head.estimator.C == LogisticRegression().C


def test_no_image_is_in_the_file(tmp_path):
    pipeline = make_react_pipeline(kinds.small_net, check_score=False)
    save(pipeline.fit(kinds.IMAGES), tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    assert all(image[0, 0].tobytes() not in data for image in kinds.IMAGES)


def test_frames_keep_their_names(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(kinds.X, columns=[f"unit {i}" for i in range(8)])
    detector = ReActDetector(kinds.HEAD).fit(frame)
    save(detector, tmp_path / "file")
    loaded = load(tmp_path / "file")
    assert loaded.feature_names_in_.tolist() == list(frame.columns)
    assert_same(detector, loaded, frame)


def test_class_labels_may_be_text(tmp_path):
    from sklearn.linear_model import LogisticRegression

    names = np.array(["cat", "dog", "horse"])[kinds.CLASSES]
    for labels in (names, names.astype(object)):
        detector = ReActDetector(LogisticRegression(), check_score=False)
        save(detector.fit(kinds.X, labels), tmp_path / "file")
        assert_same(detector, load(tmp_path / "file"), kinds.X)


TRANSFORMS = [
    ImageClassification(crop_size=224),
    ImageClassification(
        crop_size=64,
        resize_size=72,
        interpolation=transforms.InterpolationMode.BICUBIC,
        antialias=None,
    ),
    transforms.Compose(
        [
            transforms.Resize(16),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    ),
    v2.Compose(
        [
            v2.RGB(),
            v2.Resize((16, 16), antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    ),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_transforms_of_torchvision(transform):
    node = describe_transform(transform)
    assert list(node) == ["transform"]
    assert repr(make_transform(node)) == repr(transform)


def halved(image):
    """Return half of the image, as a transform of a user would."""
    return transforms.functional.to_tensor(image) / 2


def test_known_preprocessing_is_in_the_file(tmp_path):
    images = [
        (255 * image).astype(np.uint8).transpose(1, 2, 0) for image in kinds.IMAGES
    ]
    pipeline = make_react_pipeline(
        kinds.small_net, preprocess=TRANSFORMS[2], check_score=False
    ).fit(images)
    save(pipeline, tmp_path / "file")
    loaded = load(tmp_path / "file", model=kinds.small_net)
    assert_same(pipeline, loaded, images)
    load(tmp_path / "file", model=kinds.small_net, preprocess=TRANSFORMS[2])
    with pytest.raises(ValueError, match="holds all that it needs, and another one"):
        load(tmp_path / "file", model=kinds.small_net, preprocess=TRANSFORMS[0])


def test_own_preprocessing_is_given_again(tmp_path):
    images = [
        (255 * image).astype(np.uint8).transpose(1, 2, 0) for image in kinds.IMAGES
    ]
    pipeline = make_react_pipeline(
        kinds.small_net, preprocess=halved, check_score=False
    ).fit(images)
    save(pipeline, tmp_path / "file")
    with pytest.raises(ValueError, match=r"halved.*preprocess="):
        load(tmp_path / "file", model=kinds.small_net)
    loaded = load(tmp_path / "file", model=kinds.small_net, preprocess=halved)
    assert_same(pipeline, loaded, images)
    with pytest.warns(UserWarning, match="not the function that was saved"):
        load(
            tmp_path / "file",
            model=kinds.small_net,
            preprocess=transforms.ToTensor(),
        )


def test_what_a_file_cannot_hold(tmp_path):
    path = tmp_path / "file"
    own = ReActDetector(kinds.HEAD, score_function=lambda z: z.sum(1)).fit(kinds.X)
    with pytest.raises(TypeError, match=r"score_function is the function.*pickle"):
        save(own, path)
    from sklearn.ensemble import IsolationForest

    with pytest.raises(TypeError, match="It holds estimators of these classes"):
        save(IsolationForest(n_estimators=2).fit(kinds.X), path)
    with pytest.raises(NotFittedError):
        save(ReActDetector(kinds.HEAD), path)
    search = ReActDetectorCV(kinds.HEAD, cv=np.random.RandomState(0))
    with pytest.raises(TypeError):
        save(object(), path)
    fitted = ReActDetectorCV(kinds.HEAD).fit(kinds.X, kinds.MARKS)
    fitted.cv = search.cv
    with pytest.raises(TypeError, match=r"ReActDetectorCV\.cv.*set_params"):
        save(fitted, path)

    class MyDetector(ReActDetector):
        pass

    with pytest.raises(TypeError, match="MyDetector"):
        save(MyDetector(kinds.HEAD).fit(kinds.X), path)
    assert not path.exists()


def test_fitted_detectors_are_arrays_and_text():
    """Readers of states, such as skops and MLflow, need no private class."""
    plain = int, float, str, bool, type(None), np.ndarray, dict, list, tuple
    for detector in (
        ReActDetector(kinds.HEAD).fit(kinds.X),
        ReActDetector(None, percentile=None).fit(kinds.X),
        ReActDetectorCV(kinds.HEAD).fit(kinds.X, kinds.MARKS),
    ):
        state = detector.__getstate__()
        assert {k for k, v in state.items() if not isinstance(v, plain)} == set()
        copy = pickle.loads(pickle.dumps(detector))
        assert_same(detector, copy, kinds.X)


def test_the_users_model_is_not_altered(tmp_path):
    net = kinds.small_net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    pipeline = make_react_pipeline(net, check_score=False).fit(kinds.IMAGES)
    save(pipeline, tmp_path / "file")
    load(tmp_path / "file", model=net)
    assert net.training and isinstance(net.norm, nn.BatchNorm2d)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_keywords_of_scores_are_kept(on_features, tmp_path):
    estimator, _ = on_features["gen"]
    save(estimator, tmp_path / "file")
    loaded = load(tmp_path / "file")
    assert isinstance(loaded.score_function, functools.partial)
    assert loaded.score_function.keywords == {"gamma": 0.2}


def test_skops_reads_a_detector(on_features):
    """It has to trust the class of the detector, and nothing else of this package."""
    skops = pytest.importorskip("skops.io")
    detector, _ = on_features["react"]
    data = skops.dumps(detector)
    types = skops.get_untrusted_types(data=data)
    assert types == ["reactood.detector.ReActDetector"]
    assert_same(detector, skops.loads(data, trusted=types), kinds.X)


FILES = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_files_of_earlier_versions(path):
    """They load for ever. `make_golden.py` wrote them, and what they said then."""
    kind, _ = path.stem.split("-", 1)
    code = {"model": kinds.small_net} if kind == "images" else {}
    loaded = load(path, **code)
    found = kinds.outputs(loaded, kinds.IMAGES if kind == "images" else kinds.X)
    with np.load(path.with_suffix(".npz")) as expected:
        assert found.keys() == set(expected)
        # A decision at the threshold may differ by rounding, as may the last digits.
        for name in set(expected) - {"predict", "p_values"}:
            values = expected[name]
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
def test_the_decoder_is_kept(decoder, tmp_path):
    extractor = TorchFeatureExtractor(kinds.small_net, decoder=decoder)
    save(extractor.fit(kinds.IMAGES), tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", model=kinds.small_net)
    assert loaded.decoder == decoder


def test_files_without_a_decoder_were_made_with_pillow():
    path = Path(__file__).parent / "golden" / "images-factory-v1.safetensors"
    assert "decoder" not in str(read_file(path)[0])
    assert load(path, model=kinds.small_net)[0].decoder == "pillow"
