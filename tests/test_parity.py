"""The whole chain against an independent reference, a few lines of torch and numpy."""

import importlib.util

import numpy as np
import pytest
import torch
import torchvision
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.metrics import roc_auc_score
from torch import nn

from reactood import ReActDetector, TorchFeatureExtractor, make_react_pipeline
from reactood.metrics import fpr_at_tpr

REFERENCE_SCORES = {
    "energy": lambda f: logsumexp(f, axis=1),
    "msp": lambda f: softmax(f, axis=1).max(axis=1),
    "max_logit": lambda f: f.max(axis=1),
    "entropy": lambda f: (softmax(f, axis=1) * log_softmax(f, axis=1)).sum(axis=1),
}


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v2"])
def model(request):
    """A model with random weights, and what it makes of 40 images."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = torchvision.models.get_model(request.param, weights=None).eval()
        images = torch.randn(40, 3, 64, 64)
        name = "fc" if request.param == "resnet18" else "classifier"
        head = model.fc if name == "fc" else model.classifier[1]
        head.weight.mul_(4 / model(images).std())  # as sure as a trained classifier
        logits = model(images).numpy()
        setattr(model, name, nn.Identity())
        features = model(images).numpy()
        setattr(model, name, head)
    return model, images, head, features, logits


def test_features_head_and_logits(model):
    model, images, head, features, logits = model
    extractor = TorchFeatureExtractor(model)
    ours = extractor.fit_transform(images)
    weight, bias = extractor.head_
    np.testing.assert_allclose(ours, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(weight, head.weight.detach())
    assert np.abs(ours @ weight.T + bias - logits).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("score", REFERENCE_SCORES)
@pytest.mark.parametrize("percentile", [80, 90, 99])
def test_threshold_scores_and_offset_to_one_in_a_million(
    model, score, percentile, dtype
):
    _, _, head, features, _ = model
    h = features.astype(dtype)
    detector = ReActDetector(head, percentile=percentile, score_function=score).fit(h)

    weight, bias = (p.detach().numpy().astype(np.float64) for p in head.parameters())
    c = np.percentile(h, percentile)
    scores = REFERENCE_SCORES[score](
        np.minimum(h, c).astype(np.float64) @ weight.T + bias
    )
    # A float32 product rounds a logit of 10 by about 1e-6, and exp turns that into a
    # relative error of the probabilities.
    exact = dtype == np.float64 or score in ("energy", "max_logit")
    rtol = 1e-6 if exact else 5e-6
    assert detector.activation_threshold_ == c
    np.testing.assert_allclose(detector.score_samples(h), scores, rtol=rtol)
    np.testing.assert_allclose(detector.offset_, np.percentile(scores, 5), rtol=rtol)


def test_real_photos_against_textures(real_data):
    """A tenth of the real images: ReAct on files, against the reference's scores."""
    spec = importlib.util.spec_from_file_location(
        "mobilenet_v2", real_data / "mobilenet_v2.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    photos = sorted((real_data / "imagenet-sample").rglob("*.jpg"))[::10]
    textures = sorted((real_data / "textures").rglob("*.jpg"))[::20]

    pipeline = make_react_pipeline(module.load(), preprocess=module.preprocess())
    pipeline.fit(photos[::2])
    y_true = np.repeat([1, -1], [50, 60])
    y_score = pipeline.score_samples([*photos[1::2], *textures])

    from PIL import Image

    network, transform = module.load(), module.preprocess()
    head = network.classifier[1]
    network.classifier = nn.Identity()
    with torch.inference_mode():
        h = network(
            torch.stack(
                [
                    transform(Image.open(path).convert("RGB"))
                    for path in [*photos[::2], *photos[1::2], *textures]
                ]
            )
        ).numpy()
    c = np.percentile(h[:50], 90)
    weight, bias = (p.detach().numpy() for p in head.parameters())
    expected = logsumexp(np.minimum(h[50:], c) @ weight.T + bias, axis=1)
    np.testing.assert_allclose(pipeline[1].activation_threshold_, c, rtol=1e-5)
    np.testing.assert_allclose(y_score, expected, rtol=1e-4)
    assert roc_auc_score(y_true, y_score) > 0.93
    assert fpr_at_tpr(y_true, y_score) < 0.35
