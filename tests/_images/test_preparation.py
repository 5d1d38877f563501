"""One image becomes a tensor: modes, orientation, sizes, a function of the user's."""

import collections
import io

import numpy as np
import pytest
import torch
from conftest import conv_net
from PIL import ExifTags, Image, ImageOps
from torch import nn
from torchvision import transforms
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from reactood import TorchFeatureExtractor
from reactood._images._pixels import pixels_of
from reactood._images._preparation import Preparation
from reactood.cache import FeatureCache
from reactood.inspection import ContactSheetDisplay

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"]


def to_small_tensor(image):
    return transforms.functional.to_tensor(image.convert("RGB").resize((9, 9)))


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)


def in_mode(mode, pixels):
    if mode == "I;16":
        return Image.fromarray(257 * pixels[..., 0].astype(np.uint16))
    return Image.fromarray(pixels).convert(mode)


# --- what a user's own function sees -------------------------------------------------


class Seen:
    """Notes the images that it gets."""

    def __init__(self):
        self.images = []

    def __call__(self, image):
        self.images.append(image)
        return torch.zeros(3, 9, 9)


@pytest.mark.parametrize("mode", MODES)
def test_a_users_function_gets_the_image_as_it_is(mode, pixels, tmp_path):
    image = in_mode(mode, pixels)
    seen = Seen()
    prepare = Preparation(seen, rgb=False)
    prepare(image)
    assert seen.images[0] is image
    if mode in ("YCbCr", "HSV"):  # in no file
        return
    path = tmp_path / ("image.tif" if mode in ("CMYK", "F", "I") else "image.png")
    image.save(path)
    for item in (path, Image.open(path), path.read_bytes()):
        prepare(item)
        got = seen.images[-1]
        assert got.mode == image.mode
        assert not getattr(got, "tile", None), "not loaded"
        np.testing.assert_array_equal(np.asarray(got), np.asarray(image))


