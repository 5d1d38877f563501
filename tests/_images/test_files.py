"""Image files: which are read, in what order, and what is said of the others."""

import errno
import io
import os
import subprocess
import sys
import tarfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import conv_net
from PIL import Image, ImageOps
from torchvision import transforms

from reactood import TorchFeatureExtractor
from reactood._images._files import decode, formats, loaded, short, suffixes
from reactood.datasets import list_images

RESIZED = transforms.Compose(
    [
        transforms.Resize((9, 9)),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.2] * 3),
    ]
)


@pytest.fixture
def many(tmp_path, rng):
    """Paths of 24 photos that take a while to decode."""
    paths = [tmp_path / f"{i:02}.{'png' if i % 2 else 'jpg'}" for i in range(24)]
    for path in paths:
        pixels = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def in_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)


# --- images that were opened only ----------------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_an_image_that_is_there_twice(many, on_error, in_threads):
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=RESIZED, decoder="pillow", on_error=on_error
    )
    expected = extractor.fit_transform(many)
    for _ in range(3):
        images = [Image.open(path) for path in many]
        twice = [image for image in images for _ in range(2)]
        features = extractor.transform(twice)
        np.testing.assert_array_equal(features[::2], features[1::2])
        np.testing.assert_allclose(features[::2], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_that_share_a_file(many, tmp_path, num_workers, in_threads):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for path in many:
            archive.add(path, path.name)
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=RESIZED, decoder="pillow", num_workers=num_workers
    )
    expected = extractor.fit_transform(many)
    for _ in range(1 if num_workers else 3):
        with tarfile.open(tmp_path / "images.tar") as archive:
            images = [Image.open(archive.extractfile(path.name)) for path in many]
            features = extractor.transform(images)
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_an_image_that_two_of_the_users_threads_give(many):
    extractor = TorchFeatureExtractor(conv_net, preprocess=RESIZED, decoder="pillow")
    expected = extractor.fit_transform(many)
    images = [Image.open(path) for path in many]
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return extractor.transform(images)

    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(work, range(4)):
            np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_an_image_whose_file_was_closed(many):
    extractor = TorchFeatureExtractor(conv_net, preprocess=RESIZED)
    with Image.open(many[0]) as image:
        pass
    with pytest.raises(ValueError, match=r"Image 0: .*was closed before .*load\(\)"):
        extractor.fit([image])
    with open(many[0], "rb") as file:
        image = Image.open(file)
    with pytest.raises(ValueError, match=r"Image 0: .*was closed before .*load\(\)"):
        extractor.fit([image])


# --- folders -------------------------------------------------------------------------


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9)).save(path)
    return path


