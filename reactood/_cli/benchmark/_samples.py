"""Suites of photos in folders: ImageNet validation, small CIFAR, and the user's own.

No network was trained on the in-distribution (ID) images. One random half is to learn
from, the other half is evaluated.
"""

import io
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2 as transforms

from reactood._cli.benchmark import _files as files
from reactood._cli.benchmark import _models as models
from reactood._cli.benchmark._files import Absent
from reactood._cli.benchmark._tasks import (
    Task,
    data_folder,
    found_sets,
    image_folder,
    take,
)
from reactood._images._preparation import list_folder

SIDE = 32  # pixels of a CIFAR image
QUALITY = 75


# ------------------------------------------------------------------ ImageNet, and yours


def imagenet_val(request):
    """Return validation photos of ImageNet against textures, flowers, or your sets."""
    notes: list[str] = []
    model = _model_of(request, "imagenet-val", "a model trained on ImageNet", 1000)
    if request.id_folder:
        photos = Path(request.id_folder)
    else:
        get = "Validation photos of ILSVRC-2012: https://image-net.org/download.php"
        photos = files.find(data_folder(request), ["imagenet-val"], get=get)
    ood = _ood_of(request, notes, ["textures", "flowers"])
    paths, classes = files.list_classes(photos)
    task = _halves(request, paths, classes, ood, notes)
    task.suite, task.model, task.model_name = "imagenet-val", model, request.model
    task.test_classes = _class_numbers(photos, task.test_classes, request)
    transform = models.imagenet_transform(model, request)
    if isinstance(transform, str) and not model.startswith("timm/"):
        transform = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    if not isinstance(transform, str):
        transform = without_enlarging(transform)
    task.preprocess = transform
    if isinstance(transform, CropSmall):
        notes.append(
            f"Images whose shorter side has from {transform.least} to "
            f"{transform.most - 1} pixels are cropped, not enlarged first."
        )
    return task


def own(request):
    """Return the user's ID images against the user's OOD sets."""
    notes: list[str] = []
    if not (request.id_folder and request.ood_folders):
        raise Absent("own needs your images: --id DIR and --ood NAME=DIR.")
    model = _model_of(request, "own", "your classifier", None)
    ood = _ood_of(request, notes, [])
    folder = Path(request.id_folder)
    try:
        paths, classes = files.list_classes(folder)
    except Absent:
        paths, classes = list_folder(folder), None
    task = _halves(request, paths, classes, ood, notes)
    task.suite, task.model, task.model_name = "own", model, request.model
    task.test_classes = None  # the order of the folders need not be that of the model
    task.preprocess = models.imagenet_transform(model, request)
    return task


def _model_of(request, suite, kind, n_classes):
    if not request.model:  # no default: code in the data folder runs only on request
        raise Absent(
            f"{suite} needs {kind}: --model NAME, such as resnet50, or --model "
            "FILE.py:FUNCTION."
        )
    return models.parse_model(request.model, n_classes=n_classes)


def _ood_of(request, notes, names):
    """Return the user's OOD sets, else those of the data folder."""
    if request.ood_folders:
        return {name: list_folder(path) for name, path in request.ood_folders.items()}
    data = data_folder(request)
    get = "Any folder of images that show no class of the model is good."
    return found_sets({name: image_folder(data, [name], get) for name in names}, notes)


def _halves(request, images, classes, ood, notes):
    """Return a task in which one random half of the ID images is to learn from."""
    if len(images) < 2:
        raise Absent(f"There are {len(images)} ID images, expected at least 2.")
    order = np.random.default_rng(request.seed).permutation(len(images))
    learn, judge = np.sort(order[::2]), np.sort(order[1::2])
    notes.append(
        f"A random half of the ID images, {len(learn)}, is to learn from; the other "
        "half is evaluated."
    )
    return Task(
        suite="",
        model=None,
        model_name="",
        calibration=take(images, learn),
        calibration_classes=None if classes is None else classes[learn],
        test=take(images, judge),
        test_classes=None if classes is None else classes[judge],
        ood=ood,
        notes=notes,
    )


