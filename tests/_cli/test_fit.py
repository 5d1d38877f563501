"""The command ``fit``: the same detectors as from Python, and nothing if it fails."""

import os
import sys

import numpy as np
import pytest
from torchvision import transforms

from reactood import ReActDetector, make_react_pipeline, persistence
from reactood._cli._fit import _note_of_signed
from reactood.conformal import ConformalDetector
from reactood.datasets import digits_classifier, list_images

PREPROCESS = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])


def load(file):
    return persistence.load(file, model=digits_classifier)


def test_it_is_the_pipeline_of_these_settings(digits, model, run, tmp_path, capsys):
    file = tmp_path / "det.safetensors"
    settings = "--percentile", 85, "--score", "msp", "--contamination", 0.1
    code = run("fit", *model, "--id", digits / "train", *settings, "-o", file)
    text = capsys.readouterr()
    assert code == 0 and text.out == ""
    fitted = load(file)
    expected = make_react_pipeline(
        digits_classifier,
        preprocess=PREPROCESS,
        percentile=85,
        score_function="msp",
        contamination=0.1,
    ).fit(list_images(digits / "train"))
    assert fitted[-1].activation_threshold_ == expected[-1].activation_threshold_
    assert fitted[-1].offset_ == expected[-1].offset_
    assert f"160 images, msp, clip {expected[-1].activation_threshold_:.4g} (p" in (
        text.err
    )
    assert os.listdir(tmp_path) == ["det.safetensors"]
    images = list_images(digits / "new/letters")
    np.testing.assert_allclose(
        fitted.score_samples(images), expected.score_samples(images), rtol=1e-5
    )


def test_a_calibrated_one_is_the_conformal_detector(calibrated, digits):
    fitted = load(calibrated)
    pipeline = make_react_pipeline(digits_classifier, preprocess=PREPROCESS)
    expected = ConformalDetector(pipeline, alpha=0.1, random_state=0).fit(
        list_images(digits / "train")
    )
    assert fitted.alpha == 0.1 and fitted.random_state == 0
    np.testing.assert_allclose(
        fitted.calibration_scores_, expected.calibration_scores_, rtol=1e-5
    )
    assert fitted.offset_ == pytest.approx(expected.offset_, rel=1e-5)
    assert not hasattr(fitted, "n_features_in_")
    images = list_images(digits / "new/letters")
    np.testing.assert_allclose(fitted.p_values(images), expected.p_values(images))


def test_no_clip_and_some_of_the_images(digits, model, run, tmp_path, capsys):
    arguments = *model, "--id", digits / "train", "--percentile", "none"
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        drawn = "--limit", 40, "--seed", seed
        assert run("fit", *arguments, *drawn, "-o", file) == 0
        assert "40 images, energy, without a clip, threshold" in capsys.readouterr().err
    first, again, other = (load(file)[-1] for file in files)
    assert first.percentile is None
    assert first.offset_ == again.offset_ != other.offset_


def test_images_that_cannot_be_read_are_named(digits, model, run, tmp_path, capsys):
    file = tmp_path / "det.safetensors"
    assert run("fit", *model, "--id", digits / "new/digits", "-o", file, "--quiet") == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1 of 24 images could not be read and was left out:"
    assert lines[1].startswith(f"  {digits / 'new/digits/007.png'}: ")
    assert lines[1].count("007.png") == 1  # and no more
    assert "Image 7" not in lines[1] and len(lines) == 2
    good = [p for p in list_images(digits / "new/digits") if p.name != "007.png"]
    expected = make_react_pipeline(digits_classifier, preprocess=PREPROCESS).fit(good)
    assert load(file)[-1].offset_ == pytest.approx(expected[-1].offset_, rel=1e-6)


def test_many_that_cannot_be_read_are_counted(digits, model, run, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    for i in range(12):
        (bad / f"{i}.png").write_bytes(b"no image")
    file = tmp_path / "det.safetensors"
    assert run("fit", *model, "--id", bad, digits / "train", "-o", file) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "  and 2 more"


def test_a_failure_writes_nothing(digits, model, run, tmp_path, capsys, monkeypatch):
    file = tmp_path / "det.safetensors"
    arguments = "fit", *model, "--id", digits / "train", "-o", file
    monkeypatch.setattr(
        "reactood.detector.ReActDetector.fit", lambda *args: 1 / 0, raising=True
    )
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error == "reactood fit: ZeroDivisionError: division by zero\n"
    assert os.listdir(tmp_path) == []


def test_an_output_is_replaced_by_force_alone(digits, model, run, tmp_path, capsys):
    file = tmp_path / "det.safetensors"
    file.write_bytes(b"mine")
    arguments = "fit", *model, "--id", digits / "train/0", "-o", file
    assert run(*arguments) == 1
    assert "exists already. Give another -o, or --force" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"
    assert run(*arguments, "--force") == 0
    assert load(file)[-1].percentile == 90
    nowhere = tmp_path / "no/det.safetensors"
    assert run("fit", *model, "--id", digits / "train/0", "-o", nowhere) == 1
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("resnet5O", "is no torchvision classifier"),
        ("nowhere.py:build", "no file 'nowhere.py'"),
        ("reactood.datasets:digits", "has no function 'digits'"),
    ],
)
def test_an_unknown_model(digits, run, tmp_path, capsys, model, text):
    file = tmp_path / "det.safetensors"
    arguments = "fit", "--model", model, "--id", digits / "train/0", "-o", file
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_a_model_by_name_needs_no_option_later(digits, run, tmp_path):
    file, out = tmp_path / "det.safetensors", tmp_path / "scores.csv"
    named = "--model", "resnet18", "--weights", "none"
    few = digits / "train/0"
    assert run("fit", *named, "--id", few, "--limit", 6, "-o", file) == 0
    assert run("score", file, few / "000.png", "-o", out) == 0
    assert out.read_text().count("\n") == 2


def test_a_bar_on_a_terminal(digits, model, run, tmp_path, capsys, monkeypatch):
    file = tmp_path / "det.safetensors"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run("fit", *model, "--id", digits / "train", "-o", file) == 0
    assert "160/160" in capsys.readouterr().err
    assert load(file)[0].verbose is False


def test_a_hint_about_signed_features():
    signed = np.random.default_rng(0).normal(size=(50, 4))
    assert _note_of_signed(ReActDetector(), signed).startswith("49 %")
    assert not _note_of_signed(ReActDetector(), np.abs(signed))
    for params in ({"percentile": None}, {"lower_percentile": 5}):
        assert not _note_of_signed(ReActDetector(**params), signed)
    assert not _note_of_signed(ReActDetector(score_function="msp"), signed)
