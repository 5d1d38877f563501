"""torchcodec reads what Pillow reads, to within a bound, and leaves it the rest."""

import builtins
import io
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import conv_net
from PIL import Image, ImageCms, ImageFile, PngImagePlugin
from torchvision import transforms
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms import InterpolationMode

from reactood import TorchFeatureExtractor
from reactood._images import _codec as codec
from reactood._images._codec import (
    MOST_DIFFERENCE,
    decode_jpeg,
    jpeg_in,
    problem_of_torchcodec,
)
from reactood._images._collate import collate
from reactood._images._files import decode
from reactood._images._pixels import read_image
from reactood._images._preparation import Preparation, preparation_of

PROBLEM = problem_of_torchcodec()
# Pillow's of a palette; torchvision's of images that Pillow resizes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Palette images with Transparency"),
    pytest.mark.filterwarnings("ignore:Anti-alias option is always applied"),
]
needs_torchcodec = pytest.mark.skipif(
    PROBLEM is not None, reason=f"torchcodec: {PROBLEM}"
)
MOST_CHANGED = 0.03  # share of pixels; 0.006 is the most of 550 photos
SCALED = transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)
PRESET = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()


def compose(*steps):
    return transforms.Compose([*steps, *SCALED])


def photo(width=61, height=47, seed=0):
    """Return an image as smooth as a photo, no two corners alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation, endian="<"):
    tags = Image.Exif()
    tags.endian = endian
    tags[0x112] = orientation
    tags[0x10F] = "a camera"
    return tags


def with_segment(content, marker, inside):
    """Put a segment behind the first two bytes of a JPEG file."""
    length = struct.pack(">H", len(inside) + 2)
    return content[:2] + bytes([0xFF, marker]) + length + inside + content[2:]


def xmp(orientation, form='tiff:Orientation="{}"'):
    text = f"<x:xmpmeta {form.format(orientation)} />"
    return b"http://ns.adobe.com/xap/1.0/\0" + text.encode()


def damaged(content, first=0.6):
    """Overwrite some of the pixels of a file."""
    place = int(len(content) * first)
    return content[:place] + bytes(range(40, 60)) + content[place + 20 :]


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PLAIN = encoded(photo(), quality=90)
TAKEN = {
    "plain": PLAIN,
    "4:4:4": encoded(photo(), subsampling=0),
    "4:2:2": encoded(photo(), subsampling=1),
    "bad quality": encoded(photo(), quality=5),
    "progressive": encoded(photo(), progressive=True),
    "progressive grey": encoded(photo().convert("L"), progressive=True),
    "optimised": encoded(photo(), optimize=True),
    "restarts": encoded(photo(), restart_marker_blocks=2),
    "grey": encoded(photo().convert("L")),
    "RGB inside": encoded(photo(), keep_rgb=True),
    "a profile": encoded(photo(), icc_profile=SRGB),
    "a comment": encoded(photo(), comment=b"\xff\xd9 no end"),
    "1 x 1": encoded(photo(1, 1)),
    "1 x 300": encoded(photo(1, 300)),
    "300 x 1": encoded(photo(300, 1)),
    "7 x 9": encoded(photo(7, 9)),
    "8 x 16": encoded(photo(8, 16)),
    "of bytes after the end": PLAIN + b"\xff\xd8 more" * 9,
    **{f"turned {i}": encoded(photo(), exif=exif(i)) for i in range(10)},
    **{f"turned {i} >": encoded(photo(), exif=exif(i, ">")) for i in (3, 6)},
    "grey, turned": encoded(photo().convert("L"), exif=exif(5)),
    "turned by XMP": with_segment(PLAIN, 0xE1, xmp(8)),
    "turned by XMP's element": with_segment(PLAIN, 0xE1, xmp(5, "tiff:Orientation>{}")),
    "EXIF before XMP": with_segment(encoded(photo(), exif=exif(3)), 0xE1, xmp(8)),
    "EXIF of two parts": with_segment(
        with_segment(PLAIN, 0xE1, b"Exif\0\0" + b"\0" * 8),
        0xE1,
        b"Exif\0\0" + exif(6).tobytes()[6:],
    ),
    "another APP1": with_segment(encoded(photo(), exif=exif(6)), 0xE1, b"own notes"),
    "pixels overwritten": damaged(encoded(photo(161, 147))),
}


def png(image, chunk=None, **options):
    notes = PngImagePlugin.PngInfo()
    if chunk is not None:
        notes.add(*chunk)
    return encoded(image, "PNG", pnginfo=notes, **options)


def of_16_bits():
    pixels = np.arange(47 * 61, dtype=np.uint16).reshape(47, 61) * 20
    return encoded(Image.fromarray(pixels), "PNG")


LEFT = {
    "CMYK": encoded(photo().convert("CMYK")),
    "several images": encoded(
        photo(), "MPO", save_all=True, append_images=[photo(seed=1)]
    ),
    "broken EXIF": with_segment(PLAIN, 0xE1, b"Exif\0\0MM\0*\0\0"),
    "cut short": encoded(photo(161, 147))[:3000],
    "PNG": png(photo()),
    "grey PNG": png(photo().convert("L")),
    "PNG of two colours": png(photo().convert("1")),
    "PNG with alpha": png(photo().convert("RGBA")),
    "grey PNG with alpha": png(photo().convert("LA")),
    "PNG with a palette": png(photo().quantize(9)),
    "PNG with a transparent palette": png(photo().quantize(9), transparency=b"\0\x7f"),
    "PNG of 16 bits": of_16_bits(),
    "turned PNG": encoded(photo(), "PNG", exif=exif(6)),
    "GIF": encoded(photo(), "GIF"),
    "animated GIF": encoded(
        photo(), "GIF", save_all=True, append_images=[photo(seed=1)]
    ),
    "WebP": encoded(photo(), "WEBP"),
    "BMP": encoded(photo(), "BMP"),
    "TIFF": encoded(photo(), "TIFF"),
    "JPEG in TIFF": encoded(photo(), "TIFF", compression="jpeg"),
}


def both(transform, *, rgb=True):
    """Return the preparations with Pillow and with torchcodec."""
    return [Preparation(transform, rgb=rgb, decoder=d) for d in ("pillow", "auto")]


def assert_close(found, expected):
    assert found.dtype == expected.dtype == torch.uint8
    assert found.shape == expected.shape
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= MOST_DIFFERENCE
    assert (difference > 0).float().mean() <= MOST_CHANGED


@pytest.fixture
def by_codec(monkeypatch):
    """Counts the files that torchcodec decodes."""
    seen = []

    def counting(jpeg):
        pixels = decode_jpeg(jpeg)
        seen.append(pixels is not None)
        return pixels

    monkeypatch.setattr("reactood._images._preparation.decode_jpeg", counting)
    return seen


# --- what it takes --------------------------------------------------------------------


@needs_torchcodec
@pytest.mark.parametrize("name", TAKEN)
def test_pixels_are_those_of_pillow(name, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(TAKEN[name])
    expected = np.asarray(read_image(path))
    for item in (path, str(path), TAKEN[name], io.BytesIO(TAKEN[name])):
        jpeg = jpeg_in(item)
        found = decode_jpeg(jpeg)
        np.testing.assert_array_equal(found.movedim(0, -1).numpy(), expected)
        assert codec.size_of(jpeg) == expected.shape[1::-1]


@needs_torchcodec
@pytest.mark.parametrize(
    "transform",
    [
        PRESET,
        MobileNet_V2_Weights.DEFAULT.transforms(),
        compose(transforms.Resize(20), transforms.CenterCrop((16, 18))),
        compose(transforms.Resize((9, 13))),
        compose(transforms.Resize([30], max_size=32)),
        compose(transforms.Resize(90, interpolation=InterpolationMode.BICUBIC)),
        compose(transforms.Resize(20, antialias=False)),  # Pillow knows no such thing
        compose(transforms.CenterCrop(99)),  # with a border
        compose(),
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["plain", "grey", "turned 6", "7 x 9", "progressive"])
def test_prepared_pixels_differ_little(transform, name, by_codec):
    pillow, fast = both(transform)
    assert_close(fast(TAKEN[name]), pillow(TAKEN[name]))
    assert by_codec == [True]


@needs_torchcodec
def test_photos_of_usual_sizes(by_codec):
    pillow, fast = both(PRESET)
    for i, size in enumerate([(500, 375), (375, 500), (341, 256), (1200, 700)]):
        file = encoded(photo(*size, seed=i), quality=90)
        assert_close(fast(file), pillow(file))
    assert by_codec == [True] * 4


@needs_torchcodec
@pytest.mark.parametrize("n_means", [1, 3])
def test_own_steps_get_images_as_they_are(n_means, by_codec):
    own = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([0.5] * n_means, [0.2] * n_means)]
    )
    pillow, fast = both(own, rgb=False)
    for name in "plain", "grey", "turned 5":
        assert_close(fast(TAKEN[name]), pillow(TAKEN[name]))
    assert by_codec == [True] * (3 if n_means == 3 else 2)  # grey stays of one channel


# --- what it leaves to Pillow ---------------------------------------------------------


@pytest.mark.parametrize("name", LEFT)
def test_other_files_are_read_by_pillow(name, tmp_path, by_codec):
    path = tmp_path / "image"
    path.write_bytes(LEFT[name])
    for item in (path, LEFT[name]):
        for pillow, fast in both(PRESET), both(None):
            try:
                expected = pillow(item)
            except ValueError as error:
                with pytest.raises(ValueError) as info:
                    fast(item)
                assert str(info.value) == str(error)
            else:
                assert fast(item).equal(expected)
    assert not any(by_codec)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.ToTensor(),
        transforms.Compose([transforms.Resize(9), transforms.ToTensor()]),
        compose(transforms.Resize(40), transforms.Resize(20)),
        compose(transforms.Resize(20, interpolation=InterpolationMode.NEAREST)),
        compose(transforms.Resize(20, interpolation=InterpolationMode.LANCZOS)),
        compose(transforms.Grayscale(3)),
    ],
    ids=str,
)
def test_other_steps_get_pil_images(transform, by_codec):
    pillow, fast = both(transform)
    assert fast(PLAIN).equal(pillow(PLAIN))
    assert not by_codec


def test_pillow_alone(by_codec):
    assert preparation_of(None, None)(PLAIN).equal(both(None)[0](PLAIN))
    assert not by_codec


@pytest.mark.parametrize("fill", ["nothing", "text", "start"])
def test_errors_are_those_of_pillow(fill, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes({"nothing": b"", "text": b"no", "start": PLAIN[:300]}[fill])
    for pillow, fast in both(PRESET), both(None):
        for item in (path, tmp_path / "absent.jpg", tmp_path, "nul\0.jpg"):
            with pytest.raises((ValueError, FileNotFoundError)) as expected:
                pillow(item)
            with pytest.raises(expected.type) as found:
                fast(item)
            assert str(found.value) == str(expected.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="is a named pipe; expected a regular file"):
        both(PRESET)[1](tmp_path / "pipe.jpg")


@pytest.mark.parametrize("limit", [2866, 2867])
def test_the_limit_of_pixels(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 61 x 47 = 2867
    if limit == 2867:
        both(None)[1](PLAIN)
        return
    with pytest.raises(ValueError, match=r"it has .*2867 pixels, more than"):
        both(None)[1](PLAIN)


def test_the_limit_of_resized_pixels():
    thin = encoded(photo(60_000, 1))
    with pytest.raises(ValueError, match="once it is resized, it has 15360000 x 256"):
        both(PRESET)[1](thin)


def test_files_that_are_cut_short_if_that_is_allowed(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    pillow, fast = both(None)
    assert fast(LEFT["cut short"]).equal(pillow(LEFT["cut short"]))


@needs_torchcodec
def test_random_damage():
    rng = np.random.default_rng(0)
    whole = [TAKEN["turned 6"], TAKEN["progressive"], TAKEN["grey"], TAKEN["restarts"]]
    n_equal = n_left = 0
    for i in range(400):
        content = bytearray(whole[i % 4])
        place = rng.integers(2, len(content) if i % 2 else 300)
        if i % 3:
            content[place] = rng.integers(256)
        else:
            content[place:place] = rng.integers(0, 256, 3, dtype=np.uint8).tobytes()
        jpeg = jpeg_in(bytes(content))
        found = None if jpeg is None else decode_jpeg(jpeg)
        if found is None:
            n_left += 1
            continue
        expected = np.asarray(read_image(bytes(content)))
        np.testing.assert_array_equal(found.movedim(0, -1).numpy(), expected)
        n_equal += 1
    assert n_equal > 100 and n_left > 20


# --- the choice -----------------------------------------------------------------------


@pytest.fixture
def without_torchcodec(monkeypatch):
    """Make the import of torchcodec fail."""
    original = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.partition(".")[0] == "torchcodec":
            raise ModuleNotFoundError("No module named 'torchcodec'", name="torchcodec")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    problem_of_torchcodec.cache_clear()
    yield
    problem_of_torchcodec.cache_clear()


def fake(monkeypatch, **functions):
    """Put a module in the place of torchcodec's decoders."""
    module = types.ModuleType("torchcodec.decoders")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)


