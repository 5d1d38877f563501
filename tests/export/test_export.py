"""A graph gives the numbers of the detector that it was made of."""

import copy
import json
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import conv_net
from running import (
    RUNNERS,
    SLOWER,
    assert_agrees,
    needs_onnx,
    open_session,
    run_onnx,
    run_session,
    run_torch,
)
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import reactood
from reactood import (
    ReActDetector,
    ReActDetectorCV,
    TorchFeatureExtractor,
    make_react_pipeline,
)
from reactood.baselines import KNNDetector, MahalanobisDetector, make_odin_pipeline
from reactood.conformal import ConformalDetector
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.export import export_onnx, export_program, to_torch
from reactood.export._parts import round_up
from reactood.export._scores import score_in_graph
from reactood.rectifiers import ASH, BATS, DICE, LTS, SCALE, VRAP, BFAct
from reactood.scores import gen

N_FEATURES, N_CLASSES = 24, 6
SLOW = pytest.mark.slow


@pytest.fixture
def X(rng):
    return rng.gamma(2, size=(200, N_FEATURES)).astype(np.float32)


@pytest.fixture
def head(rng):
    weight = rng.normal(size=(N_CLASSES, N_FEATURES))
    return weight, rng.normal(size=N_CLASSES)


@pytest.fixture(scope="module")
def digits():
    return load_digits_ood()


@pytest.fixture(scope="module")
def pipeline(digits):
    return make_react_pipeline(digits_classifier, check_score=False).fit(digits.X_train)


def soft_rank(logits):
    """Return a score of my own."""
    return logits.softmax(dim=1).square().sum(dim=1)


def overwrite(logits):
    """Return a score, and write into the logits."""
    return logits.mul_(2).amax(dim=1)


# --- scores, clips and heads ----------------------------------------------------------

SCORE_CASES = [
    *((name, 1.0) for name in reactood.scores.__all__),
    *((name, 3.0) for name in ("energy", "gen", "joint_energy", "msp")),
    (soft_rank, 1.0),
    (overwrite, 1.0),
]


