"""The commands ``tune``, ``info`` and ``export``."""

import json

import pytest

from reactood import export, persistence
from reactood.datasets import digits_classifier, list_images
from reactood.model_selection import tune_detector

pytestmark = pytest.mark.filterwarnings("always:The choice rests on 160 rows")

MODEL = "--model", "reactood.datasets:digits_classifier"


def load(file):
    return persistence.load(file, model=digits_classifier)


def check_tuned(file, detector, digits, out):
    """Compare with what the function chooses."""
    pipeline, images = load(detector), list_images(digits / "train")
    with pytest.warns(UserWarning, match="The choice rests on 160 rows"):
        expected = tune_detector(pipeline, images, random_state=0)
    assert out.startswith(expected.summary_)
    lines = out[len(expected.summary_) :].split("\n")
    assert lines[2].split() == ["rank", "AUROC", "std", "setting"]
    results = expected.cv_results_["mean_test_score"]
    ranked = [float(line.split()[1]) for line in lines[3:13]]
    assert ranked == [round(x, 4) for x in sorted(results, reverse=True)[:10]]
    assert lines[13].strip() == "25 more"
    steps = persistence.read_metadata(file)["estimator"]["steps"]
    (_, found), chosen = steps[-1], expected.best_estimator_[-1]
    for name in ("percentile", "score_function"):
        assert found["params"][name] == getattr(chosen, name)
    assert found["learned"]["offset_"] == pytest.approx(chosen.offset_, rel=1e-5)


def test_from_a_file(detector, calibrated, digits, run, tmp_path, capsys):
    for start in (detector, calibrated):
        file = tmp_path / f"{start.stem}-tuned.safetensors"
        arguments = "tune", start, *MODEL, "--id", digits / "train", "-o", file
        assert run(*arguments) == 0
        out, err = capsys.readouterr()
        assert err.endswith(f"Written: {file}\n")
        assert ("calibration is left out" in err) == (start == calibrated)
        check_tuned(file, detector, digits, out)
    assert run(*arguments) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_result_is_a_detectors_file(detector, digits, run, tmp_path, capsys):
    file = tmp_path / "tuned.safetensors"
    run("tune", detector, *MODEL, "--id", digits / "train", "-o", file)
    assert run("score", file, digits / "new/letters", *MODEL) == 0


def test_from_a_model(detector, digits, model, run, tmp_path, capsys):
    file = tmp_path / "tuned.safetensors"
    code = run("tune", *model, "--id", digits / "train", "-o", file, "--quiet")
    out, err = capsys.readouterr()
    assert code == 0
    assert err.startswith("reactood: warning: The choice rests on 160 rows")
    assert err.count("\n") == 1
    check_tuned(file, detector, digits, out)
    assert run("score", file, digits / "new/letters", *MODEL) == 0


def test_images_that_cannot_be_read(digits, model, run, tmp_path, capsys):
    file, bad = tmp_path / "tuned.safetensors", tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert run("tune", *model, "--id", bad, digits / "train", "-o", file) == 3
    assert f"  {bad}: " in capsys.readouterr().err


def test_info(calibrated, run, tmp_path, capsys):
    metadata = persistence.read_metadata(calibrated)
    assert run("info", calibrated, "--json") == 0
    assert json.loads(capsys.readouterr().out) == metadata
    assert run("info", calibrated) == 0
    lines = capsys.readouterr().out.splitlines()
    fitted = load(calibrated)
    clip = fitted.estimator_[-1].activation_threshold_
    for line in (
        "ConformalDetector",
        "  alpha: 0.1",
        f"  offset_: {fitted.offset_}",
        "  estimator_: ReActPipeline",
        "    extractor: TorchFeatureExtractor",
        "      preprocess: Compose(Grayscale(1), ToTensor())",
        "    detector: ReActDetector",
        "      percentile: 90.0",
        f"      activation_threshold_: {clip}",
        f"  reactood: {metadata['provenance']['reactood']}",
        f"sha256: {metadata['sha256']}",
    ):
        assert lines.count(line) == 1, line
    assert any(line.startswith("model: your own, give it with --m") for line in lines)
    assert run("info", tmp_path / "no.safetensors") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_metadata_of_other_estimators():
    from reactood._cli._info import summary

    preset = ["ImageClassification", [224, [0.5, 0.4], {"mode": "bilinear"}, None]]
    params = {"model": "resnet50", "cache": None, "percentile": None, "verbose": True}
    steps = [
        ["a", {"estimator": "A", "preprocess": {"transform": preset}}],
        ["b", {"estimator": "B", "preprocess": {"given": "x", "hint": "my:own"}}],
        ["c", {"estimator": "C", "preprocess": "auto", "params": params}],
        ["d", None],
    ]
    metadata = {"estimator": {"pipeline": "P", "steps": steps}, "network": None}
    assert list(summary(metadata)) == [
        "P",
        "  a: A",
        "    preprocess: ImageClassification(224, [0.5, 0.4], bilinear, none)",
        "  b: B",
        "    preprocess: your own, give it with --preprocess: my:own",
        "  c: C",
        "    preprocess: auto",
        *("    model: resnet50", "    percentile: none", "    verbose: yes"),
    ]


def test_export(detector, digits, run, tmp_path, capsys, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    seen = []
    monkeypatch.setattr(
        export,
        "export_onnx",
        lambda *args, _call=export.export_onnx, **settings: (
            seen.append(settings) or _call(*args, **settings)
        ),
    )
    file = tmp_path / "det.onnx"
    assert run("export", detector, *MODEL, "-o", file) == 0
    assert capsys.readouterr().err.endswith(f"Written: {file}\n")
    assert file.stat().st_size > 10_000
    assert run("export", detector, *MODEL, "-o", file, "--preprocess") == 1
    assert run("export", detector, *MODEL, "-o", file, "--force") == 0
    assert [settings["preprocess"] for settings in seen] == [False, False]


def test_no_image_can_be_read(detector, run, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    out = tmp_path / "tuned.safetensors"
    images = "--id", tmp_path / "bad.png"
    assert run("tune", detector, *MODEL, *images, "-o", out) == 1
    said = capsys.readouterr().err
    assert "bad.png: " in said and said.count("bad.png") == 1
    assert "None of the images could be read; the reasons are above." in said
