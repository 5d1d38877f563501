"""Small seeded models and real images for the tests."""

import contextlib
import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

# Each of several processes that share the tests takes one core, and so do its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


class TabularNet(nn.Sequential):
    """A small net for rows of any width; as text, it is the same in all processes."""

    def __init__(self):
        super().__init__(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 3))


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
def full_disk():
    """Return a context in which a file may have few bytes, as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited(n_bytes):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


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


# Commands: small image files of digits, and detectors that were fitted to them.

TRANSFORM = """
from torchvision import transforms

def transform():
    return transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
"""


def write_pictures(folder, images):
    """Write images of shape (n, 1, H, W) as PNG files."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        pixels = (image[0] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


@pytest.fixture
def run():
    """Run a command in this process, and return its exit code."""
    from reactood.__main__ import main

    def run(*arguments):
        try:
            return main([str(argument) for argument in arguments])
        except SystemExit as stop:
            return stop.code

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with digits to learn from, in folders of classes, and new images.

    There are fewer than 300 digits, so that the check of the score is left out.
    """
    from reactood.datasets import load_digits_ood

    folder = tmp_path_factory.mktemp("digits")
    data = load_digits_ood()
    for label in range(8):
        write_pictures(
            folder / f"train/{label}", data.X_test[data.y_test == label][:20]
        )
    write_pictures(folder / "new/digits", data.X_train[:24])
    write_pictures(folder / "new/letters", data.ood["letters"][:9])
    (folder / "new/digits/007.png").write_bytes(b"no image")
    (folder / "mine.py").write_text(TRANSFORM)
    return folder


@pytest.fixture(scope="session")
def model(digits):
    """The options that name the network."""
    return (
        *("--model", "reactood.datasets:digits_classifier"),
        *("--preprocess", f"{digits / 'mine.py'}:transform"),
    )


@pytest.fixture(scope="session")
def detector(digits, model):
    """The file of a detector."""
    from reactood.__main__ import main

    file = digits / "detector.safetensors"
    assert main(["fit", *model, "--id", str(digits / "train"), "-o", str(file)]) == 0
    return file


@pytest.fixture(scope="session")
def calibrated(digits, model):
    """The file of a detector with p-values."""
    from reactood.__main__ import main

    file = digits / "calibrated.safetensors"
    options = [*model, "--id", str(digits / "train"), "--alpha", "0.1"]
    assert main(["fit", *options, "-o", str(file)]) == 0
    return file