@pytest.mark.parametrize(
    ("score", "temperature"),
    SCORE_CASES,
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("run", SLOWER)
def test_scores(X, head, score, temperature, run, tmp_path):
    detector = ReActDetector(head, score_function=score, temperature=temperature)
    detector.set_params(check_score=False, contamination=0.2).fit(X)
    assert_agrees(run(detector, X, tmp_path), detector, X)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gen_of_sure_rows_keeps_its_precision(temperature):
    logits = torch.linspace(0, 80, 200)[:, None] * torch.tensor([[1, 0.1, 0.0, -0.2]])
    found = score_in_graph("gen", temperature)(logits)
    expected = gen(logits, temperature)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert expected.unique().numel() > 190  # not one of them is rounded to 0


CLIPS = [
    {"percentile": None},
    {"percentile": 80.0},
    {"threshold": 2.5},
    {"per_unit": True},
    {"lower_percentile": 10.0},
    {"lower_percentile": 10.0, "per_unit": True},
    {"threshold": np.linspace(1, 3, N_FEATURES), "lower_percentile": 5.0},
    {"threshold": np.inf, "lower_percentile": 20.0},
    {"threshold": np.r_[np.full(N_FEATURES // 2, np.inf), np.ones(N_FEATURES // 2)]},
]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: "-".join(clip))
def test_clips(X, head, clip, tmp_path):
    detector = ReActDetector(head, check_score=False, **clip).fit(X)
    outputs = run_torch(detector, X, tmp_path)
    assert_agrees(outputs, detector, X)
    unclipped = X @ head[0].T.astype(np.float32) + head[1].astype(np.float32)
    np.testing.assert_allclose(outputs["logits"], unclipped, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [CLIPS[0], CLIPS[4], CLIPS[5]])
def test_clips_in_onnx(X, head, clip, tmp_path):
    detector = ReActDetector(head, check_score=False, **clip).fit(X)
    assert_agrees(run_onnx(detector, X, tmp_path), detector, X)


def own_head():
    return nn.Sequential(nn.Linear(N_FEATURES, 9), nn.Tanh(), nn.Linear(9, 4))


def heads(rng, X):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield own_head()
        yield own_head().double()
        yield nn.Linear(N_FEATURES, 1)
        yield nn.Sequential(nn.Linear(N_FEATURES, 1))
    labels = (X[:, 0] > 2).astype(int) + (X[:, 1] > 2)
    yield FrozenEstimator(LogisticRegression(max_iter=2000).fit(X, labels))
    yield None  # X holds logits


def test_heads(X, rng, tmp_path):
    for head in heads(rng, X):
        detector = ReActDetector(head, check_score=False).fit(X)
        assert_agrees(run_torch(detector, X, tmp_path), detector, X)


@pytest.mark.slow
def test_heads_of_modules_in_onnx(X, rng, tmp_path):
    for head in list(heads(rng, X))[1:4:2]:
        detector = ReActDetector(head, check_score=False).fit(X)
        assert_agrees(run_onnx(detector, X, tmp_path), detector, X)


def test_one_logit_as_input(rng, tmp_path):
    X = rng.normal(size=(99, 1)).astype(np.float32)
    detector = ReActDetector(percentile=None, check_score=False).fit(X)
    outputs = run_torch(detector, X, tmp_path)
    assert outputs["logits"].shape == (99, 2)
    assert_agrees(outputs, detector, X)


# --- rectifiers, pipelines, guarantees ------------------------------------------------


def rules(head):
    return [
        (BATS(), head),
        (VRAP(), head),
        (VRAP(per_unit=False, low=0.5), head),
        (BFAct(), head),
        (BFAct(80, order=1.5), head),
        (ASH(80), head),
        (ASH(kind="p"), head),
        (ASH(kind="b"), head),
        (SCALE(), head),
        (LTS(head, 80), None),
        (DICE(head), None),
    ]


@pytest.mark.parametrize("number", range(11))
@pytest.mark.parametrize("run", SLOWER)
def test_rectifiers(X, head, number, run, tmp_path):
    rule, head = rules(head)[number]
    detector = ReActDetector(head, percentile=None, check_score=False)
    pipeline = make_pipeline(rule, detector).fit(X)
    outputs = run(pipeline, X, tmp_path)
    scores = pipeline.score_samples(X)
    error = 2e-5 * np.abs(scores).max()
    np.testing.assert_allclose(outputs["score"], scores, rtol=0, atol=error)
    sure = np.abs(pipeline.decision_function(X)) > error
    np.testing.assert_array_equal(
        outputs["is_id"][sure], pipeline.predict(X)[sure] == 1
    )


def test_rectifiers_between_extractor_and_clip(digits, tmp_path):
    steps = [
        ("extractor", TorchFeatureExtractor(digits_classifier)),
        ("nothing", "passthrough"),
        ("scale", SCALE(50)),
        ("bats", BATS(3.0)),
        ("detector", ReActDetector(digits_classifier().fc, check_score=False)),
    ]
    pipeline = Pipeline(steps).fit(digits.X_train)
    outputs = run_torch(pipeline, digits.X_test, tmp_path)
    scores = pipeline.score_samples(digits.X_test)
    np.testing.assert_allclose(outputs["score"], scores, rtol=2e-5)


def test_negative_activations_are_not_in_distribution_where_a_rule_refuses_them(
    X, head, tmp_path
):
    X[3, 5] = -0.5
    refusing = make_pipeline(SCALE(), ReActDetector(head, percentile=None))
    refusing.set_params(reactdetector__check_score=False)
    refusing.fit(np.delete(X, 3, axis=0))
    with pytest.raises(ValueError, match="Negative values"):
        refusing.score_samples(X)
    outputs = run_torch(refusing, X, tmp_path)
    assert np.flatnonzero(np.isnan(outputs["score"])).tolist() == [3]
    assert not outputs["is_id"][3]


@pytest.mark.parametrize("runner", SLOWER)
def test_pipelines_on_images(pipeline, digits, runner, tmp_path):
    outputs = runner(pipeline, digits.X_test, tmp_path)
    assert set(outputs) == {"logits", "score", "is_id"}
    scores = pipeline.score_samples(digits.X_test)
    np.testing.assert_allclose(outputs["score"], scores, rtol=2e-5)
    np.testing.assert_array_equal(
        outputs["logits"].argmax(axis=1), pipeline.predict_class(digits.X_test)
    )


def test_a_layer_by_name(digits, tmp_path):
    net = digits_classifier()
    extractor = TorchFeatureExtractor(net, layer="features.6")
    head = np.random.default_rng(0).normal(size=(4, 64)), np.zeros(4)
    detector = make_pipeline(extractor, ReActDetector(head, check_score=False))
    detector.fit(digits.X_train)
    outputs = run_torch(detector, digits.X_test, tmp_path)
    np.testing.assert_allclose(
        outputs["score"], detector.score_samples(digits.X_test), rtol=2e-5
    )


@pytest.mark.parametrize("runner", RUNNERS)
def test_conformal_p_values(pipeline, digits, runner, tmp_path):
    known, new = digits.X_test[::2], digits.X_test[1::2]
    detector = ConformalDetector(FrozenEstimator(pipeline), alpha=0.1).fit(known)
    outputs = runner(detector, new, tmp_path)
    assert set(outputs) == {"logits", "score", "is_id", "p_value"}
    scores = detector.score_samples(new)
    np.testing.assert_allclose(outputs["score"], scores, rtol=2e-5)
    # As far as the scores are apart by more than the rounding of the network.
    gaps = np.abs(scores[:, None] - detector.calibration_scores_).min(axis=1)
    sure = gaps > 2e-5 * np.abs(scores)
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(
        outputs["p_value"][sure], detector.p_values(new)[sure]
    )
    np.testing.assert_array_equal(
        outputs["is_id"][sure], detector.predict(new)[sure] == 1
    )


@pytest.mark.parametrize("run", SLOWER)
def test_p_values_and_ties_are_exact(head, rng, run, tmp_path):
    X = rng.integers(0, 4, (300, N_FEATURES)).astype(np.float32)
    X = np.repeat(X[:60], 5, axis=0)  # many scores are those of calibration rows
    head = np.rint(head[0]), np.rint(head[1])
    inner = ReActDetector(head, score_function="max_logit", check_score=False)
    detector = ConformalDetector(inner, alpha=0.1, random_state=0).fit(X)
    outputs = run(detector, X, tmp_path)
    np.testing.assert_array_equal(outputs["p_value"], detector.p_values(X))
    np.testing.assert_array_equal(outputs["is_id"], detector.predict(X) == 1)


def test_detector_with_cross_validation(X, head, rng, tmp_path):
    ood = rng.gamma(1, 4, size=(60, N_FEATURES)).astype(np.float32)
    both, y = np.concatenate([X, ood]), np.repeat([1, -1], [len(X), len(ood)])
    detector = ReActDetectorCV(
        head, percentiles=(80, 95), score_function=["msp", "max_logit"], cv=2
    ).fit(both, y)
    assert_agrees(run_torch(detector, both, tmp_path), detector, both)


def test_detector_with_cross_validation_on_images(digits, tmp_path):
    X = np.concatenate([digits.X_train[:200], digits.ood["letters"][:60]])
    y = np.repeat([1, -1], [200, 60])
    given = make_react_pipeline(digits_classifier, check_score=False)
    detector = ReActDetectorCV(given, percentiles=(80, 95), cv=2).fit(X, y)
    outputs = run_torch(detector, digits.X_test, tmp_path)
    assert_agrees(outputs, detector, digits.X_test)


# --- the threshold --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_rounded_up(dtype, rng):
    values = rng.normal(size=1000) * 10.0 ** rng.integers(-30, 30, 1000)
    rounded = round_up(values, dtype)
    assert rounded.dtype == dtype
    assert (rounded.astype(np.float64) >= values).all()
    below = np.nextafter(rounded, dtype(-np.inf)).astype(np.float64)
    assert (below < values).all()


@pytest.mark.parametrize("score", ["energy", "entropy"])
def test_decisions_at_the_line(X, head, score, tmp_path):
    detector = ReActDetector(head, score_function=score, check_score=False).fit(X)
    module, x = to_torch(detector), torch.from_numpy(X)
    scores = module(x)["score"].double()
    for offset in scores[:20].tolist():
        for line in np.nextafter(offset, -np.inf), offset, np.nextafter(offset, np.inf):
            detector.offset_ = float(line)
            found = to_torch(detector)(x)["is_id"]
            assert torch.equal(found, scores >= line)


def test_the_threshold_may_be_given(X, head, tmp_path):
    detector = ReActDetector(head, check_score=False).fit(X)
    module, x = to_torch(detector), torch.from_numpy(X)
    assert module(x, threshold=1e9)["is_id"].sum() == 0
    assert module(x, threshold=torch.tensor(-1e9))["is_id"].all()
    assert module(x)["is_id"].float().mean() > 0.9
    module.threshold.fill_(1e9)
    assert module(x)["is_id"].sum() == 0
    needs_onnx()
    session = open_session(export_onnx(detector, tmp_path / "d.onnx"))
    (given,) = session.get_overridable_initializers()
    assert (given.name, given.shape) == ("threshold", [])
    high = np.array(1e9, np.float32)
    assert run_session(session, X)["is_id"].mean() > 0.9
    assert run_session(session, X, threshold=high)["is_id"].sum() == 0


@pytest.mark.parametrize("runner", SLOWER)
def test_rows_that_are_not_finite_are_not_in_distribution(X, head, runner, tmp_path):
    inner = ReActDetector(head, on_nan="reject", check_score=False).fit(X)
    detector = ConformalDetector(FrozenEstimator(inner)).fit(X)
    X[0, 3], X[1, 4], X[2, 5], X[3] = np.nan, np.inf, -np.inf, np.nan
    outputs = runner(detector, X, tmp_path)
    assert np.isnan(outputs["score"][:4]).all()
    assert not outputs["is_id"][:4].any()
    smallest = 1 / (1 + len(detector.calibration_scores_))
    assert (outputs["p_value"][:4] == smallest).all()
    assert np.isfinite(outputs["score"][4:]).all()


# --- files ----------------------------------------------------------------------------


@pytest.mark.slow
def test_any_number_of_rows(pipeline, digits, tmp_path):
    needs_onnx()
    session = open_session(export_onnx(pipeline, tmp_path / "d.onnx"))
    assert session.get_inputs()[0].shape == ["rows", 1, 8, 8]
    program = torch.export.load(export_program(pipeline, tmp_path / "d.pt2")).module()
    expected = pipeline.score_samples(digits.X_test[:40])
    for n in (1, 2, 7, 40):
        images = digits.X_test[:n]
        scores = run_session(session, images)["score"]
        np.testing.assert_allclose(scores, expected[:n], rtol=2e-5)
        scores = program(torch.from_numpy(images))["score"]
        np.testing.assert_allclose(scores, expected[:n], rtol=2e-5)


def test_metadata(digits, tmp_path):
    needs_onnx()
    pipeline = make_react_pipeline(
        digits_classifier, percentile=85, score_function="msp", check_score=False
    ).fit(digits.X_train)
    detector = ConformalDetector(FrozenEstimator(pipeline), alpha=0.1)
    detector.fit(digits.X_test)
    session = open_session(export_onnx(detector, tmp_path / "d.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    assert about["reactood_version"] == reactood.__version__
    assert about["score_function"] == "msp"
    read = {
        name: json.loads(about[name])
        for name in about
        if name != "score_function" and name != "reactood_version"
    }
    assert read["percentile"] == 85
    assert read["threshold"] == detector.offset_
    assert read["classes"] == list(range(8))
    assert read["alpha"] == 0.1
    assert list(read["outputs"]) == [o.name for o in session.get_outputs()]
    assert read["preprocessing"]["in_graph"] is False
    files = {"reactood.json": ""}
    torch.export.load(export_program(detector, tmp_path / "d.pt2"), extra_files=files)
    assert json.loads(files["reactood.json"]) == about


def test_names_of_the_classes_of_known_weights(rng):
    from torchvision.models import ResNet18_Weights

    from reactood.export._metadata import _class_names
    from reactood.export._parts import Parts

    class Frozen:
        recipe = "resnet18", "DEFAULT"

    extractor = TorchFeatureExtractor("resnet18")
    extractor._frozen = Frozen
    detector = ReActDetector()
    detector.classes_ = np.arange(1000)
    names = _class_names(Parts(detector, extractor))
    assert names == ResNet18_Weights.DEFAULT.meta["categories"]
    detector.classes_ = np.arange(5)  # another head
    assert _class_names(Parts(detector, extractor)) is None


@pytest.mark.parametrize("preprocess", [False, pytest.param(True, marks=SLOW)])
@pytest.mark.parametrize("kind", ["floats", pytest.param("pixels", marks=SLOW)])
def test_files_hold_no_image_and_nothing_of_this_machine(
    kind, preprocess, tmp_path, rng
):
    needs_onnx()
    images = rng.integers(0, 256, (40, 9, 11, 3), dtype=np.uint8)
    floats = rng.random((40, 3, 9, 11), dtype=np.float32)
    here = [
        tmp_path,
        Path(__file__).parents[2],
        Path.home(),
        sys.prefix,
        "site-packages",
        Path(torch.__file__).parent,
        Path.cwd(),
        Path(__file__).name,
        "conftest.py",
        ".py",
        "conv_net",
    ]
    given = images if kind == "pixels" else floats
    secrets = [str(place).encode() for place in here]
    secrets += [row.tobytes()[:16] for row in given]
    pipeline = make_react_pipeline(conv_net(), preprocess=None, check_score=False)
    pipeline.fit(given)
    detector = ConformalDetector(FrozenEstimator(pipeline), alpha=0.2).fit(given)
    paths = [
        export_onnx(detector, tmp_path / "d.onnx", preprocess=preprocess),
        export_program(detector, tmp_path / "d.pt2", preprocess=preprocess),
    ]
    for data in contents(paths):
        for secret in secrets:
            assert secret not in data, secret
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.onnx", "d.pt2"]


def contents(paths):
    """Yield the bytes of files, and of the files in archives."""
    for path in paths:
        yield path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield name.encode()
                    yield archive.read(name)


def test_the_search_for_secrets_finds_them(tmp_path):
    """A program with images as its example holds them: the test above can fail."""
    images = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    program = torch.export.export(nn.Linear(3, 2), (torch.from_numpy(images)[:2],))
    torch.export.save(program, tmp_path / "d.pt2")
    found = [images[3].tobytes() in data for data in contents([tmp_path / "d.pt2"])]
    assert any(found)


def test_a_failed_write_leaves_the_file_as_it_was(pipeline, tmp_path, monkeypatch):
    path = tmp_path / "d.pt2"
    path.write_bytes(b"before")

    def fail(*args):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        export_program(pipeline, path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["d.pt2"]


def test_the_model_and_the_detector_are_not_changed(net, rng, tmp_path):
    X = rng.normal(size=(60, 3, 8, 8)).astype(np.float32)
    before = copy.deepcopy(net.state_dict())
    pipeline = make_react_pipeline(net, check_score=False).fit(X)
    scores = pipeline.score_samples(X)
    module = to_torch(pipeline)
    export_program(pipeline, tmp_path / "d.pt2")
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.zero_()
    assert net.training and all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    after = net.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    np.testing.assert_array_equal(pipeline.score_samples(X), scores)


def test_modules_can_be_pickled(pipeline, digits, tmp_path):
    module = to_torch(pipeline)
    x = torch.from_numpy(digits.X_test)
    expected = module(x)["score"]
    torch.save(module, tmp_path / "module.pt")
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    assert torch.equal(loaded(x)["score"], expected)
    assert not loaded.training


def test_program_settings_do_not_matter(X, head, tmp_path):
    detector = ReActDetector(head, check_score=False).fit(X)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            path = export_program(detector, tmp_path / "d.pt2")
    finally:
        torch.set_default_dtype(before)
    outputs = torch.export.load(path).module()(torch.from_numpy(X))
    outputs = {name: tensor.numpy() for name, tensor in outputs.items()}
    assert outputs["score"].dtype == np.float32
    assert_agrees(outputs, detector, X)


# --- errors ---------------------------------------------------------------------------


def test_what_cannot_be_exported_is_named(X, head, digits):
    for detector in (MahalanobisDetector(), KNNDetector()):
        with pytest.raises(TypeError, match=r"Detector cannot be exported; expected a"):
            to_torch(detector.fit(X))
    odin = make_odin_pipeline(digits_classifier).fit(digits.X_train)
    with pytest.raises(TypeError, match=r"ODINFeatureExtractor cannot be exported"):
        to_torch(odin)
    scaled = make_pipeline(StandardScaler(), ReActDetector(head, check_score=False))
    with pytest.raises(TypeError, match=r"step StandardScaler cannot .*BATS, VRAP"):
        to_torch(scaled.fit(X))
    with pytest.raises(TypeError, match="LogisticRegression cannot be exported"):
        to_torch(LogisticRegression())
    with pytest.raises(Exception, match="not fitted yet"):
        to_torch(ReActDetector(head))
    inner = ConformalDetector(ReActDetector(head, check_score=False), alpha=0.2)
    with pytest.raises(TypeError, match="around another one"):
        to_torch(ConformalDetector(inner, alpha=0.2).fit(X))


class MySCALE(SCALE):
    """A rule of one's own, which no module knows."""

    def _shape(self, X):
        return X


def test_a_changed_rule_is_refused(X, head):
    detector = ReActDetector(head, percentile=None, check_score=False)
    with pytest.raises(TypeError, match="MySCALE cannot be exported"):
        to_torch(make_pipeline(MySCALE(), detector).fit(X))


def to_numpy(logits):
    """Leave torch, as no graph can."""
    return torch.from_numpy(logits.numpy().max(axis=1))


def by_value(logits):
    """Decide by a value."""
    return logits.amax(dim=1) if logits.sum() > 0 else logits.mean(dim=1)


def whole_numbers(logits):
    """Return no floats."""
    return (100 * logits).amax(dim=1).long()


@pytest.mark.parametrize("score", [to_numpy, by_value])
def test_score_functions_that_no_graph_can_hold(X, head, score, tmp_path):
    detector = ReActDetector(head, score_function=score).fit(X)
    with pytest.raises(ValueError, match=r"cannot capture the detector .*score_func"):
        export_program(detector, tmp_path / "d.pt2")
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_no_floats(X, head):
    detector = ReActDetector(head, score_function=whole_numbers).fit(X)
    with pytest.raises(TypeError, match=r"torch.int64, expected a tensor of floats"):
        to_torch(detector)


def test_wrong_paths(X, head, tmp_path):
    detector = ReActDetector(head, check_score=False).fit(X)
    with pytest.raises(ValueError, match=r"does not end in '.pt2'"):
        export_program(detector, tmp_path / "d.pth")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        export_program(detector, tmp_path / "nowhere" / "d.pt2")
    needs_onnx()
    with pytest.raises(ValueError, match=r"does not end in '.onnx'"):
        export_onnx(detector, tmp_path / "d.pt2")
    with pytest.raises(ValueError, match=r"opset=11 is not supported; expected 18"):
        export_onnx(detector, tmp_path / "d.onnx", opset=11)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_missing_packages_are_named(X, head, tmp_path, monkeypatch, name):
    needs_onnx()
    monkeypatch.setitem(sys.modules, name, None)
    detector = ReActDetector(head, check_score=False).fit(X)
    needed = re.escape(f"needs {name}: pip install 'reactood[onnx]'")
    with pytest.raises(ImportError, match=needed):
        export_onnx(detector, tmp_path / "d.onnx")


class Stubborn(nn.Module):
    """A network that looks at its last layer, so that it cannot be cut off."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.body(x).relu()
        assert self.head.out_features == 3
        return self.head(x)


def test_networks_that_cannot_be_cut(rng):
    X = rng.normal(size=(60, 5)).astype(np.float32)
    pipeline = make_react_pipeline(Stubborn(), check_score=False).fit(X)
    with pytest.raises(ValueError, match=r"Stubborn cannot be exported.*cut at its"):
        to_torch(pipeline)


class NoDetector(BaseEstimator):
    """Has nothing that a detector has."""


def test_other_objects():
    with pytest.raises(TypeError, match="NoDetector cannot be exported"):
        to_torch(NoDetector())


def test_finite_features_whose_sum_is_not():
    """The detector takes them, and so does the graph."""
    head = np.ones((3, 16), np.float32), np.zeros(3, np.float32)
    X = np.random.default_rng(0).gamma(2, size=(200, 16)).astype(np.float32)
    detector = ReActDetector(head).fit(X)
    large = np.full((2, 16), 3e37, np.float32)
    found = to_torch(detector)(torch.from_numpy(large))
    np.testing.assert_allclose(found["score"], detector.score_samples(large))
    assert found["is_id"].all()
