"""The commands ``evaluate`` and ``report``, on small files of digits."""

import csv
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from reactood import TorchFeatureExtractor, make_react_pipeline
from reactood.__main__ import main
from reactood._cli import _evaluate, _report
from reactood._cli._models import load_function
from reactood._cli._rejected import MORE
from reactood._networks._forward import Forward
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import ood_report

pytest.importorskip("matplotlib")

GREY = """
import numpy as np
import torch

def grey(image):
    pixels = np.asarray(image.convert("L"), dtype=np.float32)
    return torch.from_numpy(pixels[None] / 255)

def make():
    return grey
"""
# What a file may be called on this system; "/" is the only character that none has.
EVIL = "<script>alert(1)<script>.png", "\"onerror='x' <img src=x>&.png", "$x^{.png"
NAME = "<b>sym</b> $\\frac{ &amp;"


def png(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        pixels = np.rint(255 * image[0]).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


def fitted(root, **parameters):
    grey = load_function(f"{root / 'mine.py'}:make")()
    pipeline = make_react_pipeline(digits_classifier, preprocess=grey, **parameters)
    return pipeline.fit(root / "fit")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A detector and folders of digits, letters and symbols, some files damaged."""
    persistence = pytest.importorskip("reactood.persistence")
    root = tmp_path_factory.mktemp("pages")
    data = load_digits_ood()
    (root / "mine.py").write_text(GREY)
    png(root / "fit", data.X_train[:120])
    png(root / "test", data.X_test[:50])
    png(root / "letters", data.ood["letters"][:40])
    png(root / "symbols", data.ood["symbols"][:30])
    persistence.save(fitted(root), root / "det.safetensors")
    shutil.copytree(root / "letters", root / "evil")
    for name in EVIL:
        shutil.copy(root / "letters" / "000.png", root / "evil" / name)
    (root / "evil" / "<i>cut.png").write_bytes(b"no image")
    return root


def run(module, *arguments):
    """Run a command as the command line does; return its exit code."""
    name = module.__name__.rpartition("._")[2]
    return main([name, *map(str, arguments)])


def network(files):
    return (
        *("--model", "reactood.datasets:digits_classifier"),
        *("--preprocess", f"{files / 'mine.py'}:make"),
        "--quiet",
    )


def evaluate(files, out, *arguments, det="det.safetensors", id_="test"):
    return run(
        _evaluate,
        files / det,
        *("--id", files / id_, "--out", out, "--bootstrap", 50),
        *network(files),
        *arguments,
    )


def ood(name, files, folder):
    return "--ood", f"{name}={files / folder}"


class Page(HTMLParser):
    """Notes all tags, and checks that they are closed in order."""

    VOID = "meta", "img"

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def check_page(path):
    """Check that a page needs nothing else and has what readers of it need."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "section"),
        *("h1", "h2", "h3", "p", "div", "figure", "figcaption", "img", "ol", "li"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "span", "bdi"),
    }
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        assert "href" not in attrs and "style" not in attrs
        assert tag != "th" or attrs["scope"] in ("row", "col")
    for attrs in page.all("img"):
        assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$", attrs["src"])
        assert len(attrs["alt"]) > 10
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)", text)
    assert "url(" not in text and "@import" not in text
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    policy = next(meta for meta in page.all("meta") if "http-equiv" in meta)
    assert policy["content"].startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in text
    return page


@pytest.mark.parametrize("bad", ["nothing", "unreadable"])
def test_a_report_that_fails_leaves_no_folder_and_keeps_the_old(
    files, tmp_path, capsys, bad
):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "1.png").write_bytes(b"no image")
    failing = "--ood", f"bad={tmp_path / bad}", "--force"
    assert evaluate(files, tmp_path / "report", *failing) == 1
    assert not (tmp_path / "report").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert evaluate(files, tmp_path / "mine", *failing) == 1
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]
    assert evaluate(files, tmp_path / "report", *ood("letters", files, "letters")) == 0
    before = sorted((tmp_path / "report").rglob("*"))
    assert evaluate(files, tmp_path / "report", *failing) == 1
    assert sorted((tmp_path / "report").rglob("*")) == before
    capsys.readouterr()