def test_list_images_is_the_order_of_rows(tmp_path, rng):
    for name in ("b/1.png", "a-b/1.png", "a/2.png", "a/10.JPG", "c.png", "a/x/y.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "a" / "notes.txt").touch()
    paths = list_images(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in paths]
    expected = ["a/10.JPG", "a/2.png", "a/x/y.bmp", "a-b/1.png", "b/1.png", "c.png"]
    assert names == [name.replace("/", os.sep) for name in expected]
    assert all(isinstance(path, Path) for path in paths)
    extractor = TorchFeatureExtractor(conv_net, preprocess=RESIZED)
    np.testing.assert_array_equal(
        extractor.fit_transform(tmp_path), extractor.transform(paths)
    )
    assert list_images(str(tmp_path)) == list_images(os.fsencode(tmp_path)) == paths


def test_list_images_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' does not exist"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no image files"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match="the path of one file"):
        list_images(picture(tmp_path / "a.png"))
    with pytest.raises(TypeError, match="folder is a list; expected the path"):
        list_images([tmp_path])


def test_links_to_folders_are_followed_each_time(tmp_path):
    picture(tmp_path / "data" / "cat" / "1.png")
    elsewhere = picture(tmp_path / "elsewhere" / "2.png").parent
    for name in ("dog", "wolf"):  # two links to one folder
        (tmp_path / "data" / name).symlink_to(elsewhere)
    (tmp_path / "data" / "tiger").symlink_to(tmp_path / "data" / "cat")  # a sibling
    (tmp_path / "data" / "0").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "data" / "cat" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data" / "loop")
    found = [
        str(p.relative_to(tmp_path / "data")) for p in list_images(tmp_path / "data")
    ]
    assert found == ["0/1.png", "cat/1.png", "dog/2.png", "tiger/1.png", "wolf/2.png"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "2.png")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "b":  # the tests may run as root, who may all
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    extractor = TorchFeatureExtractor(conv_net, preprocess=RESIZED, on_error="nan")
    for use in (list_images, extractor.fit):
        with pytest.raises(
            PermissionError, match=r"b' cannot be read \(Permission den"
        ):
            use(tmp_path)


@pytest.mark.parametrize("suffix", ["h5", "grib", "bufr", "wmf", "eps", "mpg", "pdf"])
def test_files_that_are_not_decoded_here_do_not_stop_a_folder(suffix, tmp_path):
    path = picture(tmp_path / "1.png")
    starts = {"h5": b"\x89HDF\r\n\x1a\n", "grib": b"GRIB\0\0\0\x01", "bufr": b"BUFR"}
    (tmp_path / f"2.{suffix}").write_bytes(starts.get(suffix, b"%!PS-Adobe-3.0 EPSF"))
    assert list_images(tmp_path) == [path]
    with pytest.raises(ValueError, match="of a format that is not decoded here"):
        decode(tmp_path / f"2.{suffix}")


def test_no_image_starts_another_program(tmp_path, monkeypatch):
    def started(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "check_call", started)
    monkeypatch.setattr(subprocess, "Popen", started)
    Image.new("RGB", (9, 9)).save(tmp_path / "image.eps")
    (tmp_path / "image.eps").rename(tmp_path / "image.jpg")
    with pytest.raises(ValueError, match=r"image\.jpg' cannot be read as an image: it"):
        decode(tmp_path / "image.jpg")


def test_formats_are_those_that_pillow_decodes_itself():
    assert {"JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM"} <= set(formats())
    stubs = {"HDF5", "GRIB", "BUFR", "WMF", "EPS", "MPEG", "IPTC"}
    assert not stubs & set(formats())
    assert set(formats()[:2]) == {"JPEG", "PNG"}
    assert {".jpg", ".jpeg", ".png", ".tif", ".webp", ".mpo", ".gif"} <= suffixes()
    assert not {".h5", ".grib", ".bufr", ".wmf", ".eps", ".ps", ".mpg"} & suffixes()


def test_a_format_that_the_user_registers_is_read(monkeypatch, tmp_path):
    """As plugins for Pillow do."""
    for name in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, name, getattr(Image, name).copy())

    def opened(file, name):
        file.close()
        return Image.new("RGB", (9, 9), "red")

    Image.register_open("MINE", opened, lambda start: start.startswith(b"MINE"))
    Image.register_extension("MINE", ".mine")
    (tmp_path / "a.mine").write_bytes(b"MINE")
    (path,) = list_images(tmp_path)
    assert decode(path).getpixel((0, 0)) == (255, 0, 0)


# --- reasons -------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path, num_workers):
    os.mkfifo(tmp_path / "pipe.jpg")
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=RESIZED, num_workers=num_workers
    )
    extractor.fit([picture(tmp_path / "a" / "1.png")])
    for path, kind in (
        (tmp_path / "pipe.jpg", "a named pipe; expected a regular file"),
        ("/dev/zero", "a device; expected a regular file"),
        (tmp_path / "a", r"a folder; expected an image file.*list_images\(folder\)"),
    ):
        with pytest.raises(ValueError, match=f"Image 0: .* is {kind}"):
            extractor.transform([path])