def _class_numbers(folder, places, request):
    """Return the model's classes, given the places of their folders, or None.

    A sample may lack classes. Then the names of all 1,000 must be known from another
    folder, ``imagenet-sample``.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    known = names
    if len(names) != 1000 and request.data:
        sample = Path(request.data) / "imagenet-sample"
        known = sorted(path.name for path in sample.glob("*") if path.is_dir())
    if len(known) != 1000 or not set(names) <= set(known):
        return None
    return np.array([known.index(name) for name in names])[places]


class CropSmall:
    """A transform that does not enlarge an image which is large enough for its crop.

    Photos that were once cut or squeezed to a little more than the crop are then seen
    in full, and at their own scale.
    """

    def __init__(self, transform, crop_only, least, most):
        self.transform, self.crop_only = transform, crop_only
        self.least, self.most = least, most

    def __call__(self, image):
        """Prepare a PIL image."""
        small = self.least <= min(image.size) < self.most
        return (self.crop_only if small else self.transform)(image.convert("RGB"))


def without_enlarging(transform):
    """Return a transform as `CropSmall`, or as it is if its steps are not known."""
    if isinstance(transform, torchvision.transforms._presets.ImageClassification):
        transform = transforms.Compose(
            [
                transforms.Resize(
                    transform.resize_size, transform.interpolation, antialias=True
                ),
                transforms.CenterCrop(transform.crop_size),
                transforms.ToImage(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize(transform.mean, transform.std),
            ]
        )
    steps = getattr(transform, "transforms", ())
    named = {type(step).__name__: step for step in steps}
    if not {"Resize", "CenterCrop"} <= named.keys():
        return transform
    resize, crop = named["Resize"], named["CenterCrop"]
    most, least = np.min(resize.size), np.max(crop.size)
    rest = type(transform)([step for step in steps if step is not resize])
    return CropSmall(transform, rest, int(least), int(most))


# -------------------------------------------------------------------------- small CIFAR


def cifar10_sample(request):
    """Return JPEG copies of CIFAR-10 against Tiny-ImageNet and textures."""
    data = data_folder(request)
    notes: list[str] = []
    if not request.model:
        raise Absent(
            "cifar10-sample needs a model trained on CIFAR-10: --model "
            "FILE.py:FUNCTION, or resnet18=FILE or densenet100=FILE with a checkpoint."
        )
    model = models.parse_model(request.model, n_classes=10, cifar=True)
    get = "JPEG copies of CIFAR-10's test images, in a folder for each class."
    paths, classes = files.list_classes(files.find(data, ["cifar10-jpeg"], get=get))
    if len(np.unique(classes)) != 10:
        raise Absent(f"cifar10-jpeg holds {len(np.unique(classes))} classes, not 10.")

    def small(folder, cut):
        return lambda: as_jpeg(image_folder(data, [folder], "")(), cut)

    sets = {
        "Tiny-ImageNet, resized": small("tiny-imagenet", shrunk),
        "Tiny-ImageNet, cropped": small("tiny-imagenet", cropped),
        "textures, resized": small("textures", shrunk),
    }
    ood = found_sets(sets, notes)
    task = _halves(request, as_jpeg(paths, shrunk), classes, ood, notes)
    task.suite, task.model, task.model_name = "cifar10-sample", model, request.model
    task.preprocess = models.cifar_transform(request)
    task.noise = (0.01, 0.07)
    notes.append(
        f"All images are of {SIDE} x {SIDE} pixels and went through a lossy JPEG file "
        f"of quality {QUALITY} (4:2:0), ID images as they came and OOD images here, so "
        "that the loss does not tell them apart. Some of Tiny-ImageNet's classes are "
        "also CIFAR's."
    )
    return task


def as_jpeg(paths, cut):
    """Return images as uint8 of (n, 32, 32, 3), each from a JPEG file of that size.

    A JPEG file of 32 x 32 pixels is only read. Other images are cut to this size and
    put through such a file.
    """
    pixels = np.empty((len(paths), SIDE, SIDE, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            small = image.convert("RGB")
            if image.size != (SIDE, SIDE) or image.format != "JPEG":
                small = _through_jpeg(cut(small))
        pixels[row] = np.asarray(small)
    return pixels


def _through_jpeg(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, subsampling="4:2:0")
    with Image.open(stream) as read:
        return read.convert("RGB")


shrunk = transforms.Compose([transforms.Resize(SIDE), transforms.CenterCrop(SIDE)])
cropped = transforms.CenterCrop(SIDE)