def test_a_full_disk_keeps_the_old_page(files, tmp_path, capsys, full_disk):
    page, folder = tmp_path / "page.html", tmp_path / "folder"
    page.write_text("old")
    folder.mkdir()
    (folder / "index.html").write_text("old")
    with full_disk(5000):
        arguments = files / "letters", "-o", page, "--force", *network(files)
        assert run(_report, files / "det.safetensors", *arguments) == 1
        assert f"too large: '{page}'" in capsys.readouterr().err
        sets = ood("letters", files, "letters")
        assert evaluate(files, folder, *sets, "--force") == 1
        assert f"too large: '{folder}" in capsys.readouterr().err
    assert page.read_text() == (folder / "index.html").read_text() == "old"
    assert not list(folder.glob("figures/*"))
    assert sorted(os.listdir(tmp_path)) == ["folder", "page.html"]


def test_images_that_are_both_id_and_ood_are_named(files, tmp_path, capsys):
    (tmp_path / "link").symlink_to(files / "test" / "000.png")
    sets = *ood("same", files, "test"), "--ood", f"one={tmp_path / 'link'}"
    assert evaluate(files, tmp_path / "report", *sets) == 0
    said = capsys.readouterr().err
    assert "50 of the 50 images of 'same' are among the ID images" in said
    assert "1 of the 1 image of 'one' is among the ID images" in said
    assert "are among the ID images" in (tmp_path / "report/report.json").read_text()


# ---------------------------------------------------------------------------- evaluate


