"""The suites: a model, ID images to learn from, and ID and OOD images to test on."""

import os
from pathlib import Path

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_digits

from reactood._cli.benchmark import _fashion as fashion
from reactood._cli.benchmark import _files as files
from reactood._cli.benchmark import _models as models
from reactood._cli.benchmark import _samples as samples
from reactood._cli.benchmark._files import Absent
from reactood._cli.benchmark._tasks import (
    Task,
    data_folder,
    found_sets,
    image_folder,
    take,
)
from reactood._images._preparation import list_folder
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.datasets._digits import photo_tiles

OFFICIAL_IMAGES = 2025  # the paper's script computes the percentile from these
TRAINING_IMAGES = 10_000  # to learn from, if there are training images
CURATED = (
    "A subset of 10,000 images by the authors of MOS: "
    "http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/{}.tar.gz"
)
DTD = "Describable Textures: https://www.robots.ox.ac.uk/~vgg/data/dtd/"
DROPBOX = "From the authors of ODIN: https://www.dropbox.com/s/{}.tar.gz"


# --------------------------------------------------------------------------------------


def digits(request):
    """Return the embedded example, which needs no data folder."""
    data = load_digits_ood()
    return Task(
        suite="digits",
        model=digits_classifier,
        model_name="digits_classifier",
        calibration=data.X_train,
        calibration_classes=data.y_train,
        test=data.X_test,
        test_classes=data.y_test,
        ood=data.ood,
        noise=(0.01, 0.01),
        notes=[
            "The network was picked because ReAct helps with it; "
            "load_digits_ood().DESCR says how.",
            "Detectors learn from the images that it was trained on.",
        ],
    )


def imagenet(request):
    """Return ILSVRC-2012 against the four sets of the paper's main table."""
    data = data_folder(request)
    notes: list[str] = []
    val = files.find(
        data,
        (
            "id_data/ILSVRC-2012/val",
            "id_data/imagenet/val",
            "imagenet/val",
            "ILSVRC-2012/val",
            "val",
        ),
        get="The validation images of ILSVRC-2012, sorted into a folder for each "
        "class: https://image-net.org/download.php",
    )
    paths, classes = files.list_classes(val)
    if len(np.unique(classes)) != 1000:
        raise Absent(f"{val} holds {len(np.unique(classes))} classes, expected 1000.")
    roots = ("ood_data/{0}", "{0}")

    def curated(name):
        names = [root.format(name) for root in roots]
        return image_folder(data, names, CURATED.format(name))

    ood = found_sets(
        {
            "iNaturalist": curated("iNaturalist"),
            "SUN": curated("SUN"),
            "Places": curated("Places"),
            "Textures": image_folder(
                data, [root.format("dtd/images") for root in roots], DTD
            ),
        },
        notes,
    )
    name = request.model or "resnet50"
    model = models.parse_model(name, n_classes=1000)
    task = Task(
        suite="imagenet",
        model=model,
        model_name=name,
        weights="IMAGENET1K_V1",
        calibration=None,
        test=paths,
        test_classes=classes,
        ood=ood,
        published={"resnet50": "ResNet-50", "mobilenet_v2": "MobileNet-v2"}.get(name),
        noise={"mobilenet_v2": (0.03, 0.04)}.get(name, (0.005, 0.0)),
        notes=notes,
    )
    task.preprocess = models.imagenet_transform(model, request)
    _split_imagenet(task, val, request)
    return task


