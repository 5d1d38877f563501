"""Small image files of digits, and a detector that was fitted to them."""

import numpy as np
import pytest
from PIL import Image

from reactood.__main__ import main
from reactood.datasets import load_digits_ood

TRANSFORM = """
from torchvision import transforms

def transform():
    return transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
"""


def write(folder, images):
    """Write images of shape (n, 1, H, W) as PNG files."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        pixels = (image[0] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


@pytest.fixture
def run():
    """Run a command in this process, and return its exit code."""

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
    folder = tmp_path_factory.mktemp("digits")
    data = load_digits_ood()
    for label in range(8):
        write(folder / f"train/{label}", data.X_test[data.y_test == label][:20])
    write(folder / "new/digits", data.X_train[:24])
    write(folder / "new/letters", data.ood["letters"][:9])
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
    file = digits / "detector.safetensors"
    assert main(["fit", *model, "--id", str(digits / "train"), "-o", str(file)]) == 0
    return file


@pytest.fixture(scope="session")
def calibrated(digits, model):
    """The file of a detector with p-values."""
    file = digits / "calibrated.safetensors"
    options = [*model, "--id", str(digits / "train"), "--alpha", "0.1"]
    assert main(["fit", *options, "-o", str(file)]) == 0
    return file
