"""Whole networks in onnxruntime, from prepared images and from pixels."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from running import needs_onnx, open_session, run_session
from sklearn.frozen import FrozenEstimator
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from reactood import make_react_pipeline
from reactood._networks._build import build_network
from reactood.conformal import ConformalDetector
from reactood.export import export_onnx

pytestmark = pytest.mark.slow

NETWORKS = ["resnet18", "mobilenet_v2", "vit_b_16", "efficientnet_b0", "convnext_tiny"]
SINGLE, PIXELS = 2e-5, 5e-4  # relative errors of scores


def seeded_network(name):
    """Return a network with random weights, whose features differ between images."""
    network, _ = build_network(name, None)
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        nn.init.normal_(head.weight, std=0.3)
        for module in norms:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
        if norms:  # the statistics of real batches, or all images would look alike
            network.train()(torch.from_numpy(prepared(make_pictures(16, 5), 96)))
    return network.eval()


def make_pictures(n, seed):
    """Return pictures of odd sizes: noise at several scales."""
    random = np.random.default_rng(seed)
    pictures = []
    for _ in range(n):
        height, width = random.integers(90, 420, 2)
        scale = random.integers(1, 40)
        shape = height // scale + 1, width // scale + 1, 3
        noise = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
        pictures.append(noise.resize((int(width), int(height)), Image.BICUBIC))
    return pictures


def report(record_property, name, detector, found, expected, tolerance):
    """Compare the outputs, and note how well they agree."""
    score = found["score"].astype(np.float64)
    error = np.abs(score - expected).max() / np.abs(expected).max()
    line = detector.offset_
    sure = np.abs(expected - line) > tolerance * np.abs(expected).max()
    flipped = (found["is_id"] != (expected >= line)) & sure
    calibration = detector.calibration_scores_
    below = (calibration <= score[:, None]).sum(axis=1)
    record_property(name, f"relative error {error:.1e}, flipped {flipped.sum()}")
    print(f"{name}: relative error {error:.1e}, flipped {flipped.sum()}", end=" ")
    assert error < tolerance
    assert not flipped.any()
    # Equal for the score that the graph has found; the detector's own may be beside it.
    np.testing.assert_array_equal(
        found["p_value"], (1 + below) / (1 + len(calibration))
    )
    own = (calibration <= expected[:, None]).sum(axis=1)
    differ = np.count_nonzero(own != below)
    print(f"p-values that differ {differ} of {len(own)}")
    gaps = np.abs(calibration - expected[:, None]).min(axis=1)
    far = gaps > tolerance * np.abs(expected).max()
    np.testing.assert_array_equal(own[far], below[far])


def check_prepared(pipeline, images, tmp_path, record_property, name):
    pipeline.fit(images[:40])
    detector = ConformalDetector(FrozenEstimator(pipeline), alpha=0.1)
    detector.fit(images[40:80])
    session = open_session(export_onnx(detector, tmp_path / "d.onnx"))
    new = images[80:]
    parts = [run_session(session, new[i : i + 8]) for i in range(0, len(new), 8)]
    found = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    expected = detector.score_samples(new)
    report(record_property, name, detector, found, expected, SINGLE)


def check_pixels(pipeline, pictures, tmp_path, record_property, name):
    pipeline.fit(pictures[:40])
    detector = ConformalDetector(FrozenEstimator(pipeline), alpha=0.1)
    detector.fit(pictures[40:80])
    path = export_onnx(detector, tmp_path / "d.onnx", preprocess=True)
    session = open_session(path)
    new = pictures[80:]
    parts = [run_session(session, np.asarray(picture)[None]) for picture in new]
    found = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    expected = detector.score_samples(new)
    report(record_property, name, detector, found, expected, PIXELS)


def prepared(pictures, size=224):
    transform = ImageClassification(crop_size=size, resize_size=size + 32)
    return np.stack([transform(picture).numpy() for picture in pictures])


@pytest.mark.parametrize("name", NETWORKS)
def test_prepared_images(name, tmp_path, record_property):
    needs_onnx()
    pipeline = make_react_pipeline(seeded_network(name), check_score=False)
    images = prepared(make_pictures(120, 0))
    check_prepared(pipeline, images, tmp_path, record_property, name)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_pictures_of_odd_sizes(kernel, tmp_path, record_property):
    needs_onnx()
    given = ImageClassification(crop_size=96, interpolation=InterpolationMode(kernel))
    network = seeded_network("resnet18")
    pipeline = make_react_pipeline(network, preprocess=given, check_score=False)
    pictures = make_pictures(160, 2)
    check_pixels(pipeline, pictures, tmp_path, record_property, kernel)


@pytest.fixture(scope="module")
def real(real_data):
    """The real MobileNetV2, with its transform, and photos."""
    path = real_data / "mobilenet_v2.py"
    if not path.exists():
        pytest.skip("the folder of real images has no mobilenet_v2.py")
    spec = importlib.util.spec_from_file_location("mobilenet_v2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    paths = sorted((real_data / "imagenet-sample").rglob("*.jpg"))
    paths = [*paths[:480:4], *sorted((real_data / "textures").rglob("*.jpg"))[:1200:30]]
    return module, [Image.open(path).convert("RGB") for path in paths]


def test_real_network_on_prepared_images(real, tmp_path, record_property):
    needs_onnx()
    module, pictures = real
    transform = module.preprocess()
    images = np.stack([transform(picture).numpy() for picture in pictures])
    pipeline = make_react_pipeline(module.load(), check_score=False)
    check_prepared(pipeline, images, tmp_path, record_property, "real MobileNetV2")


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_real_network_on_pixels(real, kernel, tmp_path, record_property):
    needs_onnx()
    module, pictures = real
    given = ImageClassification(
        crop_size=224,
        interpolation=InterpolationMode(kernel),
        mean=(0.5, 0.5, 0.5),
        std=(128 / 255,) * 3,
    )
    random = np.random.default_rng(0)
    odd = []
    for picture in pictures:  # of sizes that no pair of them shares
        width, height = (
            int(side * factor)
            for side, factor in zip(
                picture.size, random.uniform(0.5, 2, 2), strict=True
            )
        )
        odd.append(picture.resize((width, height)))
    pipeline = make_react_pipeline(module.load(), preprocess=given, check_score=False)
    check_pixels(pipeline, odd, tmp_path, record_property, f"real MobileNetV2 {kernel}")