def _split_imagenet(task, val, request):
    """Choose the images to learn from, according to the protocol."""
    paths, classes = task.test, task.test_classes
    if request.protocol != "clean":
        generator = torch.Generator().manual_seed(1)
        rows = torch.randperm(len(paths), generator=generator)[:OFFICIAL_IMAGES].numpy()
        task.notes.append(
            f"As in the paper's code, detectors learn from {len(rows)} of the images "
            "that they are judged on (shuffled with seed 1)."
        )
        if request.protocol == "official":
            task.threshold = {"mobilenet_v2": 1.3}.get(task.model_name, 1.0)
            task.notes.append(f"The clip is given: {task.threshold}.")
    else:
        rng = np.random.default_rng(request.seed)
        train = val.parent / "train"
        if train.is_dir():
            source, labels = files.list_classes(train)
            rows = np.sort(rng.permutation(len(source))[:TRAINING_IMAGES])
            task.calibration, task.calibration_classes = (
                take(source, rows),
                labels[rows],
            )
            task.notes.append(f"Detectors learn from {len(rows)} training images.")
            return
        order = rng.permutation(len(paths))
        rows, rest = np.sort(order[:OFFICIAL_IMAGES]), np.sort(order[OFFICIAL_IMAGES:])
        task.test, task.test_classes = take(paths, rest), classes[rest]
        task.notes.append(
            f"{train} is absent, so {len(rows)} validation images are held out to "
            "learn from, and not judged on."
        )
    task.calibration, task.calibration_classes = take(paths, rows), classes[rows]


def imagenet_sample(request):
    """Return 1,000 photos, one per class, against textures."""
    data = data_folder(request)
    notes: list[str] = []
    get = "Photos in imagenet-sample/CLASS/, textures in textures/."
    photos, classes = files.list_classes(files.find(data, ["imagenet-sample"], get=get))
    textures = list_folder(files.find(data, ["textures"], get=get))
    if not request.model:  # no default: code in the data folder runs only on request
        raise Absent(
            "imagenet-sample needs a model trained on ImageNet: --model NAME, such as "
            "resnet50, or --model FILE.py:FUNCTION."
        )
    model = models.parse_model(request.model, n_classes=1000)
    notes.append("Every second photo is for learning; there is one photo per class.")
    return Task(
        suite="imagenet-sample",
        model=model,
        model_name=request.model,
        preprocess=models.imagenet_transform(model, request),
        calibration=photos[::2],
        calibration_classes=classes[::2],
        test=photos[1::2],
        test_classes=classes[1::2],
        ood={"textures": textures},
        notes=notes,
    )


def cifar10(request):
    """Return CIFAR-10 against six sets."""
    return _cifar(request, torchvision.datasets.CIFAR10, "cifar10", 10)


def cifar100(request):
    """Return CIFAR-100 against six sets."""
    return _cifar(request, torchvision.datasets.CIFAR100, "cifar100", 100)


def _cifar(request, dataset, suite, n_classes):
    data = data_folder(request)
    notes: list[str] = []
    if not request.model:
        raise Absent(
            f"{suite} needs a model trained on it: --model resnet18=FILE or --model "
            "densenet100=FILE with a checkpoint, or --model FILE.py:FUNCTION."
        )
    model = models.parse_model(request.model, n_classes=n_classes, cifar=True)
    try:
        train, test = (
            dataset(os.fspath(data), train=train, download=True)
            for train in (True, False)
        )
    except (OSError, RuntimeError) as error:
        raise Absent(
            f"{suite} is not in {os.fspath(data)} and cannot be downloaded ({error}). "
            "https://www.cs.toronto.edu/~kriz/cifar.html"
        ) from error

    def folder(names, get):
        return image_folder(
            data, [f"{root}{n}" for n in names for root in ("ood_data/", "")], get
        )

    def svhn():
        names = "selected_test_32x32.mat", "test_32x32.mat"
        roots = "ood_data/svhn/", "svhn/", ""
        get = "http://ufldl.stanford.edu/housenumbers/test_32x32.mat"
        paths = [root + name for name in names for root in roots]
        return files.read_svhn(files.find(data, paths, get=get))

    ood = found_sets(
        {
            "SVHN": svhn,
            "LSUN-crop": folder(["LSUN"], DROPBOX.format("fhtsw1m3qxlwj6h/LSUN")),
            "LSUN-resize": folder(
                ["LSUN_resize"], DROPBOX.format("moqh2wh8696c3yl/LSUN_resize")
            ),
            "iSUN": folder(["iSUN"], DROPBOX.format("ssz7qxfqae0cca5/iSUN")),
            "Textures": folder(["dtd/images"], DTD),
            "Places365": folder(
                ["places365", "places365/test_subset"],
                "http://data.csail.mit.edu/places/places365/test_256.tar",
            ),
        },
        notes,
    )
    rows = np.random.default_rng(request.seed).permutation(len(train))
    rows = np.sort(rows[:TRAINING_IMAGES])
    notes.append(f"Detectors learn from {len(rows)} training images.")
    return Task(
        suite=suite,
        model=model,
        model_name=request.model,
        preprocess=models.cifar_transform(request),
        calibration=np.asarray(train.data)[rows],
        calibration_classes=np.asarray(train.targets)[rows],
        test=np.asarray(test.data),
        test_classes=np.asarray(test.targets),
        ood=ood,
        noise=(0.01, 0.07) if n_classes == 10 else (0.04, 0.04),
        notes=notes,
    )


