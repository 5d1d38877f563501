"""Folds, surrogates, and a percentile without out-of-distribution data."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from conftest import conv_net
from PIL import Image
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset
from torchvision import transforms
from torchvision.transforms.functional import to_tensor

from reactood import ReActDetector, ReActDetectorCV, make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import auroc, fpr_at_tpr, ood_scorers
from reactood.model_selection import (
    LeaveOneOODSourceOut,
    OODSplit,
    make_surrogate_features,
    make_surrogate_ood,
    tune_percentile,
)
from reactood.model_selection._surrogates import FEATURE_KINDS, IMAGE_KINDS


@pytest.fixture
def data(rng):
    X_id = np.maximum(rng.normal(0.5, 1, (120, 8)), 0)
    X_ood = np.maximum(rng.normal(0.2, 1, (40, 8)), 0)
    X_ood[:, 0] += rng.gamma(1, 4, 40)
    return np.concatenate([X_id, X_ood]), np.repeat([1, -1], [120, 40])


@pytest.fixture
def head(rng):
    return rng.normal(size=(4, 8)), np.zeros(4)


# --- folds --------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[1, -1], [7, -1], ["cat", "-1"]])
def test_ood_rows_are_for_testing_alone(data, labels):
    X, _ = data
    is_ood = np.arange(160) % 4 == 0
    y = np.where(is_ood, *reversed(labels))
    cv = OODSplit(5, random_state=0)
    tested = []
    for train, test in cv.split(X, y):
        assert not is_ood[train].any() and not set(train) & set(test)
        assert len(train) == 96
        assert is_ood[test].sum() == 8 and (~is_ood[test]).sum() == 24
        tested += test.tolist()
    assert sorted(tested) == list(range(160))
    assert cv.get_n_splits(X, y) == 5
    again = OODSplit(5, random_state=0).split(X, y)
    assert [t.tolist() for _, t in again] == [t.tolist() for _, t in cv.split(X, y)]
    (_, test), *_ = OODSplit(5, shuffle=False).split(X, y)
    assert test[:3].tolist() == [1, 2, 3]


def test_other_detectors_on_equal_terms(data, head):
    X, y = data
    cv = OODSplit(4, random_state=1)
    forest = IsolationForest(random_state=0)
    result = cross_validate(forest, X, y, cv=cv, scoring=ood_scorers())
    for fold, (train, test) in enumerate(cv.split(X, y)):
        assert (y[train] == 1).all()
        scores = forest.fit(X[train]).decision_function(X[test])
        assert result["test_auroc"][fold] == auroc(y[test], scores)
    detector = ReActDetector(head)
    both = [
        cross_validate(detector, X, y, cv=folds, scoring="roc_auc")["test_score"]
        for folds in (
            list(cv.split(X, y)),
            # with OOD rows on the train side: the detector leaves them out itself
            [(np.setdiff1d(np.arange(160), test), test) for _, test in cv.split(X, y)],
        )
    ]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("ood_in_train", [True, False])
def test_one_source_is_left_out(data, ood_in_train):
    X, y = data
    source = np.where(y == 1, "id", np.arange(160) % 3)
    cv = LeaveOneOODSourceOut(4, ood_in_train=ood_in_train, random_state=0)
    folds = list(cv.split(X, y, source))
    assert len(folds) == cv.get_n_splits(X, y, source) == 12
    for fold, (train, test) in enumerate(folds):
        left_out = str(fold // 4)
        assert set(source[test][y[test] == -1]) == {left_out}
        assert (source[test] == left_out).sum() == (source == left_out).sum()
        others = {"0", "1", "2"} - {left_out} if ood_in_train else set()
        assert set(source[train][y[train] == -1]) == others
        assert not set(train) & set(test)
    for start in (0, 4, 8):
        tested = [i for _, test in folds[start : start + 4] for i in test if y[i] == 1]
        assert sorted(tested) == list(range(120))


@pytest.mark.filterwarnings("ignore:OOD rows score higher")
@pytest.mark.parametrize("routed", [False, True])
def test_nested_selection_over_sources(data, head, routed):
    X, y = data
    source = np.where(y == 1, "id", np.arange(160) % 2)
    cv = LeaveOneOODSourceOut(3, random_state=0)
    detector = ReActDetectorCV(head, percentiles=(80, 90, 95), cv=2)
    with sklearn.config_context(enable_metadata_routing=routed):
        key = {"params": {"groups": source}} if routed else {"groups": source}
        scores = cross_validate(detector, X, y, cv=cv, scoring="roc_auc", **key)
        search = GridSearchCV(
            ReActDetector(head), {"percentile": [80, 95]}, scoring="roc_auc", cv=cv
        ).fit(X, y, groups=source)
    (train, test), *_ = cv.split(X, y, source)
    fold = clone(detector).fit(X[train], y[train])
    expected = auroc(y[test], fold.decision_function(X[test]))
    assert scores["test_score"][0] == pytest.approx(expected)
    assert search.n_splits_ == 6 and np.isfinite(search.best_score_)


def test_no_ood_rows_to_choose_by(data, head):
    X, y = data
    with pytest.raises(ValueError, match="expected some rows labelled -1"):
        cross_validate(
            ReActDetectorCV(head),
            *(X, y),
            cv=OODSplit(3),
            scoring="roc_auc",
            error_score="raise",
        )


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (None, "Got no y; expected at least 5 .* -1"),
        (np.repeat([1, 0], 80), r"labels \[0, 1\]; .*numpy.where\(is_ood, -1, 1\)"),
        (np.repeat([1, -1], [157, 3]), "157 ID and 3 OOD rows; expected at least 5"),
    ],
)
def test_misuse_of_folds_is_an_error_and_no_nan(data, head, y, sentence):
    X, _ = data
    search = GridSearchCV(
        ReActDetector(head), {"percentile": [80, 95]}, scoring="roc_auc", cv=OODSplit()
    )
    with pytest.raises(ValueError, match=sentence):
        search.fit(X, y)


def test_misuse_of_sources(data):
    X, y = data
    cv = LeaveOneOODSourceOut()
    with pytest.raises(ValueError, match="groups is missing: expected the source"):
        next(cv.split(X, y))
    for nothing, kind in ((np.nan, float), (None, object), (np.nan, list)):
        source = [nothing if i % 7 == 0 else i % 3 for i in range(160)]
        if kind is list:
            source = [each if each is np.nan else str(each) for each in source]
        else:
            source = np.array(source, dtype=kind)
        with pytest.raises(ValueError, match=r"no source for 5 of 40 OOD .* row 126"):
            next(cv.split(X, y, source))
    with pytest.raises(ValueError, match=r"names one source .*ood_in_train=False"):
        next(cv.split(X, y, np.repeat("a", 160)))


# --- searches of scikit-learn's ------------------------------------------------------


@pytest.mark.parametrize("of_images", [False, True])
@pytest.mark.parametrize("kind", ["grid", "random", "halving"])
def test_searches(data, head, kind, of_images, rng):
    X, y = data
    estimator, prefix = ReActDetector(head), ""
    if of_images:
        X = rng.normal(size=(160, 3, 5, 5)).astype(np.float32)
        estimator, prefix = make_react_pipeline(conv_net), "detector__"
    grid = {
        f"{prefix}percentile": [85.0, 95.0],
        f"{prefix}per_unit": [False, True],
        f"{prefix}score_function": ["energy", "msp"],
        f"{prefix}temperature": [1.0, 2.0],
        f"{prefix}lower_percentile": [None, 1.0],
    }
    kinds = {
        "grid": (GridSearchCV, {}),
        "random": (RandomizedSearchCV, {"n_iter": 6, "random_state": 0}),
        "halving": (HalvingGridSearchCV, {"random_state": 0, "min_resources": 60}),
    }
    search, options = kinds[kind]
    fitted = search(
        estimator,
        grid,
        scoring=ood_scorers()["auroc"],
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
        **options,
    ).fit(X, y)
    assert np.isfinite(fitted.cv_results_["mean_test_score"]).all()
    best = clone(estimator).set_params(**fitted.best_params_).fit(X[y == 1])
    np.testing.assert_allclose(fitted.decision_function(X), best.decision_function(X))


# --- surrogates ----------------------------------------------------------------------


@pytest.fixture
def pictures(rng):
    """uint8 images of a bright circle on dark ground, in colour."""
    rows, columns = np.mgrid[:16, :16]
    disc = (rows - 8) ** 2 + (columns - 8) ** 2 < 20
    images = np.where(disc[..., None], 200, 20) + rng.integers(0, 20, (12, 16, 16, 3))
    return images.astype(np.uint8)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_surrogates_are_images_of_the_same_kind(kind, pictures, photos, rng):
    floats = (pictures.transpose(0, 3, 1, 2) / 255 - 0.5).astype(np.float32)
    for X in (pictures, pictures.transpose(0, 3, 1, 2), pictures[..., 0], floats):
        made = make_surrogate_ood(X, kind, n_samples=20)
        assert made.shape == (20, *X.shape[1:]) and made.dtype == X.dtype
        np.testing.assert_array_equal(
            made, make_surrogate_ood(X, kind, n_samples=20, random_state=0)
        )
        assert not np.array_equal(
            made, make_surrogate_ood(X, kind, n_samples=20, random_state=1)
        )
        assert len({image.tobytes() for image in made[:12]}) == 12
        seen = {image.tobytes() for image in X}
        assert not {image.tobytes() for image in made} & seen
    tensors = make_surrogate_ood(torch.from_numpy(floats), kind, n_samples=20)
    np.testing.assert_array_equal(tensors, made)
    sizes = {(20, 30), (33, 21), (28, 28)}
    for X in ([str(path) for path in photos], photos[0].parents[1]):
        made = make_surrogate_ood(X, kind)
        assert {(image.height, image.width) for image in made} == sizes
        assert len(made) == 6
        assert {image.mode for image in made} == {"RGB"}
    grey = make_surrogate_ood([Image.fromarray(p[..., 0]) for p in pictures], kind)
    assert {image.mode for image in grey} == {"L"}
    dataset = TensorDataset(torch.from_numpy(floats), torch.zeros(12))
    made = make_surrogate_ood(dataset, kind, n_samples=3)
    assert [image.shape for image in made] == [(3, 16, 16)] * 3


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_surrogates_keep_the_dtype_of_float_images(kind, dtype, rng):
    images = rng.normal(size=(4, 3, 8, 8)).astype(dtype)
    for X in (images, torch.from_numpy(images)):
        made = make_surrogate_ood(X, kind)
        assert made.dtype == images.dtype and made.shape == images.shape


@pytest.mark.parametrize("kind", FEATURE_KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_surrogates_keep_the_dtype_of_features(kind, dtype, rng):
    features = rng.normal(size=(9, 4)).astype(dtype)
    for X in (features, torch.from_numpy(features), pd.DataFrame(features)):
        assert make_surrogate_features(X, kind).dtype == features.dtype
    half = torch.from_numpy(features).to(torch.bfloat16)
    assert make_surrogate_features(half, kind).dtype == np.float32


def test_surrogates_are_what_they_are_called(pictures, rng):
    def made(kind, X=pictures, n=200):
        return make_surrogate_ood(X, kind, n_samples=n).astype(float)

    noise = rng.normal([10, 20, 30], [1, 2, 3], (9, 16, 16, 3)).transpose(0, 3, 1, 2)
    gaussian = made("gaussian_noise", noise.astype(np.float32))
    np.testing.assert_allclose(gaussian.mean((0, 2, 3)), [10, 20, 30], rtol=0.02)
    np.testing.assert_allclose(gaussian.std((0, 2, 3)), [1, 2, 3], rtol=0.1)
    uniform = made("uniform_noise")
    np.testing.assert_allclose(np.quantile(uniform, [0, 0.25, 1]), [0, 64, 255], atol=3)
    colours = lambda image: sorted(map(tuple, image.reshape(-1, 3)))
    originals = [colours(image.astype(float)) for image in pictures]
    permuted = made("permuted_pixels", n=12)
    assert sorted(map(colours, permuted)) == sorted(originals)
    floats = pictures.transpose(0, 3, 1, 2).astype(np.float32)
    power = np.abs(np.fft.fft2(floats))
    scrambled = np.abs(np.fft.fft2(made("phase_scrambled", floats, 12)))
    order = lambda spectra: np.sort(spectra[:, 0].sum(axis=(1, 2)))
    np.testing.assert_allclose(order(scrambled), order(power), rtol=1e-4)
    mixed = made("blurred_mix")
    assert (
        np.abs(np.diff(mixed, axis=1)).max()
        < np.abs(np.diff(pictures.astype(int), axis=1)).max()
    )


def test_feature_surrogates(data):
    H, _ = data
    for kind in FEATURE_KINDS:
        made = make_surrogate_features(H.astype(np.float32), kind, n_samples=50)
        assert made.shape == (50, 8) and made.dtype == np.float32
        assert (made >= 0).all()
        assert not (made[:, None] == H[None].astype(np.float32)).all(axis=2).any()
    permuted = make_surrogate_features(H, "permuted_units")
    np.testing.assert_array_equal(np.sort(permuted, axis=0), np.sort(H, axis=0))
    assert make_surrogate_features(H, n_samples=400).shape == (400, 8)


@pytest.mark.parametrize("make", [make_surrogate_ood, make_surrogate_features])
def test_unknown_kinds(make, data, pictures):
    X = pictures if make is make_surrogate_ood else data[0]
    with pytest.raises(
        ValueError, match=r"'kind' parameter of make_.* among .* Got 'mine' instead"
    ):
        make(X, "mine")


def test_features_are_no_images(data):
    with pytest.raises(ValueError, match=r"X_id is \(160, 8\), expected images"):
        make_surrogate_ood(data[0])


# --- a percentile without OOD data ----------------------------------------------------

# What is said of the small data of these tests has tests of its own.
small_data = pytest.mark.filterwarnings(
    "ignore:The choice rests on",
    "ignore:The surrogates .* do not show that a clip helps",
)


@small_data
@pytest.mark.parametrize("surrogate", ["gaussian_noise", "phase_scrambled"])
def test_the_digits_are_tuned(surrogate):
    digits = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier)
    tuned = tune_percentile(pipeline, digits.X_test, surrogate=surrogate)
    H = pipeline[:-1].fit_transform(digits.X_test)
    H_ood = pipeline[:-1].transform(
        make_surrogate_ood(digits.X_test, surrogate, n_samples=min(1000, len(H)))
    )
    X, y = np.concatenate([H, H_ood]), np.repeat([1, -1], [len(H), len(H_ood)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = {}
    for percentile in (65, 80, 85, 90, 95, 99, None):
        detector = clone(pipeline[-1]).set_params(percentile=percentile)
        result = cross_validate(detector, X, y, cv=folds, scoring=ood_scorers())
        scores[percentile] = tuple(
            result[f"test_{name}"].mean() for name in ("neg_fpr_at_tpr", "auroc")
        )
    top = max(scores, key=scores.get)
    assert top in tuned.near_best_percentiles_
    tied = {90, None} <= set(tuned.near_best_percentiles_)
    best = 90 if tied else top
    assert tuned.best_percentile_ == best
    assert tuned.best_score_ == pytest.approx(scores[best][0])
    assert tuned.unclipped_score_ == pytest.approx(scores[None][0])
    assert best in tuned.near_best_percentiles_
    fitted = clone(pipeline).set_params(detector__percentile=best).fit(digits.X_test)
    np.testing.assert_allclose(
        tuned.best_estimator_.decision_function(digits.X_test[:20]),
        fitted.decision_function(digits.X_test[:20]),
    )
    assert not hasattr(pipeline[-1], "offset_")


@small_data
def test_features_are_tuned_in_a_pipeline_of_one_step(data, head):
    X, y = data
    alone = tune_percentile(ReActDetector(head), X[y == 1])
    tuned = tune_percentile(make_pipeline(ReActDetector(head)), X[y == 1])
    assert tuned.best_percentile_ == alone.best_percentile_
    np.testing.assert_array_equal(
        tuned.best_estimator_.score_samples(X), alone.best_estimator_.score_samples(X)
    )
    assert isinstance(tuned.best_estimator_, Pipeline)


@small_data
def test_features_are_tuned(data, head):
    X, y = data
    detector = ReActDetector(head, percentile=80)
    tuned = tune_percentile(detector, X[y == 1], percentiles=[80, 95])
    assert isinstance(tuned.best_estimator_, ReActDetector)
    assert tuned.cv_results_["param_percentile"].tolist() == [80, 95, None]
    assert tuned.best_estimator_.percentile == tuned.best_percentile_


@small_data
def test_tuning_keeps_feature_names(data, head):
    X, y = data
    frame = pd.DataFrame(X[y == 1], columns=[f"unit{i}" for i in range(X.shape[1])])
    tuned = tune_percentile(ReActDetector(head), frame, percentiles=[80, 95])
    assert tuned.best_estimator_.feature_names_in_.tolist() == list(frame)


@small_data
def test_no_clipping_is_tried_once(data, head):
    X, y = data
    detector = ReActDetector(head, percentile=95)
    given = tune_percentile(detector, X[y == 1], percentiles=[None, 80, 95])
    assert given.cv_results_["param_percentile"].tolist() == [80, 95, None]
    usual = tune_percentile(detector, X[y == 1], percentiles=[80, 95])
    assert given.unclipped_score_ == usual.unclipped_score_
    assert given.best_percentile_ == usual.best_percentile_


@small_data
@pytest.mark.filterwarnings("ignore:OOD rows score higher")
def test_one_split_has_a_best_percentile(data, head):
    X, y = data
    tuned = tune_percentile(
        ReActDetector(head),
        X[y == 1],
        percentiles=[80, 95],
        cv=StratifiedShuffleSplit(1, test_size=0.5, random_state=0),
    )
    assert tuned.best_percentile_ in tuned.near_best_percentiles_


@small_data
def test_tuning_with_a_lower_clip(data, head):
    X, y = data
    tuned = tune_percentile(ReActDetector(head, lower_percentile=10), X[y == 1])
    assert np.isnan(tuned.cv_results_["mean_test_score"][0])
    assert tuned.best_percentile_ != 10


def test_no_clipping_is_said(rng):
    """Wide and spread rows against their means: clipping takes what tells them."""
    H = rng.gamma(0.3, size=(300, 6))
    head = np.eye(6), np.zeros(6)
    with pytest.warns(UserWarning, match=r"percentile=None is chosen.*ReActDetectorCV"):
        tuned = tune_percentile(
            ReActDetector(head, percentile=70, check_score=False),
            H,
            surrogate="mixed",
            percentiles=[70, 80],
            scoring="auroc",
        )
    assert tuned.best_percentile_ is None
    assert tuned.best_estimator_.activation_threshold_ == np.inf
    assert tuned.best_score_ == tuned.unclipped_score_


@pytest.mark.parametrize("names", [np.array(["a", "b"]), np.array([3, 8])])
def test_heads_are_trained_on_class_labels(data, names):
    X, y = data
    H = X[y == 1]
    labels = names[(H[:, 0] > H[:, 1]).astype(int)]
    tuned = tune_percentile(ReActDetector(LogisticRegression()), H, labels)
    assert tuned.best_estimator_.classes_.tolist() == names.tolist()


@small_data
def test_each_image_passes_once(rng):
    X = rng.normal(size=(70, 3, 5, 5)).astype(np.float32)
    passed = []

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = conv_net()

        def forward(self, x):
            passed.append(len(x))
            return self.net(x)

    pipeline = make_react_pipeline(Counted, preprocess=to_tensor)
    tune_percentile(
        pipeline,
        X,
        surrogate="gaussian_noise",
        percentiles=[90, 95, 99],
        n_surrogates=50,
    )
    assert 120 <= sum(passed) <= 120 + 40  # and a few for the proof of the head


def test_bad_estimators(data):
    X, _ = data
    for estimator in (
        IsolationForest(),
        make_pipeline(StandardScaler(), IsolationForest()),
        ReActDetectorCV(),
    ):
        with pytest.raises(TypeError, match="expected a ReActDetector or a Pipeline"):
            tune_percentile(estimator, X)
    with pytest.raises(ValueError, match=r"threshold=1.0, which overrides any"):
        tune_percentile(ReActDetector(threshold=1.0), X)


@pytest.mark.slow
def test_the_surrogates_choice_on_real_textures(real_data):
    """Scrambled photos choose nearly as well as the textures themselves would."""
    spec = importlib.util.spec_from_file_location("m", real_data / "mobilenet_v2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    photos = [str(p) for p in sorted((real_data / "imagenet-sample").rglob("*.*"))]
    textures = [str(p) for p in sorted((real_data / "textures").rglob("*.*"))][::4]
    pipeline = make_react_pipeline(module.load, preprocess=module.preprocess())
    tuned = tune_percentile(pipeline, photos[::4], surrogate="phase_scrambled")
    assert 80 <= tuned.best_percentile_ <= 95
    y = np.repeat([1, -1], [len(photos[1::4]), len(textures)])
    scores = tuned.best_estimator_.score_samples(photos[1::4] + textures)
    assert auroc(y, scores) > 0.94 and fpr_at_tpr(y, scores) < 0.25


@small_data
def test_tuning_with_class_labels_of_any_type(rng):
    X = rng.gamma(2, size=(120, 8))
    y = (X @ rng.normal(size=(8, 3))).argmax(1)
    detector = ReActDetector(LogisticRegression())
    expected = tune_percentile(detector, X, y).best_estimator_
    for labels in (y.astype(np.uint8), y.astype(object), y.astype(str)):
        tuned = tune_percentile(detector, X, labels).best_estimator_
        assert tuned.offset_ == expected.offset_
    with pytest.raises(TypeError, match="y is boolean"):
        tune_percentile(detector, X, y == 1)


@small_data
def test_tuning_leaves_out_rows_without_features(rng):
    X, head = rng.gamma(2, size=(120, 8)), (rng.normal(size=(3, 8)), np.zeros(3))
    expected = tune_percentile(ReActDetector(head), X)
    X = np.insert(X, 5, np.nan, axis=0)
    tuned = tune_percentile(ReActDetector(head, on_nan="reject"), X)
    assert tuned.best_percentile_ == expected.best_percentile_
    assert tuned.best_estimator_.offset_ == expected.best_estimator_.offset_


@small_data
def test_tuning_leaves_out_images_that_cannot_be_read(net, photos, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    small = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
    pipeline = make_react_pipeline(net, preprocess=small, on_error="nan")
    assert pipeline[-1].on_nan == "reject"
    paths = [*photos, broken] * 3
    with pytest.warns(UserWarning, match="could not be read"):
        tuned = tune_percentile(
            pipeline, paths, surrogate="gaussian_noise", cv=2, n_surrogates=6
        )
        labels = tuned.best_estimator_.predict(paths)
    assert (labels[6::7] == -1).all()