@pytest.fixture
def forgetful():
    problem_of_torchcodec.cache_clear()
    yield
    problem_of_torchcodec.cache_clear()


def test_auto_without_torchcodec(without_torchcodec, by_codec):
    pillow, fast = both(PRESET)
    assert fast(PLAIN).equal(pillow(PLAIN))
    assert not by_codec and codec.describe_decoder("auto") == "pillow"


def test_torchcodec_is_missing(without_torchcodec, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(PLAIN)
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=None, decoder="torchcodec", on_error="nan"
    )
    expected = r"'torchcodec' needs torchcodec, but it is not installed.*'reactood\[t"
    with pytest.raises(ImportError, match=expected):
        extractor.fit([path])


def test_torchcodec_is_too_old(monkeypatch, forgetful):
    fake(monkeypatch, VideoDecoder=object)
    assert "or is too old to read images" in problem_of_torchcodec()
    with pytest.raises(ImportError, match="too old to read images"):
        preparation_of(None, None, "torchcodec")


def test_torchcodec_gives_other_pixels(monkeypatch, forgetful):
    def wrong(stream):
        with Image.open(io.BytesIO(stream.numpy().tobytes())) as image:
            pixels = np.asarray(image).copy()
        pixels[0, 0, 0] ^= 64
        return torch.from_numpy(pixels).movedim(-1, 0)

    fake(monkeypatch, decode_jpeg=wrong)
    assert "its pixels differ from those of Pillow by up to 64" in (
        problem_of_torchcodec()
    )
    assert not codec.uses_torchcodec("auto")