def fashion_mnist(request):
    """Return clothes against digits and photos, with a network that is trained here."""
    data = data_folder(request)
    notes: list[str] = []
    get = "https://github.com/zalandoresearch/fashion-mnist"
    X, y = _read_mnist(data, ("fashion-mnist", "FashionMNIST/raw", "."), "train", get)
    X_test, y_test = _read_mnist(
        data, ("fashion-mnist", "FashionMNIST/raw", "."), "t10k", get
    )

    def mnist():
        folders = "mnist", "MNIST/raw"
        get = "http://yann.lecun.com/exdb/mnist/ or torchvision.datasets.MNIST"
        return _read_mnist(data, folders, "t10k", get)[0]

    ood = found_sets(
        {
            "mnist": mnist,
            "digits": lambda: _enlarged(load_digits().images / 16),
            "photos": _photos,
        },
        notes,
    )
    name = request.model or "resnet-batch"
    if name.removeprefix("resnet-") in fashion.NORMS:
        out = Path(request.out)
        out.mkdir(parents=True, exist_ok=True)
        norm = name.removeprefix("resnet-")
        file = out / f"fashion-{name}-seed{request.seed}.pt"
        if request.verbose:
            print(f"training {name}, unless it is in {out}", flush=True)
        fashion.train(
            X, y, norm=norm, seed=request.seed, file=file, verbose=request.progress
        )
        model = fashion.loader(file)
        notes.append(
            f"{name} was trained here, on all 60,000 training images, for "
            f"{fashion.EPOCHS} epochs (seed {request.seed})."
        )
    else:
        model = models.parse_model(name, n_classes=10)
    rows = np.sort(
        np.random.default_rng(request.seed).permutation(len(X))[:TRAINING_IMAGES]
    )
    notes.append(
        f"Detectors learn from {len(rows)} of the images that the network was trained "
        "on."
    )
    return Task(
        suite="fashion-mnist",
        model=model,
        model_name=name,
        calibration=_as_input(X[rows]),
        calibration_classes=y[rows].astype(np.int64),
        test=_as_input(X_test),
        test_classes=y_test.astype(np.int64),
        ood={name: _as_input(images) for name, images in ood.items()},
        notes=notes,
    )


def _read_mnist(data, folders, part, get):
    found = []
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        names = [f"{f}/{part}-{what}{end}" for f in folders for end in (".gz", "")]
        try:
            found.append(files.read_idx(files.find(data, names, get=get)))
        except Absent:
            if what.startswith("images"):
                raise
            found.append(None)  # OOD images need no labels
    return found


def _as_input(images):
    return (images.astype(np.float32) / 255)[:, None]


def _enlarged(images):
    """Return grey images in [0, 1] as uint8 of 28 x 28."""
    tensor = torch.from_numpy(images.astype(np.float32))[:, None]
    big = torch.nn.functional.interpolate(tensor, (28, 28), mode="bilinear")
    return big[:, 0].mul(255).round().clamp(0, 255).byte().numpy()


def _photos():
    parts = [photo_tiles(name, 28, (1, 2)) for name in ("china.jpg", "flower.jpg")]
    return np.rint(255 * np.concatenate(parts)).astype(np.uint8)


SUITES = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "imagenet-sample": imagenet_sample,
    "imagenet-val": samples.imagenet_val,
    "cifar10-sample": samples.cifar10_sample,
    "own": samples.own,
    "imagenet": imagenet,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
