"""The suites imagenet-val, cifar10-sample and own, on small folders of their layout."""

import csv
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.__main__ import main
from reactood._cli.benchmark import _models as models
from reactood._cli.benchmark import _samples as samples
from reactood._cli.benchmark._files import Absent
from reactood._cli.benchmark._methods import GROUPS, MethodInputs, parse_methods
from reactood._cli.benchmark._tasks import Request
from reactood._cli.benchmark._tuned import choose
from reactood.metrics import auroc
from reactood.model_selection import tune_detector

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 5, stride=4)
        self.fc = nn.Linear(12, n_classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean(dim=(2, 3)))

def load(name):
    torch.manual_seed(len(name))
    return Net(10)

def build():
    return load("")
"""


def write(folder, n, rng, *, size=(40, 40), end="png"):
    """Write pictures of one random colour each, with some noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        colour = rng.integers(0, 200, 3)
        pixels = colour + rng.integers(0, 50, (*size[::-1], 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.{end}")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def net(tmp_path):
    """A file with models, and where it is."""
    file = tmp_path / "net.py"
    file.write_text(NET)
    return file


@pytest.fixture
def data(tmp_path, rng):
    folder = tmp_path / "data"
    for i in range(4):
        write(folder / f"imagenet-val/n{i:02}", 6, rng, size=(227, 227))
        write(folder / f"cifar10-jpeg/class{i}", 1, rng, size=(32, 32), end="jpg")
    for i in range(4, 10):
        write(folder / f"cifar10-jpeg/class{i}", 2, rng, size=(32, 32), end="jpg")
    write(folder / "textures/dots", 7, rng, size=(300, 256))
    write(folder / "flowers/rose", 5, rng, size=(180, 240))
    write(folder / "tiny-imagenet", 6, rng, size=(64, 64), end="jpg")
    return folder


def run(*arguments):
    main(["benchmark", *map(str, arguments), "--quiet"])


def result_of(out):
    return json.loads((out / "report.json").read_text())


def table_of(out):
    """Return the rows of the table that benchmarks/measured.py makes of a report."""
    script = Path(__file__).parents[2] / "benchmarks/measured.py"
    command = [sys.executable, script, f"tiny={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(csv.reader(io.StringIO(done.stdout)))


def test_imagenet_val(data, net, tmp_path):
    out = tmp_path / "out"
    run(
        *("imagenet-val", "--data", data, "--model", f"{net}:build", "--out", out),
        *("--methods", "energy,energy+react", "--bootstrap", 50),
    )
    result = result_of(out)
    assert result["counts"] == {
        "ID to learn from": 12,
        "ID judged": 12,
        "OOD textures": 7,
        "OOD flowers": 5,
    }
    assert result["id_accuracy"] is None  # 4 folders, and nothing names all 1,000
    assert any("from 224 to 255 pixels are cropped" in note for note in result["notes"])
    for method in result["methods"]:
        for cell in [*method["ood"], method["mean"]]:
            for key in ("fpr95", "auroc"):
                assert cell[f"{key}_low"] <= cell[key] <= cell[f"{key}_high"]
    assert "fpr95_low,fpr95_high,auroc_low" in (out / "report.csv").read_text()


def test_halves_are_random_and_apart(data, net):
    def task(seed):
        return samples.imagenet_val(Request(data=data, model=f"{net}:build", seed=seed))

    first, second = task(0), task(1)
    assert not set(first.calibration) & set(first.test)
    assert len({*first.calibration, *first.test}) == 24
    assert first.calibration != second.calibration
    folders = [path.parent.name for path in first.calibration]
    assert [f"n{i:02}" for i in first.calibration_classes] == folders


def test_classes_come_from_a_folder_that_has_all(data, net):
    for i in range(1000):  # n02 is class 3 of these
        (data / "imagenet-sample" / ("n015" if i == 999 else f"n{i:02}")).mkdir(
            parents=True
        )
    task = samples.imagenet_val(Request(data=data, model=f"{net}:build"))
    names = sorted(path.name for path in (data / "imagenet-sample").iterdir())
    assert len(names) == 1000
    found = [names[i] for i in task.test_classes]
    assert found == [path.parent.name for path in task.test]
    (data / "imagenet-sample/n02").rmdir()
    task = samples.imagenet_val(Request(data=data, model=f"{net}:build"))
    assert task.test_classes is None


@pytest.mark.parametrize("old", [True, False])
def test_what_is_large_enough_is_not_enlarged(rng, old):
    kind = torchvision.transforms if old else torchvision.transforms.v2
    end = (
        [kind.ToTensor()]
        if old
        else [kind.ToImage(), kind.ToDtype(torch.float32, scale=True)]
    )
    whole = kind.Compose([kind.Resize(256), kind.CenterCrop(224), *end])
    transform = samples.without_enlarging(whole)
    for side in (223, 224, 227, 255, 256, 300):
        pixels = rng.integers(0, 256, (side, side + 9, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        expected = whole(image)
        if 224 <= side < 256:
            top, left = round((side - 224) / 2), round((side + 9 - 224) / 2)
            cut = pixels[top : top + 224, left : left + 224]
            expected = torch.from_numpy(cut).permute(2, 0, 1) / 255
        torch.testing.assert_close(transform(image), expected)
    grey = transform(Image.new("L", (240, 240)))
    assert grey.shape == (3, 224, 224)


def test_the_usual_transform_is_the_same_in_steps(rng):
    usual = models.IMAGENET_TRANSFORM
    image = Image.fromarray(rng.integers(0, 256, (300, 280, 3), dtype=np.uint8))
    transform = samples.without_enlarging(usual)
    torch.testing.assert_close(transform(image), usual(image))
    assert (transform.least, transform.most) == (224, 256)
    assert samples.without_enlarging(abs) is abs  # unknown steps


def test_cifar10_sample(data, net, tmp_path):
    out = tmp_path / "out"
    run(
        *("cifar10-sample", "--data", data, "--model", f"{net}:load(ab)"),
        *("--out", out, "--methods", "energy,tuned"),
    )
    result = result_of(out)
    assert result["counts"] == {
        "ID to learn from": 8,
        "ID judged": 8,
        "OOD Tiny-ImageNet, resized": 6,
        "OOD Tiny-ImageNet, cropped": 6,
        "OOD textures, resized": 7,
    }
    assert result["model"].endswith(":load(ab)")
    assert any("lossy JPEG" in note for note in result["notes"])


def test_all_small_images_go_through_one_jpeg_step(tmp_path, rng):
    big, small = tmp_path / "big.png", tmp_path / "small.jpg"
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(big)
    crop = Image.fromarray(pixels[16:48, 16:48])
    crop.save(small, quality=75, subsampling=2)
    exact, same = samples.as_jpeg([big, small], samples.cropped)
    np.testing.assert_array_equal(exact, same)  # a small JPEG file is only read
    assert np.abs(exact.astype(int) - np.asarray(crop)).mean() > 1  # it is lossy
    (resized,) = samples.as_jpeg([big], samples.shrunk)
    assert resized.shape == (32, 32, 3) and not np.array_equal(resized, exact)
    crop.save(tmp_path / "small.png")  # of the right size, but not yet lossy
    (again,) = samples.as_jpeg([tmp_path / "small.png"], samples.cropped)
    np.testing.assert_array_equal(again, exact)


def test_own_images_and_a_module_with_a_checkpoint(
    tmp_path, net, rng, monkeypatch, capsys
):
    write(tmp_path / "mine/b", 5, rng)
    write(tmp_path / "mine/a", 5, rng)
    write(tmp_path / "other", 4, rng)
    monkeypatch.chdir(tmp_path)
    net.rename(tmp_path / "mynet_of_a_user.py")
    monkeypatch.syspath_prepend(tmp_path)
    from mynet_of_a_user import load

    trained = load("another seed")
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    sys.modules.pop("mynet_of_a_user")
    run(
        *("own", "--id", "mine", "--ood", "scans=other", "--methods", "energy"),
        *("--model", "mynet_of_a_user:build=weights.pt", "--out", "out"),
    )
    result = result_of(tmp_path / "out")
    assert result["counts"] == {
        "ID to learn from": 5,
        "ID judged": 5,
        "OOD scans": 4,
    }
    task = samples.own(
        Request(
            model="mynet_of_a_user:build=weights.pt",
            id_folder="mine",
            ood_folders={"scans": "other"},
        )
    )
    assert set(task.calibration_classes) <= {0, 1} and task.test_classes is None
    extractor = TorchFeatureExtractor(lambda: trained, preprocess=task.preprocess)
    H = extractor.fit_transform(task.calibration)
    detector = ReActDetector(extractor.head_, percentile=None).fit(H)
    of_id, of_ood = (
        detector.score_samples(extractor.transform(images))
        for images in (task.test, task.ood["scans"])
    )
    y = np.repeat([1, -1], [len(of_id), len(of_ood)])
    expected = auroc(y, np.concatenate([of_id, of_ood]))
    (cell,) = result["methods"][0]["ood"]
    assert cell["auroc"] == pytest.approx(expected, abs=1e-6)


def test_own_photos_against_the_users_sets(data, net, tmp_path, rng):
    write(tmp_path / "drawings", 3, rng)
    request = Request(
        model=f"{net}:build",
        id_folder=data / "imagenet-val",
        ood_folders={"drawings": tmp_path / "drawings"},
    )
    task = samples.imagenet_val(request)
    assert list(task.ood) == ["drawings"] and len(task.ood["drawings"]) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["own", "--model", "resnet18"], r"--id DIR and --ood NAME=DIR"),
        (["own", "--id", ".", "--ood", "here"], r"--ood here: expected NAME=DIR"),
        (["own", "--id", ".", "--ood", "a=.", "--ood", "a=."], "a is there twice"),
        (["own", "--id", "nowhere", "--ood", "a=."], "no folder 'nowhere'"),
        (["own", "--id", ".", "--ood", "a=."], "own needs your classifier: --model"),
        (["digits", "--ood", "a=."], "--id and --ood are for imagenet-val and own"),
        (["imagenet-val", "--data", "."], "needs a model trained on ImageNet"),
        (["cifar10-sample", "--data", "."], "needs a model trained on CIFAR-10"),
    ],
)
def test_what_is_missing_is_named(arguments, says):
    with pytest.raises(SystemExit, match=says):
        main(["benchmark", *arguments])


def test_sets_that_are_missing_are_left_out(data, net):
    (data / "flowers").rename(data / "weeds")
    task = samples.imagenet_val(Request(data=data, model=f"{net}:build"))
    assert list(task.ood) == ["textures"]
    assert any(note.startswith("Left out, flowers") for note in task.notes)
    for path in (data / "cifar10-jpeg/class9").iterdir():
        path.unlink()
    (data / "cifar10-jpeg/class9").rmdir()
    with pytest.raises(Absent, match="holds 9 classes, not 10"):
        samples.cifar10_sample(Request(data=data, model=f"{net}:build"))


def test_functions_with_a_text_and_with_a_checkpoint(net, tmp_path):
    short, long = (
        models.parse_model(f"{net}:load({text})", n_classes=10)()
        for text in ("a", "bb")
    )
    assert not torch.equal(short.fc.weight, long.fc.weight)
    named = models.parse_model(f"{net}:load(a)", n_classes=10)
    assert named.__qualname__ == "load(a)"  # what a detector's file shows
    file = tmp_path / "w.pt"
    torch.save(long.state_dict(), file)
    for text in (f"{net}:build={file}", f"{net}:load(a)={file}"):
        loaded = models.parse_model(text, n_classes=10)()
        torch.testing.assert_close(loaded.fc.weight, long.fc.weight)
    with pytest.raises(ValueError, match=r"there is no file 'gone\.pt'"):
        models.parse_model(f"{net}:build=gone.pt", n_classes=10)
    with pytest.raises(ValueError, match="has no function 'make'"):
        models.parse_model(f"{net}:make(a)", n_classes=10)
    with pytest.raises(ValueError, match="no module 'no_such_module_of_mine'"):
        models.parse_model("no_such_module_of_mine:make", n_classes=10)


def features(rng, n, n_classes=6):
    """Features of classes, and a head whose logits move together."""
    y = rng.integers(0, n_classes, n)
    weight = np.eye(n_classes, 12) * 4 + 1.0
    return np.maximum(rng.normal(0.2, 0.6, (n, 12)) + 2 * weight[y] / 5, 0), weight


def test_tuned_is_the_choice_of_tune_detector(rng):
    X, weight = features(rng, 400)
    inputs = MethodInputs((weight, np.zeros(6)))
    detector, clip, extra = choose(inputs, X)
    tuned = tune_detector(ReActDetector(inputs.head), X)
    np.testing.assert_array_equal(
        detector.score_samples(X), tuned.best_estimator_.score_samples(X)
    )
    name = tuned.best_params_["score_function"]
    assert f"score_function='{name}'" in extra["remark"]
    assert extra["left_out"]["tuned"] == tuned.best_score_
    assert extra["left_out"]["energy+react@90"] == tuned.own_score_
    assert set(extra["left_out"]) == {"tuned", "msp", "energy", "energy+react@90"}
    unclipped = tuned.best_params_["percentile"] is None
    assert (clip is None) == unclipped


def test_the_groups_of_all_methods():
    names = [method.text for method in parse_methods("all")]
    for group, members in GROUPS.items():
        rest = {m for m in members if "@" not in m}
        assert rest <= set(names), group
    assert [n for n in names if "odin" in n] == ["odin", "odin+react"]
    assert not any("odin" in n for n in GROUPS["features"])
    with pytest.raises(ValueError, match=r"no method 'tuned\+react'"):
        parse_methods("tuned+react")


def test_the_check_of_fit_is_in_the_report(tmp_path, monkeypatch):
    warning = "score_function='energy' with percentile=90.0 detects badly, and may rank"
    fit = ReActDetector.fit

    def fit_and_warn(self, X, y=None):
        if self.check_score:
            warnings.warn(warning, UserWarning, stacklevel=2)
        return fit(self, X, y)

    monkeypatch.setattr(ReActDetector, "fit", fit_and_warn)
    run(
        *("digits", "--limit", 30, "--out", tmp_path, "--methods", "energy,knn"),
        *("--bootstrap", 0),
    )
    energy, knn = result_of(tmp_path)["methods"]
    assert energy["remark"] == (
        "fit warns: score_function='energy' with percentile=90.0 detects badly."
    )
    assert "remark" not in knn and "auroc_low" not in energy["mean"]


@pytest.mark.filterwarnings("ignore:The choice rests on 120 rows")
def test_the_table_of_the_documentation(tmp_path):
    run(
        *("digits", "--limit", 120, "--out", tmp_path, "--bootstrap", 20),
        *("--methods", "msp,energy,energy+react,tuned"),
    )
    result = result_of(tmp_path)
    first, *rows = table_of(tmp_path)
    assert first == [
        *("network", "OOD images", "MSP", "Energy", "ReAct at 90"),
        *("chosen without OOD data", "best rule"),
    ]
    assert [row[:2] for row in rows] == [
        ["tiny", cell["ood"]] for cell in result["methods"][0]["ood"]
    ]
    msp = result["methods"][0]["ood"][2]
    lines = rows[2][2].splitlines()
    for line, key in zip(lines, ("auroc", "fpr95"), strict=True):
        low, high = msp[f"{key}_low"], msp[f"{key}_high"]
        assert line == f"| {100 * msp[key]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    chosen = result["methods"][3]["remark"]
    score = rows[0][5].splitlines()[-1].removeprefix("| ").split(",")[0]
    assert f"score_function='{score.replace(' ', '_')}'" in chosen
    best = max(m["ood"][0]["auroc"] for m in result["methods"])
    assert rows[0][6].startswith(f"| {100 * best:.1f} [")
