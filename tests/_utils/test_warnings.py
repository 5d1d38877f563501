"""A warning names the line of the user's code, whatever stands between."""

import inspect

import numpy as np
import pytest
from conftest import conv_net
from PIL import Image
from sklearn.pipeline import make_pipeline

from reactood import ReActDetector, ReActDetectorCV, TorchFeatureExtractor
from reactood.metrics import fpr_at_tpr, ood_report
from reactood.model_selection import tune_percentile


def next_line():
    return inspect.currentframe().f_back.f_lineno + 1


def signed():
    """Features whose clip is below 0, which warns."""
    return np.random.default_rng(0).normal(-9, 1, (40, 3))


def assert_here(caught, line):
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)


@pytest.mark.parametrize(
    "make",
    [
        ReActDetector,
        lambda: make_pipeline(ReActDetector()),
        lambda: make_pipeline("passthrough", ReActDetector()),
    ],
)
def test_a_warning_of_fit_points_at_the_caller(make):
    estimator = make()
    with pytest.warns(UserWarning, match="not above 0") as caught:
        line = next_line()
        estimator.fit(signed())
    assert_here(caught, line)


def test_a_warning_of_fit_predict_points_at_the_caller():
    with pytest.warns(UserWarning, match="not above 0") as caught:
        line = next_line()
        ReActDetector().fit_predict(signed())
    assert_here(caught, line)


@pytest.mark.parametrize("method", ["transform", "fit_transform"])
def test_a_warning_of_transform_points_past_the_wrapper_of_set_output(method, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    paths = [tmp_path / "good.png", path]
    Image.fromarray(images[0]).save(paths[0])
    extractor = TorchFeatureExtractor(conv_net, preprocess=None, on_error="nan")
    extractor.fit(images)
    with pytest.warns(UserWarning, match="could not be read") as caught:
        line = next_line()
        getattr(extractor, method)(paths)
    assert_here(caught, line)


def test_warnings_of_functions_point_at_the_caller():
    y, ties = np.repeat([1, -1], 15), np.ones(30)
    with pytest.warns(UserWarning, match="tied at the top") as caught:
        line = next_line()
        fpr_at_tpr(y, ties)
    assert_here(caught, line)


def test_a_warning_of_a_report_points_at_the_caller():
    rng = np.random.default_rng(0)
    X = rng.gamma(2.0, size=(60, 4))
    detector = ReActDetector(percentile=None).fit(X)
    with pytest.warns(UserWarning, match="wrong way round") as caught:
        line = next_line()
        ood_report(detector, X, {"far": X + 9}, n_bootstrap=0)
    assert_here(caught, line)


def test_a_warning_of_a_search_points_at_the_caller():
    rng = np.random.default_rng(0)
    X, y = rng.gamma(2.0, size=(60, 4)), np.repeat([1, -1], 30)
    X[y == -1] += 9
    with pytest.warns(UserWarning, match="wrong way round") as caught:
        line = next_line()
        ReActDetectorCV().fit(X, y)
    assert_here(caught, line)


def test_a_warning_of_the_tuning_points_at_the_caller():
    H = np.random.default_rng(0).gamma(0.3, size=(300, 6))
    detector = ReActDetector((np.eye(6), np.zeros(6)), check_score=False)
    with pytest.warns(UserWarning, match="do not show that a clip helps") as caught:
        line = next_line()
        tune_percentile(detector, H, surrogate="mixed", percentiles=[70, 80])
    assert_here(caught, line)
