"""The example of a service, over the loopback interface."""

import concurrent.futures
import http.client
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from reactood import make_react_pipeline
from reactood.export import export_onnx

FOLDER = Path(__file__).parents[1] / "examples" / "serving"
START = """
import sys
import uvicorn, service
assert "torch" not in sys.modules and "reactood" not in sys.modules
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)
Server(uvicorn.Config(service.app, port=0, log_level="warning")).run()
"""


@pytest.fixture(scope="module")
def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        net.append(nn.Linear(8, 4))
    steps = transforms.Resize(24), transforms.CenterCrop(16), transforms.ToTensor()
    pipeline = make_react_pipeline(net, preprocess=transforms.Compose(steps))
    return pipeline.fit(pictures(40))


def pictures(n, size=(30, 40, 3)):
    rng = np.random.default_rng(n)
    return list(rng.integers(256, size=(n, *size), dtype=np.uint8))


def encoded(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def port(pipeline, tmp_path_factory):
    """Run the service on a free port, in a process of its own."""
    for package in ("onnx", "onnxscript", "onnxruntime", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    path = export_onnx(
        pipeline, tmp_path_factory.mktemp("onnx") / "net.onnx", preprocess=True
    )
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        cwd=FOLDER,
        env={**os.environ, "DETECTOR": str(path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_many_clients_get_their_own_scores(pipeline, port):
    images = pictures(24) + pictures(6, (50, 24, 3))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda image: ask(port, "POST", "/score", encoded(image)), images)
        )
    assert {status for status, _ in answers} == {200}
    found = [answer for _, answer in answers]
    expected = pipeline.score_samples(images)
    np.testing.assert_allclose([a["score"] for a in found], expected, rtol=5e-4)
    assert [a["class"] for a in found] == pipeline.predict_class(images).tolist()
    clear = np.abs(expected - pipeline[-1].offset_) > 1e-3
    decisions = np.array([a["is_id"] for a in found])
    np.testing.assert_array_equal(decisions[clear], pipeline.predict(images)[clear] > 0)


def test_what_is_no_image_is_refused_and_the_service_goes_on(port):
    status, answer = ask(port, "POST", "/score", b"no image")
    assert status == 422 and "no image" in answer["detail"]
    status, _ = ask(port, "POST", "/score", encoded(pictures(1)[0]))
    assert status == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"", 422), ("cut", 422), ("huge", 413), (b"x" * 20_000_001, 413)],
    ids=["empty", "cut", "huge", "long"],
)
def test_bad_bodies_among_good_ones(port, body, expected):
    good = encoded(pictures(1)[0])
    if body == "cut":
        body = good[:-100]
    if body == "huge":  # of 30 kB
        file = io.BytesIO()
        Image.new("1", (6000, 5000)).save(file, "PNG")
        body = file.getvalue()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        bodies = [good, body, good, good]
        found = pool.map(lambda one: ask(port, "POST", "/score", one)[0], bodies)
        assert list(found) == [200, expected, 200, 200]


def test_it_says_what_it_serves(pipeline, port):
    status, about = ask(port, "GET", "/about")
    assert status == 200
    assert json.loads(about["threshold"]) == pytest.approx(pipeline[-1].offset_)