def test_torchcodec_fails(monkeypatch, forgetful):
    fake(monkeypatch, decode_jpeg=lambda stream: 1 / 0)
    assert problem_of_torchcodec() == "it fails (ZeroDivisionError: division by zero)"


# --- features -------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Paths of JPEG files of all kinds, and of some that are none."""
    contents = [*TAKEN.values(), *LEFT.values()]
    paths = [Path(tmp_path, f"{i:02}") for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@needs_torchcodec
@pytest.mark.parametrize("num_workers", [0, 1])
def test_features_differ_little(files, num_workers):
    steps = compose(transforms.Resize(20), transforms.CenterCrop(16))
    extractors = [
        TorchFeatureExtractor(
            conv_net,
            preprocess=steps,
            decoder=decoder,
            on_error="nan",
            num_workers=num_workers,
            batch_size=16,
        )
        for decoder in ("pillow", "torchcodec")
    ]
    pillow, fast = (
        one.fit(files[:2]).transform_with_errors(files) for one in extractors
    )
    assert {k: str(e) for k, e in pillow[1].items()} == {
        k: str(e) for k, e in fast[1].items()
    }
    assert list(pillow[1]) == [len(TAKEN) + list(LEFT).index("cut short")]
    difference = np.abs(pillow[0] - fast[0])
    assert 0 < np.nanmax(difference) <= 0.01 * np.nanmax(np.abs(pillow[0]))
    assert np.nanmax(difference[len(TAKEN) :]) == 0  # Pillow has read all of these


@needs_torchcodec
def test_a_cache_keeps_the_two_apart(files, tmp_path):
    def extractor(decoder, steps):
        return TorchFeatureExtractor(
            conv_net, preprocess=steps, decoder=decoder, cache=tmp_path / "cache"
        ).fit(files[:2])

    known = compose(transforms.Resize(20), transforms.CenterCrop(16))
    for decoder in "pillow", "torchcodec", "auto":
        one = extractor(decoder, known)
        fresh = one.transform(files[:3])
        one.cache = None
        np.testing.assert_array_equal(fresh, one.transform(files[:3]))
    from reactood.cache import FeatureCache

    cache = FeatureCache(tmp_path / "cache")
    decoders = {setting["decoder"] for setting in cache.info()}
    assert decoders == {"pillow", codec.describe_decoder("torchcodec")}
    assert len(cache) == 6
    for decoder in "pillow", "auto":  # of unknown steps there is only one reading
        own = transforms.Compose([transforms.Resize((9, 9)), transforms.ToTensor()])
        extractor(decoder, own).transform(files[:3])
    assert len(cache) == 9


def test_images_that_are_open_are_pillows(by_codec):
    pillow, fast = both(PRESET)
    image = decode(PLAIN)
    assert fast(image).equal(pillow(image))
    assert fast(np.asarray(image)).equal(pillow(np.asarray(image)))
    assert not by_codec


def test_decoder_is_checked():
    with pytest.raises(ValueError, match="'decoder' parameter of TorchFeatureExtrac"):
        TorchFeatureExtractor(conv_net, decoder="opencv").fit(torch.ones(2, 3, 8, 8))


@pytest.mark.parametrize("n_means", [1, 3])
def test_pixels_that_lie_together_are_scaled_alike(n_means, rng):
    steps = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize([0.4, 0.5, 0.6][:n_means], [0.1, 0.2, 0.3][:n_means]),
        ]
    )
    prepare = Preparation(steps, rgb=True)
    apart = [torch.from_numpy(rng.integers(0, 256, (3, 5, 7), dtype=np.uint8))] * 2
    together = [
        x.contiguous().movedim(0, -1).contiguous().movedim(-1, 0) for x in apart
    ]
    batches = [
        collate(list(enumerate(images)))[1][0][1]
        for images in (apart, together, [together[0], apart[1]])
    ]
    assert [batch.is_contiguous() for batch in batches] == [True, False, False]
    finished = [prepare.finish(batch) for batch in batches]
    expected = torch.stack([steps(x.movedim(0, -1).numpy()) for x in apart])
    for batch in finished:
        assert batch.equal(expected)
    assert finished[1].is_contiguous(memory_format=torch.channels_last)
