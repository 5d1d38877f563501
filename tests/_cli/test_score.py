"""The command ``score``: rows, formats, lists on stdin, pipes that close, Ctrl-C."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from reactood._cli import _image_scorer as image_scorer
from reactood._cli import _score as score
from reactood._cli._image_scorer import ImageScorer
from reactood.datasets import list_images

MODEL = "--model", "reactood.datasets:digits_classifier"


def read(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def load(file):
    from reactood.datasets import digits_classifier
    from reactood.persistence import load

    return load(file, model=digits_classifier)


def test_rows_are_those_of_the_estimator(detector, digits, run, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert run("score", detector, digits / "new", *MODEL, "-o", out) == 3
    text = capsys.readouterr()
    assert text.out == "" and "33 images, 1 could not be read. Written: " in text.err
    rows = read(out)
    paths = list_images(digits / "new")
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert list(rows[0]) == ["path", "score", "decision", "class", "error"]
    bad = rows.pop(7)
    assert bad["path"].endswith("007.png") and not bad["score"] + bad["decision"]
    assert bad["error"].startswith(f"{bad['path']!r} cannot be read as an image: ")
    pipeline = load(detector)
    good = [path for path in paths if path.name != "007.png" or "letters" in str(path)]
    expected = pipeline.score_samples(good)
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, 1e-5)
    labels = np.where(pipeline.predict(good) == 1, "id", "ood").tolist()
    assert [row["decision"] for row in rows] == labels
    assert {"id", "ood"} == set(labels)
    classes = pipeline.predict_class(good)
    assert [int(row["class"]) for row in rows] == classes.tolist()
    assert {row["error"] for row in rows} == {""}
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_p_values(calibrated, digits, run, capsys):
    assert run("score", calibrated, digits / "new/letters", *MODEL, "--quiet") == 0
    text = capsys.readouterr()
    assert text.err == ""
    rows = list(csv.DictReader(io.StringIO(text.out)))
    assert list(rows[0])[:4] == ["path", "score", "decision", "p_value"]
    paths = list_images(digits / "new/letters")
    expected = load(calibrated).p_values(paths)
    np.testing.assert_allclose([float(row["p_value"]) for row in rows], expected)
    for row in rows:
        assert (row["decision"] == "ood") == (float(row["p_value"]) <= 0.1)
        assert row["class"] in list("01234567")


def test_a_calibrated_detector_inside_a_pipeline(detector, digits):
    from reactood.conformal import ConformalDetector
    from reactood.pipeline import ReActPipeline

    pipeline = load(detector)
    paths = list_images(digits / "train")
    conformal = ConformalDetector(pipeline[-1], alpha=0.1, random_state=0)
    inside = ReActPipeline([("extractor", pipeline[0]), ("conformal", conformal)])
    outside = ConformalDetector(pipeline, alpha=0.1, random_state=0).fit(paths)
    rows = ImageScorer(inside.fit(paths), "a")(paths[:9])
    assert rows == ImageScorer(outside, "b")(paths[:9])
    assert rows[0].keys() == {"path", "score", "decision", "p_value", "class", "error"}


def test_json_lines_and_parquet(detector, digits, run, tmp_path):
    run("score", detector, digits / "new", *MODEL, "-o", tmp_path / "scores.csv")
    expected = read(tmp_path / "scores.csv")
    lines = tmp_path / "scores.jsonl"
    assert run("score", detector, digits / "new", *MODEL, "-o", lines) == 3
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    assert text == expected
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "scores.parquet"
    assert run("score", detector, digits / "new", *MODEL, "-o", table) == 3
    assert parquet.read_table(table).to_pylist() == rows
    assert sorted(os.listdir(tmp_path)) == [
        *("scores.csv", "scores.jsonl", "scores.parquet"),
    ]


def test_parquet_without_pyarrow(detector, digits, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    out = tmp_path / "scores.parquet"
    assert run("score", detector, digits / "new", *MODEL, "-o", out) == 1
    assert "pip install 'reactood[parquet]'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_names_with_newlines_and_bytes(detector, digits, run, tmp_path, monkeypatch):
    content = (digits / "new/digits/000.png").read_bytes()
    names = [b"a\nb.png", b"\xff,.png", b"=1+1.png"]
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    paths = [os.path.join(folder, name) for name in names]
    try:
        for path in paths:
            with open(path, "wb") as stream:
                stream.write(content)
    except OSError:
        pytest.skip("this file system takes no such names")
    missing = os.path.join(folder, b"c.png")
    given = b"\0".join([*paths, missing]) + b"\0"
    for suffix in ("csv", "jsonl"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        out = tmp_path / f"scores.{suffix}"
        assert run("score", detector, "-0", *MODEL, "-o", out) == 3
        if suffix == "csv":
            rows = read(out)
        else:
            rows = [json.loads(line) for line in out.read_bytes().splitlines()]
        assert [os.fsencode(row["path"]) for row in rows] == [*paths, missing]
        assert len({row["score"] for row in rows[:3]}) == 1
        assert "does not exist" in rows[3]["error"]


def test_an_unknown_file_or_detector(detector, digits, run, tmp_path, capsys):
    assert run("score", detector, "nowhere", *MODEL) == 1
    assert "There is no file or folder 'nowhere'" in capsys.readouterr().err
    assert run("score", tmp_path / "no.safetensors", digits / "new", *MODEL) == 1
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "bad.safetensors").write_bytes(b"no detector")
    assert run("score", tmp_path / "bad.safetensors", digits / "new") == 1
    assert capsys.readouterr().err.count("\n") == 1
    out = tmp_path / "no/scores.csv"
    assert run("score", detector, digits / "new", *MODEL, "-o", out) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_detector_of_features(run, digits, tmp_path, capsys):
    from reactood import ReActDetector
    from reactood.persistence import save

    X = np.random.default_rng(0).gamma(2.0, size=(99, 4))
    file = tmp_path / "features.safetensors"
    save(ReActDetector((np.eye(3, 4), np.zeros(3))).fit(X), file)
    assert run("score", file, digits / "new") == 1
    assert "a ReActDetector without an extractor" in capsys.readouterr().err


def test_features_that_are_not_finite_are_rows(detector, digits, monkeypatch):
    pipeline = load(detector)
    paths = [str(path) for path in list_images(digits / "new/letters")]
    extract = pipeline[0].transform_with_errors

    def overflowing(paths):
        features, errors = extract(paths)
        features[2, 5] = np.inf
        return features, errors

    monkeypatch.setattr(pipeline[0], "transform_with_errors", overflowing)
    rows = ImageScorer(pipeline, "x")(paths)
    errors = [row["error"] for row in rows]
    assert errors[2] == image_scorer.NO_NUMBER and not any(errors[:2] + errors[3:])
    assert [row["score"] is None for row in rows] == [i == 2 for i in range(9)]


def test_options_of_the_network_reach_it(detector, digits, run, tmp_path, monkeypatch):
    seen = []
    call = ImageScorer.__call__

    def noting(self, paths):
        seen.append((len(paths), self.extractor.get_params(), self.settings))
        return call(self, paths)

    monkeypatch.setattr(ImageScorer, "__call__", noting)
    monkeypatch.setattr(score, "LONG_ENOUGH", 0)  # one batch at a time
    options = "--batch-size", 10, "--device", "cpu", "--precision", "bfloat16"
    options = *options, "--decoder", "pillow"
    cache = tmp_path / "cache"
    run("score", detector, digits / "new", *MODEL, *options, "--cache", cache)
    assert [n for n, _, _ in seen] == [10, 10, 10, 3]
    _, params, settings = seen[0]
    assert params["batch_size"] == 10 and params["cache"] == str(cache)
    assert params["decoder"] == "pillow"
    assert settings == {
        "batch size": 10,
        "device": "cpu",
        "precision": "bfloat16",
        "engine": "eager",
        "decoder": "pillow",
    }


def test_a_closed_pipe_ends_cleanly(detector, digits, run, capsys, monkeypatch):
    class Closed(io.BytesIO):
        def write(self, content):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Closed()))
    assert run("score", detector, digits / "new", *MODEL) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_head_of_a_real_pipe(detector, digits, tmp_path):
    (tmp_path / "list").write_text(f"{digits}/new/digits/000.png\n" * 300)
    command = [sys.executable, "-m", "reactood", "score", detector, "-", *MODEL]
    with (
        open(tmp_path / "list", "rb") as paths,
        subprocess.Popen(
            [*map(str, command), "--batch-size", "1"],
            stdin=paths,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        first = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert first == b"path,score,decision,class,error\n"
    assert process.returncode == 141 and errors == b""


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_ctrl_c_leaves_complete_rows_to_go_on_with(
    detector, digits, run, tmp_path, capsys, monkeypatch, suffix
):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    arguments = "score", detector, digits / "new", *MODEL, "--batch-size", 4
    whole = tmp_path / f"whole.{suffix}"
    run(*arguments, "-o", whole)
    capsys.readouterr()
    out = tmp_path / f"scores.{suffix}"
    call, n_calls = ImageScorer.__call__, 0

    def stopped(self, paths):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            raise KeyboardInterrupt
        return call(self, paths)

    with monkeypatch.context() as patch:
        patch.setattr(ImageScorer, "__call__", stopped)
        assert run(*arguments, "-o", out) == 130
    assert capsys.readouterr().err == "reactood score: stopped by Ctrl-C\n"
    if suffix == "csv":
        assert len(read(out)) == 4 + 8
    assert run(*arguments, "-o", out) == 3
    err = capsys.readouterr().err
    assert "Going on after 12 of 33 images." in err and "1 could not be read" in err
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == [out.name, whole.name]


def test_a_bar_on_a_terminal(detector, digits, run, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run("score", detector, digits / "new", *MODEL)
    assert "33/33" in capsys.readouterr().err
    run("score", detector, digits / "new", *MODEL, "--quiet")
    assert capsys.readouterr().err == ""


def test_images_may_stand_after_options(detector, digits, model, run, capsys):
    images = digits / "new/letters/000.png"
    assert run("score", detector, *model[:2], "--quiet", images) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run("score", detector, "--quiet", images, "--not-an-option") == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_missing_option_is_named(detector, digits, run, capsys):
    assert run("score", detector, digits / "new/letters") == 1
    said = capsys.readouterr().err
    assert "Give --model FILE.py:FUNCTION or MODULE:FUNCTION." in said
    assert "load(" not in said and "--preprocess" not in said


@pytest.mark.parametrize("kind", ["detector", "calibrated"])
def test_a_device_that_this_machine_lacks(kind, digits, run, tmp_path, capsys, request):
    import torch

    from reactood.persistence import save

    if torch.cuda.is_available():
        pytest.skip("there is such a device")
    estimator, file = load(request.getfixturevalue(kind)), tmp_path / "cuda.safetensors"
    pipeline = getattr(estimator, "estimator_", estimator)
    pipeline.set_params(extractor__device="cuda", detector__device="cuda")
    save(estimator, file)
    arguments = "score", file, digits / "new/letters", *MODEL, "--quiet"
    assert run(*arguments) == 1
    assert "device='cuda' cannot be used here" in capsys.readouterr().err
    assert run(*arguments, "--device", "cpu") == 0