def test_the_numbers_are_those_of_ood_report(files, tmp_path, capsys):
    out = tmp_path / "new" / "report"
    sets = *ood("letters", files, "letters"), *ood("symbols", files, "symbols")
    assert evaluate(files, out, *sets, "--seed", 3) == 0
    pipeline = fitted(files)
    paths = {name: files / name for name in ("letters", "symbols")}
    expected = ood_report(
        pipeline, files / "test", paths, n_bootstrap=50, random_state=3
    )
    with open(out / "report.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = json.loads((out / "report.json").read_text())
    assert [row["ood"] for row in rows] == ["letters", "symbols", "mean"]
    for row, of_json, known in zip(rows, found["rows"], expected.rows, strict=True):
        for key, value in known.items():
            assert of_json[key] == value
            assert row[key] == ("" if value is None else str(value))
    assert found["id_accepted"] == expected.id_accepted
    assert found["threshold"] == pipeline[-1].offset_
    features = pipeline[0].transform(files / "symbols")
    above = features - pipeline[-1].rectify(features)
    assert found["rows"][1]["clipped_share"] == pytest.approx(np.mean(above > 0))
    assert found["rows"][1]["clip_change"] == pytest.approx(above.mean(), rel=1e-5)
    text = (out / "report.txt").read_text()
    assert text.startswith(str(expected)) and capsys.readouterr().out == text
    page = check_page(out / "index.html")
    for row in expected.rows:
        assert f"{100 * row['auroc']:.1f} [{100 * row['auroc_low']:.1f}" in page.text
    assert "All images could be read." in page.text
    assert f"{pipeline[-1].activation_threshold_:.4g}" in page.text
    assert found["detector"]["SHA-256"] in page.text
    assert len(list((out / "figures").iterdir())) == 4


def test_bad_files_are_listed_and_the_rest_is_evaluated(files, tmp_path, capsys):
    assert evaluate(files, tmp_path, *ood("evil", files, "evil")) == 3
    assert "cut.png: it is no image" in capsys.readouterr().err
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["rows"][0]["n"] == 43 and found["rows"][0]["unreadable"] == 1
    (bad,) = found["unreadable"]
    assert bad["set"] == "evil" and bad["path"] == str(files / "evil" / "<i>cut.png")
    assert bad["reason"].startswith("it is no image")
    assert "OOD set. 1 image could not be read. A higher" in (
        (tmp_path / "index.html").read_text()
    )
    for name in ("report.txt", "index.html"):
        assert "it is no image, damaged" in (tmp_path / name).read_text()


def test_names_of_files_and_sets_do_no_harm(files, tmp_path):
    sets = *ood(NAME, files, "evil"), *ood("@SUM(1)", files, "symbols")
    code = evaluate(files, tmp_path / "<s>", *sets, "--thumbnails", 30)
    assert code == 3
    page = check_page(tmp_path / "<s>" / "index.html")
    titles = [attrs["title"] for attrs in page.all("bdi") if attrs]
    for name in EVIL:
        assert str(files / "evil" / name) in titles
        assert name in page.text
    assert NAME in page.text and "<i>cut.png" in page.text
    with open(tmp_path / "<s>" / "report.csv", newline="") as stream:
        assert [row["ood"] for row in csv.DictReader(stream)][:2] == [NAME, "'@SUM(1)"]
    for path in (tmp_path / "<s>" / "figures").iterdir():
        assert re.fullmatch(r"[0-9A-Za-z-]+\.png", path.name)
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_a_name_may_be_bytes_that_are_no_text(files, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "set")
    os.mkdir(folder)
    try:
        for name, source in ((b"\xff\x1b.png", "letters"), (b"b.png", "symbols")):
            shutil.copy(files / source / "000.png", os.path.join(folder, name))
        with open(os.path.join(folder, b"\xfe\x1bcut.png"), "wb"):
            pass
    except OSError:
        pytest.skip("this file system has no such names")
    sets = "--ood", f"set={tmp_path / 'set'}"
    assert evaluate(files, tmp_path / "out", *sets) == 3
    assert evaluate(files, tmp_path / "out", *sets, "--force", id_="letters") == 3
    for text in (*capsys.readouterr(), (tmp_path / "out/report.txt").read_text()):
        assert r"\udcfe\x1bcut.png: it is empty" in text and "\x1b" not in text
    page = check_page(tmp_path / "out" / "index.html")
    assert r"\udcff" in page.text and r"\udcfe" in page.text


def test_each_image_goes_through_the_network_once(files, tmp_path, monkeypatch):
    rows: list = []
    forward = Forward.__call__

    def count(self, batches, finish):
        for some, features in forward(self, batches, finish):
            rows.extend(some)
            yield some, features

    monkeypatch.setattr(Forward, "__call__", count)
    sets = *ood("letters", files, "letters"), *ood("symbols", files, "symbols")
    assert evaluate(files, tmp_path, *sets) == 0
    assert len(rows) == 50 + 40 + 30


def test_a_set_without_a_readable_image_leaves_the_others(files, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    sets = "--ood", f"bad={tmp_path / 'bad'}", *ood("letters", files, "letters")
    assert evaluate(files, tmp_path / "out", *sets) == 3
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["ood"] for row in found["rows"]] == ["letters"]
    assert "None of the images of 'bad' could be read" in found["warnings"][0]
    assert "None of the images of 'bad'" in capsys.readouterr().err
    assert "None of the images of" in check_page(tmp_path / "out/index.html").text
    code = evaluate(files, tmp_path / "2", "--ood", f"bad={tmp_path / 'bad'}")
    assert code == 1
    assert "None of the OOD images could be read" in capsys.readouterr().err


def test_a_warning_of_the_numbers_is_in_the_report(files, tmp_path, capsys):
    code = evaluate(files, tmp_path, *ood("digits", files, "test"), id_="letters")
    assert code == 0
    assert "wrong way round" in capsys.readouterr().err
    assert "wrong way round" in check_page(tmp_path / "index.html").text
    assert "wrong way round" in (tmp_path / "report.txt").read_text()


def test_a_report_is_not_replaced_without_force(files, tmp_path, capsys):
    letters = ood("letters", files, "letters")
    (tmp_path / "index.html").write_text("mine")
    assert evaluate(files, tmp_path, *letters) == 1
    assert "--force to replace the report" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "mine"
    assert evaluate(files, tmp_path, *letters, "--force") == 0
    check_page(tmp_path / "index.html")
    symbols = ood("symbols", files, "symbols")
    assert evaluate(files, tmp_path, *symbols, "--force") == 0
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["1-symbols-activations.png", "1-symbols-scores.png"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a=x", "a=y"], "two sets are named 'a'"),
        (["mean=x", "a=y"], "named 'mean', as the means over"),
        (["ID=x"], "named 'ID', as the ID images are"),
    ],
)
def test_wrong_names_of_sets(files, tmp_path, names, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate(files, tmp_path, *(part for name in names for part in ("--ood", name)))
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["=x", "a=", " =x"])
def test_a_set_needs_a_name_and_images(files, tmp_path, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate(files, tmp_path, "--ood", text)
    assert "expected NAME=IMAGES" in capsys.readouterr().err


def test_a_set_is_called_like_its_folder():
    assert _evaluate.named_set(f"data{os.sep}dtd{os.sep}") == ("dtd", "data/dtd/")
    assert _evaluate.named_set("a=b=c") == ("a", "b=c")


def test_a_folder_that_is_not_there_stops_before_the_network(
    files, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(TorchFeatureExtractor, "transform_with_errors", None)
    assert evaluate(files, tmp_path, "--ood", f"a={tmp_path / 'none'}") == 1
    assert "There is no file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("module", [_evaluate, _report])
def test_without_matplotlib_the_error_says_what_to_install(
    files, tmp_path, capsys, monkeypatch, module
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    if module is _evaluate:
        code = evaluate(files, tmp_path, *ood("letters", files, "letters"))
    else:
        code = report(files, tmp_path / "a.html", files / "letters")
    assert code == 1
    assert "pip install 'reactood[plot]'" in capsys.readouterr().err


# ------------------------------------------------------------------------------ report


def report(files, out, *arguments):
    return run(
        _report, files / "det.safetensors", *network(files), *arguments, "-o", out
    )


def test_a_page_about_images_without_truth(files, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert report(files, out, files / "evil", "--thumbnails", 40) == 3
    page = check_page(out)
    n_shown = len([attrs for attrs in page.all("bdi") if attrs])
    assert n_shown == 42  # each of 43 at most once
    said = capsys.readouterr().out
    assert f"rejected as out-of-distribution: {rejected(files)}" in said
    assert said.startswith("images: 44, 1 of them could not be read\n")
    assert "applied to 43 images of which the truth is not known. 1 image could" in (
        page.text
    )
    assert MORE in said and MORE in page.text
    assert str(rejected(files)) in page.text
    for name in EVIL:
        assert name in page.text
    assert "<i>cut.png" in page.text and "it is no image" in page.text


def rejected(files):
    pipeline = fitted(files)
    paths = [path for path in (files / "evil").iterdir() if "cut" not in path.name]
    return int((pipeline.predict(paths) == -1).sum())


def test_as_many_rejected_as_expected_is_not_remarked(files, tmp_path, capsys):
    assert report(files, tmp_path / "page.html", files / "test") == 0
    said = capsys.readouterr().out
    assert said.startswith("images: 50\n") and "(0.0%)" not in said
    assert MORE not in said + (tmp_path / "page.html").read_text()


def test_one_image_is_enough(files, tmp_path):
    for name in ("test/000.png", "letters/003.png"):
        assert report(files, tmp_path / "a.html", files / name, "--force") == 0
        assert len(check_page(tmp_path / "a.html").all("bdi")) == 2


def test_a_page_is_not_replaced_without_force(files, tmp_path, capsys):
    out = tmp_path / "a.html"
    out.write_text("mine")
    assert report(files, out, files / "letters") == 1
    assert out.read_text() == "mine" and "--force" in capsys.readouterr().err


def test_nothing_but_bad_images(files, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert report(files, tmp_path / "a.html", tmp_path / "bad.png") == 1
    said = capsys.readouterr().err
    assert "bad.png: it is no image" in said and "None of the images" in said


def test_a_detector_without_a_clip(files, tmp_path):
    persistence = pytest.importorskip("reactood.persistence")
    det = tmp_path / "plain.safetensors"
    persistence.save(fitted(files, percentile=None), det)
    out = tmp_path / "a.html"
    assert run(_report, det, *network(files), files / "letters", "-o", out) == 0
    page = check_page(out)
    assert "clips no activations" in page.text
    sets = ood("letters", files, "letters")
    assert evaluate(files, tmp_path / "out", *sets, det=det) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["id_clipped_share"] is None
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 1