def raising(error):
    def opened(*args, **kwargs):
        raise error

    return opened


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Denied"), r"no permission to read it \(Denied"),
        (OSError(errno.EMFILE, "Too many"), r"the operating system refuses it \(Too m"),
        (OSError(errno.EIO, "I/O error"), r"the operating system refuses it \(I/O er"),
        (MemoryError(), "there is not enough memory"),
        (
            Image.DecompressionBombError("Image size (9 pixels)"),
            "it has 9 pixels, more",
        ),
        (Image.DecompressionBombWarning("size (9 pix)"), "it has 9 pixels, more than"),
        (OSError("decoder jpeg not available"), "this build of Pillow lacks its dec"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_reason_has_its_own_advice(error, reason, photos, monkeypatch):
    monkeypatch.setattr(Image, "open", raising(error))
    extractor = TorchFeatureExtractor(conv_net, preprocess=RESIZED, decoder="pillow")
    with pytest.raises(
        ValueError, match=f"Image 0: '.*' cannot be read.*{reason}"
    ) as c:
        extractor.fit(photos)
    for advice in ("damaged", "replace it", "Replace"):
        assert advice not in str(c.value)


def test_damage_is_named(photos, tmp_path):
    whole = photos[0].read_bytes()
    for content, reason in (
        (b"", r"it is empty \(0 bytes\)"),
        (b"no image", "it is no image, damaged at its start, or of a format"),
        (whole[: len(whole) // 2], r"it is damaged or cut short \(.*[Tt]runcated"),
    ):
        photos[0].write_bytes(content)
        for item in (photos[0], content if content else b"", io.BytesIO(content)):
            if item != b"no image":  # a path
                with pytest.raises(ValueError, match=reason):
                    decode(item)


def test_a_path_that_cannot_be_one(photos):
    with pytest.raises(ValueError, match=r"is not the path of a file \(embedded null"):
        decode("a\0b")
    with pytest.raises(ValueError, match="the operating system refuses it"):
        decode("x" * 300 + ".png")


def test_a_small_file_with_many_pixels(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    path = tmp_path / "bomb.png"
    extractor = TorchFeatureExtractor(conv_net, preprocess=RESIZED)
    for limit in (9_999, 4_999):  # Pillow warns at the first, refuses the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for item in (path, path.read_bytes()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with pytest.raises(ValueError, match=f"10000 pixels.* of {limit}") as c:
                    extractor.fit([item])
            assert "raise PIL.Image.MAX_IMAGE_PIXELS" in str(c.value)
            assert "damaged" not in str(c.value)
    for limit in (10_000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert extractor.fit_transform([path]).shape == (1, 8)


LIMITED = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.path[:0] = {tests!r}
    from PIL import Image, ImageOps
    from conftest import conv_net
    from test_files import RESIZED
    from reactood import TorchFeatureExtractor
    Image.MAX_IMAGE_PIXELS = 9_999
    extractor = TorchFeatureExtractor(conv_net, preprocess=RESIZED, num_workers=1)
    extractor.fit([{small!r}])
    try:
        extractor.transform([{path!r}])
    except ValueError as error:
        print(error)
"""


def test_the_users_limit_holds_in_new_processes_too(tmp_path):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    code = LIMITED.format(
        tests=[*map(str, Path(__file__).parents[:2])],
        small=str(picture(tmp_path / "a.png")),
        path=str(tmp_path / "bomb.png"),
    )
    (tmp_path / "main.py").write_text(code)
    result = subprocess.run(
        [sys.executable, tmp_path / "main.py"], capture_output=True, text=True
    )
    assert "pixels, more than the limit of 9999" in result.stdout, result.stderr


@pytest.mark.parametrize("value", ["x", b"\xff", "é\n", "'"])
@pytest.mark.parametrize("length", [1, 198, 200, 201, 1000, 10**6])
def test_long_values_are_cut(value, length):
    text = short(value * length)
    assert len(text) <= 200
    if len(repr(value * length)) <= 200:
        assert text == repr(value * length)
    assert len(short([value * length] * 3)) <= 200


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["path", "content", "opened", "opened file"])
def test_tiff_files_are_turned_and_not_scrambled(kind, orientation, tmp_path, rng):
    pixels = rng.integers(0, 256, (6, 9), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.tiff"
    Image.fromarray(pixels).save(path, exif=exif)
    lying = Image.fromarray(pixels)
    lying.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(lying))
    if kind == "opened":
        read = loaded(Image.open(path))
    elif kind == "opened file":
        with open(path, "rb") as file:
            read = loaded(Image.open(file))
    else:
        read = decode(path if kind == "path" else path.read_bytes())
    np.testing.assert_array_equal(np.asarray(read), expected)
