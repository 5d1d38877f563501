"""Small seeded models and real images for the tests."""

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

# Machines are shared: a slow example is no error.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

CLASSIFIERS = [  # of torchvision, one or more of each family
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "vgg11",
    "vit_b_16",
    "swin_t",
    "inception_v3",
    "googlenet",
    "shufflenet_v2_x0_5",
    "regnet_y_400mf",
]


def tabular_net():
    """Build a small net for rows of any width."""
    return nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 3))


def conv_net(channels=3, width=8, n_classes=4):
    """Build a small convolutional classifier with BatchNorm and Dropout."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(width, n_classes),
    )


@pytest.fixture(autouse=True)
def _denormals():
    """Undo what code that torch 2.4 compiles does to the whole process."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def net():
    """A convolutional classifier with weights of its own, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return conv_net()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path, rng):
    """Six JPEG and PNG files of different sizes in two folders."""
    paths = []
    for i, (height, width) in enumerate([(20, 30), (33, 21), (28, 28)] * 2):
        folder = tmp_path / "photos" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{i}.{'png' if i % 3 else 'jpg'}"
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return sorted(paths)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real models and images, where this machine has one."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("REACTOOD_DATA", default))
    if not (folder / "imagenet-sample").is_dir():
        pytest.skip("no folder of real images (set REACTOOD_DATA)")
    return folder
