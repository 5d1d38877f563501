"""The command ``benchmark``: its suites on small folders of the public layouts."""

import csv
import gzip
import io
import json
import pickle
import re

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from reactood import TorchFeatureExtractor
from reactood.__main__ import main
from reactood._cli.benchmark import _fashion as fashion
from reactood._cli.benchmark import _models as models
from reactood._cli.benchmark import _published as published
from reactood._cli.benchmark import _report as report
from reactood._cli.benchmark import _suites as suites
from reactood._cli.benchmark._files import Absent, list_classes, read_idx
from reactood._cli.benchmark._methods import GROUPS, MethodInputs, parse_methods
from reactood._cli.benchmark._tasks import Request
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import fpr_at_tpr

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

def build():
    torch.manual_seed(0)
    return Net({n_classes})
"""


def write_images(folder, n, rng, size=(40, 40)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


def write_net(tmp_path, n_classes):
    file = tmp_path / "net.py"
    file.write_text(NET.replace("{n_classes}", str(n_classes)))
    return f"{file}:build"


def run(capsys, *arguments):
    main(["benchmark", *map(str, arguments), "--quiet"])
    return capsys.readouterr().out


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_digits_agree_with_a_few_lines(tmp_path, capsys):
    text = run(
        capsys, "digits", "--out", tmp_path, "--methods", "energy,energy+react@85"
    )
    data = load_digits_ood()
    extractor = TorchFeatureExtractor(digits_classifier)
    H, T = extractor.fit_transform(data.X_train), extractor.transform(data.X_test)
    weight, bias = extractor.head_
    c = np.percentile(H, 85)
    result = json.loads((tmp_path / "report.json").read_text())
    assert [method["method"] for method in result["methods"]] == [
        "energy",
        "energy+react@85",
    ]
    assert result["methods"][1]["clip"] == pytest.approx(c)
    for method, clip in zip(result["methods"], (np.inf, c), strict=True):
        for cell in method["ood"]:
            X = np.concatenate([T, extractor.transform(data.ood[cell["ood"]])])
            logits = np.minimum(X, clip) @ weight.T + bias
            scores = np.log(np.exp(logits.astype(float)).sum(axis=1))
            y = np.repeat([1, -1], [len(T), len(X) - len(T)])
            assert cell["auroc"] == pytest.approx(roc_auc_score(y, scores), abs=1e-4)
            assert cell["fpr95"] == pytest.approx(fpr_at_tpr(y, scores), abs=0.004)
        logits = np.minimum(T, clip) @ weight.T + bias
        right = np.mean(logits.argmax(axis=1) == data.y_test)
        assert method["accuracy"] == pytest.approx(right, abs=1e-6)
        for key in ("fpr95", "auroc"):
            mean = np.mean([cell[key] for cell in method["ood"]])
            assert method["mean"][key] == pytest.approx(mean)
    auroc = 100 * result["methods"][1]["mean"]["auroc"]
    assert re.search(rf"energy\+react@85 .* / {auroc:.1f} ", text)
    assert result["command"].startswith("python -m reactood benchmark digits")
    assert set(result["versions"]) >= {"torch", "reactood", "python"}


def test_every_form_of_the_report(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    text = run(
        capsys, "digits", "--out", tmp_path, "--methods", "energy,energy+react@1"
    )
    assert "Traceback" not in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "energy+react@1: percentile=1" in page.replace("\n", " ")
    with open(tmp_path / "report.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["ood"] for row in rows[:6]][-2:] == ["symbols", "mean"]
    assert rows[0]["n"] == "354" and rows[5]["n"] == ""
    assert "expected" in rows[6]["error"] or "clip" in rows[6]["error"]
    assert 0 < float(rows[0]["fpr95"]) < 1
    assert (tmp_path / "report.txt").read_text() in text + "\n"


def test_all_methods_run(tmp_path, capsys):
    groups = "compatibility,variants,shaping,react-layer:features.2"
    run(capsys, "digits", "--out", tmp_path, "--limit", 60, "--methods", groups)
    result = json.loads((tmp_path / "report.json").read_text())
    assert not [method for method in result["methods"] if "error" in method]
    assert len(result["methods"]) > 20
    assert max(result["counts"].values()) == 60
    assert any("At most 60" in note for note in result["notes"])
    by_name = {method["method"]: method for method in result["methods"]}
    assert by_name["dice+react"]["clip"] == by_name["energy+react"]["clip"]
    assert by_name["react-layer:features.2"]["mean"] != by_name["energy"]["mean"]
    # Features that come from a ReLU: nothing for a lower clip to do.
    assert by_name["react-two-sided"]["mean"] == by_name["energy+react"]["mean"]
    assert "one-sided" in by_name["react-two-sided"]["remark"]
    assert "react-two-sided: no activation" in (tmp_path / "report.txt").read_text()


def test_it_says_what_it_does(tmp_path, capsys):
    arguments = "digits", "--limit", "20", "--out", str(tmp_path), "--methods", "odin"
    main(["benchmark", *arguments])
    text = capsys.readouterr().out
    for line in ("ID judged: 20 images", "odin", "  OOD letters"):
        assert f"\n{line}\n" in text
    assert "ID judged: 20 images\n" not in run(capsys, *arguments)


def test_a_second_run_computes_nothing_again(tmp_path, capsys, monkeypatch):
    arguments = "digits", "--out", tmp_path, "--methods", "energy,odin,odin+react"
    first = run(capsys, *arguments)
    passed = []

    def count(module, inputs, output):
        if isinstance(module, nn.Linear):
            passed.append(len(output))

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("reactood.baselines._odin._Perturbing.__call__", refuse)
    monkeypatch.setattr("reactood._networks._forward.Forward.__call__", refuse)
    # A hook of all modules: a layer with another `forward` would be another model.
    hook = register_module_forward_hook(count)
    try:
        second = run(capsys, *arguments)
    finally:
        hook.remove()
    assert sum(passed) < 100  # the proof of the head, no more
    assert first.split("Features took")[0] == second.split("Features took")[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("enregy", "no method 'enregy'"),
        ("bats+react", "no method 'bats\\+react'"),
        ("energy@90", "after a method that clips"),
        ("energy+react@0", "expected a percentile"),
        ("energy+react@x", "expected a percentile"),
        ("react-layer:", "no method"),
        (",", "names no method"),
    ],
)
def test_methods_that_are_none(text, says):
    with pytest.raises(ValueError, match=says):
        parse_methods(text)


def test_methods_come_once_and_in_order():
    names = [method.text for method in parse_methods("energy, paper,energy+react@80")]
    assert names == [
        "energy",
        "msp",
        "odin",
        "mahalanobis",
        "energy+react",
        "energy+react@80",
    ]
    for group in GROUPS:
        assert len(parse_methods(group)) == len(GROUPS[group])


def test_a_given_threshold_yields_to_a_percentile_of_its_own(rng):
    inputs = MethodInputs((np.ones((2, 3)), np.zeros(2)), 90.0, threshold=0.4)
    given, own = parse_methods("energy+react,energy+react@50")
    assert given.make(inputs).get_params()["threshold"] == 0.4
    X = rng.random((20, 3))
    detector = own.make(inputs).fit(X)
    assert detector.activation_threshold_ == pytest.approx(np.median(X), rel=1e-5)


def test_published_rows_have_the_papers_means():
    means = {
        ("ResNet-50", "msp"): (66.95, 81.99),
        ("ResNet-50", "odin"): (56.48, 85.41),
        ("ResNet-50", "mahalanobis"): (87.43, 55.47),
        ("ResNet-50", "energy"): (58.41, 86.17),
        ("ResNet-50", "energy+react"): (31.43, 92.95),
        ("MobileNet-v2", "msp"): (73.51, 79.00),
        ("MobileNet-v2", "odin"): (54.20, 85.81),
        ("MobileNet-v2", "mahalanobis"): (63.60, 71.01),
        ("MobileNet-v2", "energy"): (62.39, 84.91),
        ("MobileNet-v2", "energy+react"): (45.02, 89.47),
    }
    rows = {(m, k): v for m, of in published.ROWS.items() for k, v in of.items()}
    assert rows.keys() == means.keys()
    for key, mean in means.items():
        np.testing.assert_allclose(np.mean(rows[key], axis=0), mean, atol=0.011)
    assert published.published("ResNet-50", "energy", "LSUN") is None
    assert published.published(None, "energy", "SUN") is None


# -------------------------------------------------------------------------- the suites


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A folder as the paper's code wants it, of small pictures."""
    rng = np.random.default_rng(1)
    data = tmp_path_factory.mktemp("datasets")
    for i in range(1000):
        write_images(data / f"id_data/ILSVRC-2012/val/n{i:08}", 3, rng, (8, 8))
    for name in ("iNaturalist/images", "SUN/images", "Places/images", "dtd/images/a"):
        write_images(data / "ood_data" / name, 6, rng)
    return data


