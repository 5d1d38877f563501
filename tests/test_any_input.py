"""Any input: a right answer, against a plain loop written here, or a clear error.

A right answer is what numpy, Pillow and a loop over single images give. An error is
clear if it is raised on purpose, by this package or by scikit-learn's validation, and
is short enough to read: an error from inside torch, numpy or Pillow is none.
"""

import io
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.special import logsumexp, softmax
from torch import nn
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from reactood import ReActDetector, TorchFeatureExtractor

EXAMPLES = [400, pytest.param(10_000, marks=pytest.mark.slow)]
FILES = [200, pytest.param(4_000, marks=pytest.mark.slow)]


class Failure:
    """A clear error, in the place of a result."""

    def __init__(self, error):
        self.text = str(error)
        self.error = error


def attempt(function):
    """Return what ``function`` returns, or a Failure if it raises a clear error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return function()
    except (ValueError, TypeError, OSError) as error:
        *_, frame = traceback.extract_tb(error.__traceback__)
        raised_by = Path(frame.filename).parts
        assert "reactood" in raised_by or "sklearn" in raised_by, repr(error)
        ours = "reactood" in raised_by  # scikit-learn prints the whole array
        assert 15 < len(str(error)) < (1500 if ours else 99_999), repr(error)
        return Failure(error)


def run(strategy, check, n):
    """Call ``check`` with ``n`` examples."""
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    profile = settings(
        max_examples=n,
        deadline=None,
        suppress_health_check=health,
        derandomize=n < 1000,  # the default run is the same each time
    )
    profile(given(strategy)(check))()


# Features -----------------------------------------------------------------------------


def reference_scores(H, head, percentile, score, X):
    """Score by the definition, in float64; also the clip and the offset."""
    weight, bias = head
    clip = np.inf if percentile is None else np.percentile(H, percentile)

    def scores(rows):
        z = np.minimum(rows.astype(float), clip) @ weight.T + bias
        if score == "energy":
            return logsumexp(z, axis=1)
        if score == "msp":
            return softmax(z, axis=1).max(axis=1)
        if score == "max_logit":
            return z.max(axis=1)
        p = softmax(z, axis=1)
        return (p * np.log(np.maximum(p, 1e-300))).sum(axis=1)

    return scores(X), clip, np.percentile(scores(H), 5)


VALUES = st.sampled_from(
    ["gamma", "normal", "zeros", "one nan", "one inf", "huge", "tiny", "ties", "tail"]
)
FORMS = st.sampled_from(
    (
        "array, list, frame, tensor, fortran, strided, reversed, readonly, swapped, "
        "object, masked, text, complex, 3-D, 1-D, empty, half, int, bool, sparse, "
        "subclass, nested tensor, meta, grad, ragged"
    ).split(", ")
)


def features(rng, kind, n, m):
    X = rng.gamma(2.0, size=(n, m))
    if kind == "normal":
        X = rng.normal(size=(n, m))
    elif kind == "zeros":
        X = np.maximum(rng.normal(-2, 1, size=(n, m)), 0)
    elif kind == "one nan":
        X[rng.integers(n), rng.integers(m)] = np.nan
    elif kind == "one inf":
        X[rng.integers(n), rng.integers(m)] = rng.choice([np.inf, -np.inf])
    elif kind == "huge":
        X *= 1e200
    elif kind == "tiny":
        X *= 1e-200
    elif kind == "ties":
        X = np.round(X)
    elif kind == "tail":
        X = rng.standard_cauchy(size=(n, m))
    return X


def in_form(X, form):
    """Return an input of this form, and the numbers that it stands for, or None."""
    with np.errstate(over="ignore"):  # becomes inf, which is refused
        single = X.astype(np.float32)
    if form == "list":
        return X.tolist(), X
    if form == "frame":
        return pd.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])]), X
    if form == "tensor":
        return torch.from_numpy(single), single
    if form == "fortran":
        return np.asfortranarray(single), single
    if form == "strided":
        return np.repeat(X, 2, axis=0)[::2], X
    if form == "reversed":
        return X[::-1], X[::-1]
    if form == "readonly":
        X.setflags(write=False)
        return X, X
    if form == "swapped":
        return X.astype(X.dtype.newbyteorder()), X
    if form == "object":
        return X.astype(object), X
    if form == "masked":
        return np.ma.masked_greater_equal(X, np.median(X)), None
    if form == "text":
        return X.astype(str), X
    if form == "complex":
        return X + 1j, None
    if form == "3-D":
        return X[None], None
    if form == "1-D":
        return X[0], None
    if form == "empty":
        return X[:0], None
    if form == "half":
        with np.errstate(over="ignore"):
            half = X.astype(np.float16)
        return half, half.astype(np.float32)
    if form == "int":
        whole = np.nan_to_num(X).clip(-1e6, 1e6).astype(np.int64)
        return whole, whole
    if form == "bool":
        return X > np.median(X), X > np.median(X)
    if form == "sparse":
        import scipy.sparse

        return scipy.sparse.csr_matrix(np.nan_to_num(X)), None
    if form == "subclass":

        class Mine(np.ndarray):
            pass

        return X.view(Mine), X
    if form == "nested tensor":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls them a prototype
            return torch.nested.nested_tensor(list(torch.from_numpy(single))), None
    if form == "meta":
        return torch.from_numpy(single).to("meta"), None
    if form == "grad":
        return torch.from_numpy(single).requires_grad_(), None
    if form == "ragged":
        return [*X.tolist(), [1.0] * (X.shape[1] + 1)], None
    return X, X


def check_detector(case):
    seed, kind, form, score, percentile, n, m, k = case
    rng = np.random.default_rng(seed)
    head = rng.normal(size=(k, m)), rng.normal(size=k)
    given, numbers = in_form(features(rng, kind, n, m), form)
    detector = ReActDetector(head, percentile=percentile, score_function=score)
    found = attempt(lambda: detector.fit(given).score_samples(given))
    if isinstance(found, Failure):
        assert not hasattr(detector, "offset_")
        return
    assert numbers is not None, f"{form} was taken without a word"
    H = np.asarray(numbers, float)
    assert np.isfinite(H).all()
    expected, clip, offset = reference_scores(H, head, percentile, score, H)
    exact = numbers.dtype == np.float64 or numbers.dtype.kind in "biu"
    scale = 1 + np.abs(H).max() * np.abs(head[0]).sum(axis=1).max()
    tolerance = (1e-9 if exact else 2e-5) * scale
    assert detector.activation_threshold_ == pytest.approx(clip, rel=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=tolerance)
    assert detector.offset_ == pytest.approx(offset, rel=1e-6, abs=tolerance)
    labels = np.where(found - detector.offset_ >= 0, 1, -1)
    np.testing.assert_array_equal(detector.predict(given), labels)


@pytest.mark.parametrize("n", EXAMPLES)
def test_any_features_are_scored_right_or_refused(n):
    case = st.tuples(
        st.integers(0, 1 << 30),
        VALUES,
        FORMS,
        st.sampled_from(["energy", "msp", "max_logit", "entropy"]),
        st.sampled_from([None, 90, 99.5, 50, 100, 3]),
        st.integers(1, 60),
        st.integers(1, 9),
        st.integers(2, 5),
    )
    run(case, check_detector, n)


# Images in memory ---------------------------------------------------------------------

MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"]


def bright(channels):
    """Return a net whose features are the mean brightness of each channel, twice."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    with torch.no_grad():
        net[-1].weight.copy_(torch.arange(2.0 * channels).view(2, -1))
        net[-1].bias.zero_()
    return net