def test_a_users_function_sees_the_alpha_of_a_folder(tmp_path, rng):
    pixels = rng.integers(0, 256, (4, 9, 9, 4), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    four = TorchFeatureExtractor(lambda: conv_net(4), preprocess=transforms.ToTensor())
    features = four.fit_transform(tmp_path)
    floats = np.moveaxis(pixels, -1, 1) / np.float32(255)
    np.testing.assert_allclose(features, four.transform(floats), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("preprocess", [None, transforms.ToTensor()])
def test_four_channels_of_an_array_stay(axis, preprocess, rng):
    pixels = rng.integers(0, 256, (5, 9, 9, 4), dtype=np.uint8)
    X = np.moveaxis(pixels, -1, axis)
    extractor = TorchFeatureExtractor(lambda: conv_net(4), preprocess=preprocess)
    expected = extractor.fit_transform(np.moveaxis(pixels, -1, 1) / np.float32(255))
    for images in (X, torch.from_numpy(X.copy()), list(X)):
        np.testing.assert_allclose(
            extractor.transform(images), expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("mode", [m for m in MODES if m not in ("I", "F")])
def test_the_models_own_transform_gets_rgb(mode, pixels, tmp_path):
    image = in_mode(mode, pixels)
    seen = Seen()
    prepare = Preparation(seen, rgb=True)
    prepare(image)
    assert seen.images[-1].mode == "RGB"
    four = Image.fromarray(np.dstack([pixels, pixels[..., :1]]))
    prepare(np.asarray(four))
    np.testing.assert_array_equal(np.asarray(seen.images[-1]), pixels)


# --- orientation ---------------------------------------------------------------------


def tagged(image, orientation, file=None, **options):
    """Save an image as a camera does that was held in another way."""
    undo = {6: 8, 8: 6}.get(orientation, orientation)  # the others undo themselves
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = undo
    turned = ImageOps.exif_transpose(_with(image, exif))
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO() if file is None else file
    turned.save(file, exif=exif, **options)
    return file


def _with(image, exif):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_photos_are_turned_as_their_exif_says(orientation, suffix, pixels, tmp_path):
    image = Image.fromarray(pixels)
    path = tmp_path / f"image{suffix}"
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    tagged(image, orientation, path, **options)
    raw = Image.open(path)
    raw.load()
    if orientation != 1 and suffix == ".png":
        assert not np.array_equal(np.asarray(raw), pixels)
    for rgb in (True, False):
        seen = Seen()
        prepare = Preparation(seen, rgb=rgb)
        for item in (path, raw, Image.open(path), path.read_bytes()):
            prepare(item)
            np.testing.assert_array_equal(np.asarray(seen.images[-1]), pixels)
            # Who turns it once more must find nothing to do.
            again = ImageOps.exif_transpose(seen.images[-1])
            np.testing.assert_array_equal(np.asarray(again), pixels)
    np.testing.assert_array_equal(pixels_of(path), pixels)
    np.testing.assert_array_equal(pixels_of(Image.open(path)), pixels)


def test_an_upright_image_is_not_copied(pixels):
    image = Image.fromarray(pixels)
    seen = Seen()
    Preparation(seen, rgb=False)(image)
    assert seen.images[0] is image
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    image = _with(image, exif)
    Preparation(seen, rgb=False)(image)
    assert seen.images[1] is image


def test_a_turned_image_of_the_users_stays_as_it_was(pixels):
    image = Image.open(tagged(Image.fromarray(pixels), 6, format="PNG"))
    before = np.asarray(image).copy()
    Preparation(Seen(), rgb=False)(image)
    np.testing.assert_array_equal(np.asarray(image), before)
    assert image.getexif()[ExifTags.Base.Orientation] == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage garbage",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + 60 * b"\x12",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0ab\0\0\0\0\0\0",
    ],
    ids=["empty", "garbage", "many", "beyond", "text"],
)
def test_broken_exif_fails_no_image(exif, pixels, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path, exif=exif)
    seen = Seen()
    Preparation(seen, rgb=True)(path)
    np.testing.assert_array_equal(np.asarray(seen.images[0]), pixels)


def test_tags_that_cannot_be_written_again_do_not_keep_an_image_from_being_turned(
    pixels, tmp_path, monkeypatch
):
    path = tmp_path / "image.png"
    tagged(Image.fromarray(pixels), 6, path)

    def fails(self, *args):
        raise ValueError("cannot be written")

    monkeypatch.setattr(Image.Exif, "tobytes", fails)
    seen = Seen()
    Preparation(seen, rgb=False)(path)
    np.testing.assert_array_equal(np.asarray(seen.images[0]), pixels)
    again = ImageOps.exif_transpose(seen.images[0])
    np.testing.assert_array_equal(np.asarray(again), pixels)


def test_features_and_pictures_of_turned_photos(pixels, tmp_path, rng):
    for name in ("turned", "upright"):
        (tmp_path / name).mkdir()
    for i in range(6):
        image = Image.fromarray(rng.integers(0, 256, (12, 8, 3), dtype=np.uint8))
        image.save(tmp_path / "upright" / f"{i}.png")
        tagged(image, 3 + i, tmp_path / "turned" / f"{i}.png")
    extractor = TorchFeatureExtractor(conv_net, preprocess=transforms.ToTensor())
    features = extractor.fit_transform(tmp_path / "upright")
    np.testing.assert_array_equal(extractor.transform(tmp_path / "turned"), features)
    pytest.importorskip("matplotlib")
    sheets = [
        ContactSheetDisplay.from_predictions(tmp_path / name, range(6), n=2)
        for name in ("turned", "upright")
    ]
    np.testing.assert_array_equal(sheets[0].most, sheets[1].most)


def test_a_cache_does_not_serve_what_was_read_in_another_way(
    pixels, tmp_path, monkeypatch
):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=to_small_tensor, cache=tmp_path / "cache"
    )
    extractor.fit_transform([tmp_path / "image.png"])
    extractor.transform([tmp_path / "image.png"])
    assert len(FeatureCache(tmp_path / "cache")) == 1
    monkeypatch.setattr("reactood.extractor._extractor.READING", 1)
    extractor.transform([tmp_path / "image.png"])
    assert len(FeatureCache(tmp_path / "cache")) == 2


def test_real_photos_turned_have_the_features_of_upright_ones(real_data, tmp_path):
    photos = sorted((real_data / "imagenet-sample").rglob("*.jpg"))[::50]
    for i, photo in enumerate(photos):
        image = Image.open(photo)
        image.save(tmp_path / f"{i:03}-upright.png")
        tagged(image, 2 + i % 7, tmp_path / f"{i:03}.png")
    transform = ResNet18_Weights.DEFAULT.transforms()
    prepare = Preparation(transform, rgb=True)
    for i in range(len(photos)):
        turned, upright = tmp_path / f"{i:03}.png", tmp_path / f"{i:03}-upright.png"
        assert torch.equal(prepare(turned), prepare(upright))


# --- limits --------------------------------------------------------------------------

NARROW = (3000, 1)  # 100 times as many pixels each way, once its side is 100


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Compose([transforms.Resize(100), transforms.ToTensor()]),
        transforms.Compose(
            [
                transforms.Resize(100),
                transforms.CenterCrop(9),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        ),
        nn.Sequential(transforms.Resize(100), transforms.CenterCrop(9)),
        v2.Compose([v2.RGB(), v2.ToImage(), v2.Resize(100)]),
        transforms.Resize((100, 300_000)),
        ResNet18_Weights.DEFAULT.transforms(resize_size=100, crop_size=9),
    ],
    ids=["compose", "known", "sequential", "v2", "both sides", "preset"],
)
def test_no_image_grows_beyond_the_limit(transform, monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29_999_999)
    Image.new("RGB", NARROW).save(tmp_path / "narrow.png")
    Image.new("RGB", NARROW[::-1]).save(tmp_path / "high.png")
    prepare = Preparation(transform, rgb=False)
    sentence = r"once it is resized, it has .* = 30000000 pixels, more than the limit "
    sentence += r"of 29999999.*raise PIL\.Image\.MAX_IMAGE_PIXELS"
    for item in (tmp_path / "narrow.png", Image.new("RGB", NARROW)):
        with pytest.raises(ValueError, match=sentence):
            prepare(item)
    if not isinstance(transform, transforms.Resize):
        with pytest.raises(ValueError, match="once it is resized, it has 100 x 300000"):
            prepare(tmp_path / "high.png")