def test_imagenet_protocols(imagenet, tmp_path):
    request = Request(data=imagenet, model="resnet50")
    clean = suites.imagenet(request)
    assert len(clean.calibration) == 2025 and len(clean.test) == 3000 - 2025
    assert not set(clean.calibration) & set(clean.test)
    assert list(clean.ood) == ["iNaturalist", "SUN", "Places", "Textures"]
    assert clean.published == "ResNet-50" and clean.threshold is None
    assert clean.weights == "IMAGENET1K_V1"
    folders = [path.parent.name for path in clean.test]
    assert [f"n{i:08}" for i in clean.test_classes] == folders
    official = suites.imagenet(
        Request(data=imagenet, model="mobilenet_v2", protocol="official")
    )
    assert official.threshold == 1.3 and len(official.test) == 3000
    assert len(official.calibration) == 2025
    assert set(official.calibration) <= set(official.test)
    assert official.noise == (0.03, 0.04)
    learned = suites.imagenet(Request(data=imagenet, protocol="official-percentile"))
    assert learned.threshold is None
    assert learned.calibration == official.calibration


def test_imagenet_learns_from_training_images_where_there_are_some(imagenet, rng):
    train = imagenet / "id_data/ILSVRC-2012/train"
    write_images(train / "n00000000", 4, rng)
    try:
        task = suites.imagenet(Request(data=imagenet))
    finally:
        for path in train.rglob("*.png"):
            path.unlink()
        (train / "n00000000").rmdir()
        train.rmdir()
    assert len(task.calibration) == 4 and len(task.test) == 3000


