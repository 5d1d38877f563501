"""What the guide says of MLflow: files of all kinds in a store of its own."""

import json

import numpy as np
import pytest
import saved_kinds as kinds
from torchvision import transforms

from reactood import ReActDetector, make_react_pipeline
from reactood.export import export_onnx
from reactood.persistence import load, save

mlflow = pytest.importorskip("mlflow")

pytestmark = [
    pytest.mark.slow,  # it finds out its requirements in other processes
    pytest.mark.filterwarnings("ignore"),  # its own
]
PICTURES = np.random.default_rng(0).integers(256, size=(9, 20, 30, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def pipeline():
    steps = transforms.Resize(24), transforms.CenterCrop(16), transforms.ToTensor()
    pipeline = make_react_pipeline(
        kinds.small_net, preprocess=transforms.Compose(steps), check_score=False
    )
    return pipeline.fit(list(PICTURES))


def test_a_detector_of_features(tmp_path):
    sklearn = pytest.importorskip("mlflow.sklearn")
    detector = ReActDetector(kinds.HEAD).fit(kinds.X)
    trusted = {"skops_trusted_types": ["reactood.detector.ReActDetector"]}
    sklearn.save_model(detector, str(tmp_path / "model"), **trusted)
    loaded = sklearn.load_model(str(tmp_path / "model"))
    found, expected = kinds.outputs(loaded, kinds.X), kinds.outputs(detector, kinds.X)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_the_graph_is_kept_and_served(pipeline, tmp_path):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    onnx = pytest.importorskip("onnx")
    scoring_server = pytest.importorskip("mlflow.pyfunc.scoring_server")
    export_onnx(pipeline, tmp_path / "det.onnx", preprocess=True)
    kept = mlflow.onnx.log_model(
        onnx.load(tmp_path / "det.onnx"),
        name="det",
        signature=mlflow.models.infer_signature({"images": PICTURES}),
    )
    model = mlflow.pyfunc.load_model(kept.model_uri)
    expected = pipeline.score_samples(list(PICTURES))
    found = model.predict({"images": PICTURES})
    np.testing.assert_allclose(found["score"], expected, rtol=5e-4)
    request = json.dumps({"inputs": {"images": PICTURES.tolist()}})
    answer = scoring_server.invocations(
        request, "application/json", model, model.metadata.get_input_schema()
    )
    assert answer.status == 200
    found = json.loads(answer.response)["predictions"]
    np.testing.assert_allclose(found["score"], expected, rtol=5e-4)


def test_a_file_is_an_artifact(tmp_path):
    pipeline = make_react_pipeline(kinds.small_net, check_score=False).fit(kinds.IMAGES)
    save(pipeline, tmp_path / "det.safetensors")

    class Detector(mlflow.pyfunc.PythonModel):
        def load_context(self, context):
            self.detector = load(context.artifacts["detector"], model=kinds.small_net)

        def predict(self, context, model_input, params=None):
            return self.detector.score_samples(model_input)

    kept = mlflow.pyfunc.log_model(
        name="det",
        python_model=Detector(),
        artifacts={"detector": str(tmp_path / "det.safetensors")},
    )
    model = mlflow.pyfunc.load_model(kept.model_uri)
    expected = pipeline.score_samples(kinds.IMAGES)
    np.testing.assert_allclose(model.predict(kinds.IMAGES), expected, rtol=1e-5)