@pytest.mark.parametrize("size", [9, (5, 7), [11]])
@pytest.mark.parametrize("max_size", [None, 13])
@pytest.mark.parametrize("v", [transforms, v2])
def test_sizes_are_torchvisions(size, max_size, v, monkeypatch):
    if max_size and size == (5, 7):
        return  # not allowed
    resize = v.Resize(size, max_size=max_size)
    for width, height in ((20, 30), (30, 20), (7, 7), (9, 8)):
        image = Image.new("RGB", (width, height))
        n_pixels = resize(image).width * resize(image).height
        prepare = Preparation(v.Compose([resize, transforms.ToTensor()]), rgb=False)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", n_pixels)
        prepare(image)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", n_pixels - 1)
        with pytest.raises(ValueError, match=f"= {n_pixels} pixels"):
            prepare(image)


# --- errors and results of a user's own function -------------------------------------


def test_errors_of_a_users_function_are_not_called_damage(photos):
    def fails(image):
        raise KeyError("colour")

    grey = Image.new("L", (7, 5))
    extractor = TorchFeatureExtractor(conv_net, preprocess=fails)
    sentence = r"Image 0: preprocess failed on this image of mode RGB and 30 x 20 "
    sentence += r"pixels, which was read: KeyError: 'colour'\.$"
    with pytest.raises(ValueError, match=sentence):
        extractor.fit(photos)
    with pytest.raises(ValueError, match=r"of mode L and 7 x 5 .*convert\('RGB'\)"):
        extractor.fit([grey])
    extractor.set_params(preprocess=to_small_tensor, on_error="nan").fit(photos)

    def sometimes(image):
        assert image.width != 30, "no wide ones"
        return to_small_tensor(image)

    extractor.set_params(preprocess=sometimes)
    with pytest.warns(UserWarning, match="read or preprocessed.*: no wide ones") as w:
        extractor.transform(photos)
    assert "damaged" not in str(w[0].message)


class Features(collections.UserDict):
    """What Hugging Face's image processors return."""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: Features(pixel_values=[x.numpy()]),
        lambda x: Features(pixel_values=x[None]),
        lambda x: {"pixel_values": x[None].numpy()},
        lambda x: {"pixel_values": [x], "pixel_mask": [x[0]]},
        lambda x: {"pixel_values": x},
        lambda x: {"pixel_values": [[x]]},
    ],
)
def test_the_result_of_an_image_processor(wrap, photos):
    extractor = TorchFeatureExtractor(conv_net, preprocess=to_small_tensor)
    expected = extractor.fit_transform(photos)
    extractor.set_params(preprocess=lambda image: wrap(to_small_tensor(image)))
    np.testing.assert_array_equal(extractor.fit_transform(photos), expected)


def test_a_real_image_processor(photos):
    transformers = pytest.importorskip("transformers")
    processor = transformers.ViTImageProcessor(size={"height": 9, "width": 9})
    tensors = [
        torch.as_tensor(np.asarray(processor(Image.open(path))["pixel_values"][0]))
        for path in photos
    ]
    extractor = TorchFeatureExtractor(conv_net, preprocess=processor)
    features = extractor.fit_transform(photos)
    np.testing.assert_array_equal(extractor.transform(tensors), features)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (None, "returned NoneType, expected a float tensor"),
        (np.zeros((3, 9, 9)), r"returned ndarray of float64 and shape \(3, 9, 9\)"),
        (
            torch.zeros(3, 9, 9, dtype=torch.uint8),
            r"returned Tensor of torch.uint8 and shape \(3, 9, 9\), expected a float",
        ),
        (torch.zeros(1, 3, 9, 9), r"torch.float32 and shape \(1, 3, 9, 9\)"),
        (torch.tensor(1.0), r"torch.float32 and shape \(\), expected"),
        ([torch.zeros(3, 9, 9)] * 2, "returned list of 2, expected"),
        ({"image": 1}, r"returned dict with the keys \['image'\], expected"),
        (
            {"pixel_values": torch.zeros(2, 3, 9, 9)},
            r"\['pixel_values'\] and Tensor of torch.float32 and shape \(2, 3, 9, 9\)",
        ),
        ({"pixel_values": [1, 2]}, "and list of 2 inside"),
    ],
    ids=range(9),
)
def test_other_results_are_named(result, sentence, photos):
    extractor = TorchFeatureExtractor(conv_net, preprocess=lambda image: result)
    with pytest.raises(TypeError, match=sentence):
        extractor.fit(photos)