def test_imagenet_from_the_command_line(imagenet, tmp_path, capsys):
    text = run(
        capsys,
        "imagenet",
        *("--data", imagenet, "--model", write_net(tmp_path, 1000)),
        *("--limit", 30, "--methods", "energy,energy+react", "--out", tmp_path / "out"),
    )
    assert "iNaturalist" in text and "published" not in text.split("\n\n")[0]


def test_published_rows_stand_below_ours(imagenet, tmp_path, capsys, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(suites.models, "parse_model", lambda *a, **k: lambda: net)
    run(
        capsys,
        "imagenet",
        *("--data", imagenet, "--model", "resnet50", "--limit", 4),
        *("--methods", "energy,energy+react@80", "--out", tmp_path),
    )
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert lines[1].startswith("energy ") and lines[2].split() == (
        "published 55.7 / 90.0 59.3 / 85.9 64.9 / 82.9 53.7 / 86.0 58.4 / 86.2".split()
    )
    assert lines[3].startswith("energy+react@80") and "published" not in lines[4]


def test_absent_folders_are_named_with_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv("REACTOOD_DATA", raising=False)  # the default of --data
    with pytest.raises(SystemExit, match=r"(?s)ILSVRC.* is not in .*image-net\.org"):
        main(["benchmark", "imagenet", "--data", str(tmp_path)])
    for name in ("imagenet", "cifar10", "fashion-mnist"):
        with pytest.raises(SystemExit, match="There is no folder"):
            main(["benchmark", name, "--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="--data DIR"):
        main(["benchmark", "imagenet"])
    with pytest.raises(SystemExit, match="no method"):
        main(["benchmark", "digits", "--methods", "recat"])


def test_some_ood_sets_are_enough(imagenet, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "val").symlink_to(imagenet / "id_data/ILSVRC-2012/val")
    with pytest.raises(Absent, match=r"(?s)No OOD set.*iNaturalist.*huangrui.*dtd"):
        suites.imagenet(Request(data=data))
    (data / "SUN").symlink_to(imagenet / "ood_data/SUN")
    task = suites.imagenet(Request(data=data))
    assert list(task.ood) == ["SUN"]
    assert sum(note.startswith("Left out, ") for note in task.notes) == 3


def write_cifar(data, monkeypatch, rng, n_classes):
    """Write the layout of CIFAR, and have torchvision take its checksums."""
    dataset = getattr(torchvision.datasets, f"CIFAR{n_classes}")
    folder = data / dataset.base_folder
    folder.mkdir(parents=True)
    key = "labels" if n_classes == 10 else "fine_labels"

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        checksum = torchvision.datasets.utils.calculate_md5(folder / name)
        return name, checksum

    def part(name, n):
        pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        classes = rng.integers(0, n_classes, n).tolist()
        return [list(write(name, {"data": pixels, key: classes}))]

    monkeypatch.setattr(dataset, "train_list", part("train", 50))
    monkeypatch.setattr(dataset, "test_list", part("test", 30))
    names = {"label_names": list("ab"), "fine_label_names": list("ab")}
    name, checksum = write("meta", names)
    meta = dataset.meta | {"filename": name, "md5": checksum}
    monkeypatch.setattr(dataset, "meta", meta)


@pytest.mark.parametrize("n_classes", [10, 100])
def test_cifar(tmp_path, capsys, monkeypatch, rng, n_classes):
    data = tmp_path / "data"
    write_cifar(data, monkeypatch, rng, n_classes)
    for name in ("LSUN/test", "LSUN_resize", "iSUN", "dtd/images/x", "places365"):
        write_images(data / "ood_data" / name, 5, rng)
    (data / "ood_data/svhn").mkdir()
    street = rng.integers(0, 256, (32, 32, 3, 7), dtype=np.uint8)
    savemat(data / "ood_data/svhn/selected_test_32x32.mat", {"X": street})
    text = run(
        capsys,
        f"cifar{n_classes}",
        *("--data", data, "--model", write_net(tmp_path, n_classes)),
        *("--methods", "paper", "--out", tmp_path / "out"),
    )
    result = json.loads((tmp_path / "out/report.json").read_text())
    sizes = {"SVHN": 7, "LSUN-crop": 5, "LSUN-resize": 5, "iSUN": 5, "Textures": 5}
    for name, n in sizes.items():
        assert result["counts"][f"OOD {name}"] == n
    assert result["counts"]["ID judged"] == 30
    assert "error" not in text
    read = suites.files.read_svhn(data / "ood_data/svhn/selected_test_32x32.mat")
    np.testing.assert_array_equal(read[3], street[..., 3])


def test_cifar_without_a_model_or_data(tmp_path):
    with pytest.raises(Absent, match="resnet18=FILE"):
        suites.cifar10(Request(data=tmp_path))
    with pytest.raises(ValueError, match="no trained weights"):
        suites.cifar10(Request(data=tmp_path, model="resnet18"))


@pytest.mark.parametrize("name", models.CIFAR)
def test_cifar_checkpoints(tmp_path, name):
    build, _ = models.CIFAR[name]
    net = build(10)
    file = tmp_path / "net.pt"
    torch.save({"state_dict": net.state_dict()}, file)
    loaded = models.parse_model(f"{name}={file}", n_classes=10, cifar=True)()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), net(x))
    width = {"resnet18": 512, "densenet100": 342}[name]
    assert next(iter(reversed([*net.modules()]))).in_features == width
    torch.save({"fc.weight": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="only in one of the two"):
        models.parse_model(f"{name}={file}", n_classes=10, cifar=True)()


def test_names_of_other_checkpoints_are_understood():
    renamed = {
        "module.block2.layer.3.conv1.weight": (
            "features.denseblock2.denselayer4.conv1.weight"
        ),
        "trans1.bn1.bias": "features.transition1.norm.bias",
        "bn1.weight": "features.norm5.weight",
        "fc.bias": "classifier.bias",
    }
    for theirs, ours in renamed.items():
        assert models._renamed(theirs, models.DENSENET_NAMES) == ours
    names = models.RESNET_NAMES
    assert models._renamed("layer2.0.shortcut.0.weight", names) == (
        "layer2.0.downsample.0.weight"
    )
    assert models._renamed("linear.bias", names) == "fc.bias"


def test_models_that_are_none(tmp_path):
    net = write_net(tmp_path, 4)
    with pytest.raises(ValueError, match="has no function 'make'"):
        models.parse_model(net.replace(":build", ":make"), n_classes=4)
    with pytest.raises(ValueError, match="no file"):
        models.parse_model("nowhere.py:build", n_classes=4)
    with pytest.raises(ValueError, match=r"no file 'x\.pt'"):
        models.parse_model("resnet18=x.pt", n_classes=4)
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="not a known architecture"):
        models.parse_model(f"vgg={tmp_path / 'w.pt'}", n_classes=4, cifar=True)
    assert models.parse_model("timm/resnet10t", n_classes=1000) == "timm/resnet10t"
    assert isinstance(models.parse_model(net, n_classes=4)(), nn.Module)


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(folder, rng, end=".gz"):
    for part, n in (("train", 300), ("t10k", 40)):
        images = rng.integers(0, 256, (n, 28, 28))
        write_idx(folder / f"{part}-images-idx3-ubyte{end}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{end}", np.arange(n) % 10)


@pytest.mark.parametrize("where", ["fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist(tmp_path, capsys, monkeypatch, rng, where):
    monkeypatch.setattr(fashion, "EPOCHS", 1)
    write_fashion(tmp_path / where, rng, end=".gz" if where[0] == "f" else "")
    out = tmp_path / "out"
    text = run(capsys, "fashion-mnist", "--data", tmp_path, "--out", out)
    result = json.loads((out / "report.json").read_text())
    assert result["counts"]["ID judged"] == 40
    assert result["counts"]["OOD digits"] == 1797
    assert "OOD mnist" not in result["counts"] and "Left out, mnist" in text
    write_idx(tmp_path / "mnist/t10k-images-idx3-ubyte.gz", np.zeros((9, 28, 28)))
    run(capsys, "fashion-mnist", "--data", tmp_path, "--out", out)
    again = json.loads((out / "report.json").read_text())
    assert again["counts"]["OOD mnist"] == 9
    assert again["id_accuracy"] == result["id_accuracy"]  # not trained again


@pytest.mark.parametrize("norm", fashion.NORMS)
def test_training_goes_on_where_it_was_killed(tmp_path, monkeypatch, rng, norm):
    X = rng.integers(0, 256, (256, 28, 28), dtype=np.uint8)
    y = np.arange(256) % 10
    whole = fashion.train(X, y, norm=norm, epochs=2)
    file = tmp_path / "net.pt"
    keep = fashion._keep

    def killed(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fashion, "_keep", killed)
        fashion.train(X, y, norm=norm, epochs=2, file=file)
    fashion.train(X, y, norm=norm, epochs=2, file=file)
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(fashion.loader(file)()(x), whole(x))
    other = fashion.train(X, y, norm=norm, epochs=2, seed=1, file=file)
    assert not torch.equal(other(x), whole(x))


def test_a_trained_network_knows_clothes(real_data):
    folder = real_data / "fashion-mnist"
    X = read_idx(folder / "train-images-idx3-ubyte.gz")[:5000]
    y = read_idx(folder / "train-labels-idx1-ubyte.gz")[:5000]
    net = fashion.train(X[:4000], y[:4000], epochs=2)
    with torch.no_grad():
        found = net(torch.from_numpy(X[4000:].copy())[:, None] / 255).argmax(dim=1)
    assert (found.numpy() == y[4000:]).mean() > 0.5


def test_idx_files_that_are_none(tmp_path):
    (tmp_path / "a").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="expected an IDX file"):
        read_idx(tmp_path / "a")
    write_idx(tmp_path / "b", np.zeros((3, 4, 4)))
    whole = (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"47 bytes, .* 3 x 4 x 4"):
        read_idx(tmp_path / "b")


def test_folders_of_classes(tmp_path, rng):
    write_images(tmp_path / "b", 2, rng)
    write_images(tmp_path / "a", 1, rng)
    paths, classes = list_classes(tmp_path)
    assert [path.parent.name for path in paths] == ["a", "b", "b"]
    np.testing.assert_array_equal(classes, [0, 1, 1])
    with pytest.raises(Absent, match="holds no folders"):
        list_classes(tmp_path / "a")


def test_real_photos(real_data, tmp_path, capsys):
    """A few real photos and textures: the clip helps."""
    run(
        capsys,
        "imagenet-sample",
        *("--model", f"{real_data / 'mobilenet_v2.py'}:load"),
        *("--preprocess", f"{real_data / 'mobilenet_v2.py'}:preprocess"),
        *("--data", real_data, "--limit", 60, "--out", tmp_path),
        *("--methods", "energy,energy+react"),
    )
    result = json.loads((tmp_path / "report.json").read_text())
    without, clipped = (method["mean"]["auroc"] for method in result["methods"])
    assert clipped > without


def test_no_code_of_the_data_folder_is_run_unasked(tmp_path, rng):
    write_images(tmp_path / "imagenet-sample/a", 2, rng)
    write_images(tmp_path / "textures", 2, rng)
    for name in ("mobilenet_v2.py", "sitecustomize.py", "model.py"):
        (tmp_path / name).write_text("raise SystemExit('this code was run')")
    with pytest.raises(Absent, match="--model"):
        suites.imagenet_sample(Request(data=tmp_path))
    named = Request(data=tmp_path, model="resnet18")
    assert suites.imagenet_sample(named).preprocess == "auto"


def test_a_transform_of_the_users_file(tmp_path, rng):
    write_images(tmp_path / "imagenet-sample/a", 2, rng)
    write_images(tmp_path / "textures", 2, rng)
    file = tmp_path / "mine.py"
    file.write_text("def transform(): return abs\ndef nothing(): pass\n")

    def request(function):
        return Request(data=tmp_path, model="resnet18", preprocess=f"{file}:{function}")

    assert suites.imagenet_sample(request("transform")).preprocess is abs
    with pytest.raises(ValueError, match="returned a NoneType, expected a transform"):
        suites.imagenet_sample(request("nothing"))
    with pytest.raises(ValueError, match=r"expected FILE\.py:FUNCTION"):
        models.parse_transform("transform")


def test_a_spreadsheet_runs_nothing_of_the_report(tmp_path, capsys):
    run(capsys, "digits", "--out", tmp_path, "--limit", 60, "--methods", "msp")
    result = json.loads((tmp_path / "report.json").read_text())
    (method,) = result["methods"]
    for start in ["=", "+", "-", "@", "\t=", "\r\n-", " ="]:
        result["model"] = f"{start}HYPERLINK(1)"
        method["ood"][0]["ood"] = f"{start}1+1"
        text = report.as_csv(result)
        first = next(csv.DictReader(io.StringIO(text, newline="")))
        assert first["model"] == f"'{start.strip()}HYPERLINK(1)"
        assert first["ood"] == f"'{start.strip()}1+1"
        assert float(first["fpr95"]) == method["ood"][0]["fpr95"]


def test_a_detector_that_cannot_learn_leaves_the_others(tmp_path, capsys):
    run(
        capsys,
        *("digits", "--out", tmp_path, "--methods", "energy+react@2,energy"),
    )
    bad, good = json.loads((tmp_path / "report.json").read_text())["methods"]
    assert "error" in bad and "mean" in good
