"""The commands ``tune``, ``info`` and ``export``."""

import json

import pytest

from reactood.datasets import digits_classifier, list_images
from reactood.model_selection import tune_detector

persistence = pytest.importorskip("reactood.persistence")
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
    fitted, chosen = load(file)[-1], expected.best_estimator_[-1]
    assert fitted.percentile == chosen.percentile
    assert fitted.score_function == chosen.score_function
    assert fitted.offset_ == pytest.approx(chosen.offset_, rel=1e-5)


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


def test_from_a_model(detector, digits, model, run, tmp_path, capsys):
    file = tmp_path / "tuned.safetensors"
    code = run("tune", *model, "--id", digits / "train", "-o", file, "--quiet")
    out, err = capsys.readouterr()
    assert code == 0
    assert err.startswith("reactood: warning: The choice rests on 160 rows")
    assert err.count("\n") == 1
    check_tuned(file, detector, digits, out)


def test_images_that_cannot_be_read(digits, model, run, tmp_path, capsys):
    file, bad = tmp_path / "tuned.safetensors", tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert run("tune", *model, "--id", bad, digits / "train", "-o", file) == 3
    assert f"  {bad}: " in capsys.readouterr().err


def test_info(detector, run, tmp_path, capsys):
    metadata = persistence.read_metadata(detector)
    assert run("info", detector, "--json") == 0
    assert json.loads(capsys.readouterr().out) == metadata
    assert run("info", detector) == 0
    text = capsys.readouterr().out
    for key in metadata:
        assert f"{key}:" in text
    assert run("info", tmp_path / "no.safetensors") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_nested_metadata_as_text():
    from reactood._cli._info import _lines

    metadata = {
        "a": {"b": [1, "x"], "c": None, "d": {}, "e": True},
        "f": [{"g": []}, {"h": list(range(9))}],
    }
    assert list(_lines(metadata)) == [
        "a:",
        *("  b: 1, x", "  c: none", "  d: none", "  e: yes"),
        "f:",
        *("  0:", "    g: none", "  1:", "    h:"),
        *(f"      {i}: {i}" for i in range(9)),
    ]


def test_export(detector, digits, run, tmp_path, capsys, monkeypatch):
    export = pytest.importorskip("reactood.export")
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