def random_image(rng, mode, height, width):
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(rng.integers(0, 60_000, (height, width)).astype(kind))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode in ("LA", "RGBA"):
        alpha = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8))
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    return image.convert(mode)


def own_float(image):
    """Return what a user's transform may: float pixels of the image as it is."""
    return torch.from_numpy(np.atleast_3d(np.asarray(image)).copy()).movedim(2, 0) / 7.0


def raising(image):
    raise KeyError("a user's own error")


CALLABLES = {
    "none": None,
    "ToTensor": transforms.ToTensor(),
    "resized": transforms.Compose([transforms.Resize((6, 6)), transforms.ToTensor()]),
    "own": own_float,
    "array": lambda image: np.asarray(image, np.float32),
    "uint8": pil_to_tensor,
    "no axes": lambda image: torch.tensor(1.0),
    "batch": lambda image: transforms.ToTensor()(image)[None],
    "nothing": lambda image: None,
    "nan": lambda image: transforms.ToTensor()(image) * torch.nan,
    "raising": raising,
    "mapping": lambda image: {"pixel_values": [transforms.ToTensor()(image)]},
}


def plain_features(images, preprocess, channels):
    """Return the channel means of each image by itself; None if it cannot be."""
    rows, shapes = [], set()
    for image in images:
        try:
            upright = ImageOps.exif_transpose(image)
            if preprocess is None:
                tensor = pil_to_tensor(as_documented(upright)).float() / 255
            else:
                tensor = preprocess(upright)
        except Exception:
            return None
        if isinstance(tensor, dict):
            tensor = tensor["pixel_values"][0]
        if isinstance(tensor, np.ndarray):
            return None
        if tensor is None or not tensor.is_floating_point() or tensor.ndim != 3:
            return None
        if len(tensor) != channels or not tensor.isfinite().all():
            return None
        shapes.add(tuple(tensor.shape))
        rows.append(tensor.double().mean(dim=(1, 2)).numpy())
    return np.stack(rows) if len(shapes) == 1 else None


