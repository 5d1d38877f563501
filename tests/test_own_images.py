"""The script for a user's own images, run as a user runs it."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import models

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*arguments, cwd, path=None):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_saved_detector_is_loaded_by_another_process(tmp_path, rng):
    network = models.resnet18(weights=None)
    network.fc = nn.Linear(512, 4)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    for folder, n in (("known", 12), ("new", 3)):
        (tmp_path / folder).mkdir()
        for i in range(n):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            image.convert(("RGB", "RGBA", "L")[i % 3]).save(
                tmp_path / folder / f"{i}.png"
            )
        (tmp_path / folder / "broken.png").write_bytes(b"no image")
    command = EXAMPLES / "own_images.py", "net.pt", "known", "new"
    table = run(*command, "--n-classes", 4, "--save", "detector.joblib", cwd=tmp_path)
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["image"] for row in rows] == [
        *(f"new/{i}.png" for i in range(3)),
        "new/broken.png",
    ]
    assert rows.pop() == {
        "image": "new/broken.png",
        "label": "-1",
        "decision_function": "nan",
    }
    code = (
        "import joblib; detector = joblib.load('detector.joblib');"
        f"print(*detector.decision_function({[row['image'] for row in rows]}))"
    )
    again = run("-c", code, cwd=tmp_path, path=EXAMPLES).split()
    np.testing.assert_allclose(
        [float(value) for value in again],
        [float(row["decision_function"]) for row in rows],
        atol=6e-4,  # the table has three digits
    )
