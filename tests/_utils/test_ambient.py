"""What a program sets in torch around a call changes no feature and no score."""

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torch import nn
from torchvision import transforms

from reactood import (
    ReActDetector,
    ReActDetectorCV,
    TorchFeatureExtractor,
    make_react_pipeline,
)
from reactood.baselines import (
    MahalanobisDetector,
    ODINFeatureExtractor,
    with_statistics_of,
)
from reactood.cache import FeatureCache


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "no gradients": torch.no_grad,
    "deterministic": deterministic,
}
around = pytest.mark.parametrize("around", SURROUNDINGS)


@pytest.fixture
def X(rng):
    return rng.normal(size=(20, 3, 9, 9)).astype(np.float32)


@pytest.fixture
def H(rng):
    return np.abs(rng.normal(size=(60, 8))).astype(np.float32)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 4)

    def forward(self, features):
        return self.linear(features).tanh()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("engine", "around"),
    [
        *(("eager", name) for name in SURROUNDINGS),
        ("openvino", "bfloat16"),
        ("compile", "bfloat16"),
    ],
)
def test_features_do_not_depend_on_what_is_set_around(
    net, X, around, engine, precision
):
    if engine == "openvino":
        pytest.importorskip("openvino")
    extractor = TorchFeatureExtractor(net, engine=engine, precision=precision)
    expected = clone(extractor).fit_transform(X)
    with SURROUNDINGS[around]():
        inside = clone(extractor).fit(X)
        features = inside.transform(X)
    np.testing.assert_array_equal(features, expected)
    np.testing.assert_array_equal(inside.transform(X), expected)


SEEN = []


class Watching(nn.Sequential):
    """Notes whether autocast is on, in each of its copies."""

    def forward(self, batch):
        SEEN.append(torch.is_autocast_enabled("cpu"))
        return super().forward(batch)


@pytest.mark.parametrize("call", ["fit", "fit_transform"])
def test_the_proof_is_without_autocast(call):
    SEEN.clear()
    model = Watching(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        getattr(TorchFeatureExtractor(model), call)(torch.rand(5, 3, 2, 2))
    assert SEEN
    assert not any(SEEN)


@around
def test_the_cache_does_not_keep_what_is_set_around(net, X, around, tmp_path):
    expected = TorchFeatureExtractor(net).fit_transform(X)
    extractor = TorchFeatureExtractor(net, cache=tmp_path)
    with SURROUNDINGS[around]():
        extractor.fit(X).transform(X)
    np.testing.assert_array_equal(extractor.transform(X), expected)
    assert len(FeatureCache(tmp_path)) == len(X)


@around
def test_transforms_do_not_depend_on_what_is_set_around(net, rng, around):
    steps = transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)
    known = transforms.Compose([transforms.Resize(9), *steps])
    blur = torch.ones(9, 9) / 9

    def own(image):
        return known(image) @ blur

    pixels = rng.integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    for preprocess in known, own:
        extractor = TorchFeatureExtractor(net, preprocess=preprocess)
        expected = clone(extractor).fit_transform(images)
        with SURROUNDINGS[around]():
            np.testing.assert_array_equal(extractor.fit_transform(images), expected)


def _heads(net):
    weight, bias = (p.detach().numpy() for p in net[-1].parameters())
    return {
        "pair": (weight, bias),
        "linear": net[-1],
        "module": Head(),
        "function": Head,
        "logits": None,
    }


@around
@pytest.mark.parametrize("name", ["pair", "linear", "module", "function", "logits"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_scores_do_not_depend_on_what_is_set_around(net, H, around, name, kind):
    head, H = _heads(net)[name], kind(H)

    def product(logits):
        return (logits @ torch.ones(logits.shape[1], 1)).squeeze(1)

    for score in "energy", "msp", product:
        detector = ReActDetector(head, score_function=score)
        expected = clone(detector).fit(H).decision_function(H)
        with SURROUNDINGS[around]():
            detector.fit(H)
            np.testing.assert_array_equal(detector.decision_function(H), expected)
            labels = detector.predict_class(H)
        np.testing.assert_array_equal(detector.predict_class(H), labels)


@around
def test_searches_baselines_and_pipelines_do_not_depend_on_it(net, X, H, around):
    head = _heads(net)["module"]
    y = np.where(np.arange(len(H)) % 4, 1, -1)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    plain.append(nn.Linear(8 * 7 * 7, 4))
    odin = ODINFeatureExtractor(plain, noise=0.01, percentile=90)

    def results():
        search = ReActDetectorCV(head, percentiles=[80, 90], cv=2).fit(H, y)
        changed = with_statistics_of(TorchFeatureExtractor(net), X)
        return [
            search.cv_results_["mean_test_score"],
            search.decision_function(H),
            MahalanobisDetector().fit(H).score_samples(H),
            clone(odin).fit_transform(X),
            make_react_pipeline(net).fit(X).decision_function(X),
            changed.fit_transform(X),
        ]

    expected = results()
    with SURROUNDINGS[around]():
        inside = results()
    for ours, theirs in zip(inside, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_autocast_around_the_call_is_as_it_was_afterwards(net, X):
    with torch.autocast("cpu", dtype=torch.float16):
        TorchFeatureExtractor(net).fit_transform(X)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.float16
    assert not torch.is_autocast_enabled("cpu")


def test_a_default_of_float64_changes_neither_features_nor_random_weights(net, rng):
    X = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    pixels = rng.integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    steps = transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)
    known = TorchFeatureExtractor(net, preprocess=transforms.Compose(steps))
    named = TorchFeatureExtractor("resnet18", weights=None)
    cases = (known, pixels), (named, X)
    expected = [clone(extractor).fit_transform(images) for extractor, images in cases]
    with default_dtype(torch.float64):
        for (extractor, images), theirs in zip(cases, expected, strict=True):
            np.testing.assert_array_equal(extractor.fit_transform(images), theirs)


def test_transforms_that_take_the_default_dtype_have_rows_of_their_own(
    net, rng, tmp_path
):
    def own(image):
        return transforms.functional.to_tensor(image) * torch.ones(1) / 3

    pixels = rng.integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    plain = TorchFeatureExtractor(net, preprocess=own)
    cached = clone(plain).set_params(cache=tmp_path)
    expected = plain.fit_transform(pixels)
    with default_dtype(torch.float64):
        cached.fit_transform(pixels)
    np.testing.assert_array_equal(cached.transform(pixels), expected)
    assert len(FeatureCache(tmp_path).info()) == 2


ROUNDING = """
import sys, numpy as np, torch, warnings
sys.path[:0] = {tests!r}
from conftest import conv_net
from reactood import TorchFeatureExtractor
from reactood.cache import FeatureCache
X = np.ones((2, 3, 9, 9), "f4")
def settings():
    TorchFeatureExtractor(conv_net, cache={folder!r}).fit(X).transform(X)
    return len(FeatureCache({folder!r}).info())
print(settings())
torch.set_float32_matmul_precision("high")
print(settings())
if hasattr(torch.backends.mkldnn, "conv"):
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    print(settings())  # where the older question is an error
else:
    print(3)
"""


def test_rows_made_with_other_rounding_are_apart(tmp_path):
    code = ROUNDING.format(
        tests=[*map(str, Path(__file__).parents[:2])], folder=str(tmp_path / "cache")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "2", "3"], done.stderr