def as_documented(image):
    """Return RGB, or grey where the image is grey: what preprocess=None works on."""
    if image.mode in ("I", "F"):
        raise ValueError("of unknown range")
    if image.mode.startswith("I;16"):
        values = np.rint(np.asarray(image).astype(float) / 257).astype(np.uint8)
        return Image.fromarray(values)
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def check_pictures(case):
    seed, modes, name, sizes, channels, lazy, rotated = case
    rng = np.random.default_rng(seed)
    images = [
        random_image(rng, mode, *size) for mode, size in zip(modes, sizes, strict=False)
    ]
    if rotated:
        images[0].getexif()[0x0112] = 6
    if lazy:
        images = [reopened(image) for image in images]
    preprocess = CALLABLES[name]
    expected = plain_features(images, preprocess, channels)
    extractor = TorchFeatureExtractor(lambda: bright(channels), preprocess=preprocess)
    found = attempt(lambda: extractor.fit_transform(images))
    compare(found, expected, (modes, name, sizes))


def reopened(image):
    """Return the image as Pillow opens it: not decoded yet."""
    stream = io.BytesIO()
    form = "PNG" if image.mode in ("RGB", "L", "1", "P", "RGBA", "LA") else "TIFF"
    image.convert("RGB" if image.mode == "HSV" else image.mode).save(stream, form)
    return Image.open(io.BytesIO(stream.getvalue()))


def compare(found, expected, case):
    if isinstance(found, Failure):
        assert expected is None, (case, found.text)
        return
    assert expected is not None, (case, "was taken without a word")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=str(case))


SIZES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda size: [size] * 4),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=4),
)


@pytest.mark.parametrize("n", EXAMPLES)
def test_any_pictures_are_read_right_or_refused(n):
    one_mode = st.sampled_from(MODES).map(lambda mode: [mode] * 3)
    case = st.tuples(
        st.integers(0, 1 << 30),
        st.one_of(one_mode, st.lists(st.sampled_from(MODES), min_size=1, max_size=4)),
        st.sampled_from(list(CALLABLES)),
        SIZES,
        st.sampled_from([1, 3, 3, 4]),
        st.booleans(),
        st.booleans(),
    )
    run(case, check_pictures, n)


# Pixels in arrays ---------------------------------------------------------------------

CONTAINERS = ["array", "tensor", "list", "tensors", "object", "nested", "masked"]
DTYPES = ["uint8", "int16", "int64", "float32", "float64", "float16", "bool"]


def check_pixels(case):
    seed, container, dtype, shape, n, channels = case
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 2 if dtype == "bool" else 256, (n, *shape)).astype(dtype)
    given = {
        "array": lambda: pixels,
        "tensor": lambda: torch.from_numpy(pixels),
        "list": lambda: list(pixels),
        "tensors": lambda: list(torch.from_numpy(pixels)),
        "object": lambda: as_objects(pixels),
        "nested": pixels.tolist,
        "masked": lambda: np.ma.masked_less_equal(pixels, pixels.max()),
    }[container]()
    extractor = TorchFeatureExtractor(lambda: bright(channels), preprocess=None)
    found = attempt(lambda: extractor.fit_transform(given))
    if isinstance(found, Failure):
        usual = dtype in ("uint8", "float32") and container in ("array", "tensor")
        readable = len(shape) == 3 and channels in shape and shape.count(channels) == 1
        assert not (usual and readable and shape[0] == channels), found.text
        return
    assert container != "masked", "the mask was lost without a word"
    if dtype == "uint8" and container != "nested":
        expected = plain_pixels(pixels, channels)
    else:
        assert dtype.startswith("float"), f"{dtype} was taken without a word"
        # Floats go to the network as they are.
        expected = bright(channels)[:2](torch.from_numpy(pixels.astype(float)))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


def as_objects(pixels):
    array = np.empty(len(pixels), object)
    for i, image in enumerate(pixels):
        array[i] = image
    return array


def plain_pixels(pixels, channels):
    """Return channel means of uint8 images whose channels are last, or else first."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    elif pixels.shape[-1] not in (1, 3, 4):
        pixels = np.moveaxis(pixels, 1, -1)
    return pixels.astype(float).mean(axis=(1, 2)) / 255


@pytest.mark.parametrize("n", EXAMPLES)
def test_any_pixels_are_read_right_or_refused(n):
    side = st.sampled_from([1, 2, 3, 4, 5, 8])
    shape = st.one_of(
        st.tuples(st.just(3), st.just(8), st.just(8)),
        st.tuples(st.just(8), st.just(8), st.just(3)),
        st.lists(side, min_size=2, max_size=4).map(tuple),
    )
    case = st.tuples(
        st.integers(0, 1 << 30),
        st.sampled_from(CONTAINERS),
        st.sampled_from(DTYPES),
        shape,
        st.integers(1, 5),
        st.sampled_from([1, 3, 4]),
    )
    run(case, check_pixels, n)


# Files --------------------------------------------------------------------------------

FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]


def encoded(rng, form, mode, orientation):
    image = random_image(rng, mode, 12, 9)
    stream = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    options = {"exif": exif} if form in ("PNG", "JPEG", "TIFF", "WEBP") else {}
    image.save(stream, form, **options)
    return bytearray(stream.getvalue())


def damaged(rng, content, damage):
    if damage == "cut":
        return content[: rng.integers(len(content))]
    if damage == "flipped":
        for _ in range(3):
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif damage == "zeros":
        start = rng.integers(len(content))
        content[start : start + 9] = bytes(len(content[start : start + 9]))
    elif damage == "noise":
        return bytes(rng.integers(0, 256, 60, dtype=np.uint8))
    return content


def check_files(case, folder):
    seed, files, suffix = case
    rng = np.random.default_rng(seed)
    paths, expected = [], []
    for i, (form, mode, orientation, damage) in enumerate(files):
        path = folder / f"{i}{suffix or '.' + form.lower()}"
        path.write_bytes(damaged(rng, encoded(rng, form, mode, orientation), damage))
        paths.append(path)
        expected.append(plain_file(path))
    good = folder / "good.png"
    Image.fromarray(np.full((6, 6, 3), 51, np.uint8)).save(good)
    extractor = TorchFeatureExtractor(
        lambda: bright(3),
        preprocess=transforms.Compose([to_rgb, small]),
        on_error="nan",
    ).fit([good])
    found = attempt(lambda: extractor.transform([good, *paths]))
    assert not isinstance(found, Failure), found.text
    np.testing.assert_allclose(found[0], 0.2, rtol=1e-6)
    for row, mean, path in zip(found[1:], expected, paths, strict=True):
        if mean is None:
            assert np.isnan(row).all(), path
        else:
            np.testing.assert_allclose(row, mean, rtol=1e-5, atol=1e-6)
    strict = extractor.set_params(on_error="raise")
    found = attempt(lambda: strict.transform([good, *paths]))
    if isinstance(found, Failure):
        assert any(mean is None for mean in expected)
        bad = [
            str(path)
            for path, mean in zip(paths, expected, strict=True)
            if mean is None
        ]
        assert any(path in found.text for path in bad), found.text
    else:
        assert all(mean is not None for mean in expected)


def to_rgb(image):
    return image.convert("RGB")


small = transforms.Compose([transforms.Resize((6, 6)), transforms.ToTensor()])


def plain_file(path):
    """Return the channel means of a file by Pillow alone; None if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, of damaged metadata
            image = Image.open(io.BytesIO(path.read_bytes()))
            image.load()
            try:
                upright = ImageOps.exif_transpose(image)
            except Exception:  # damage to what is beside the pixels costs no image
                upright = image
        return small(to_rgb(upright)).double().mean(dim=(1, 2)).numpy()
    except Exception:
        return None


@pytest.mark.parametrize("n", FILES)
def test_any_files_are_read_right_or_refused(n, tmp_path):
    modes = st.sampled_from(["RGB", "L"])  # which every format can hold
    damage = st.sampled_from(["none", "none", "cut", "flipped", "zeros", "noise"])
    file = st.tuples(st.sampled_from(FORMATS), modes, st.integers(0, 8), damage)
    case = st.tuples(
        st.integers(0, 1 << 30),
        st.lists(file, min_size=1, max_size=5),
        st.sampled_from([None, None, ".jpg", ".png"]),
    )
    run(case, lambda case: check_files(case, tmp_path), n)
