"""Broken images, dying workers and full memory: nothing is lost, nothing stays."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import conv_net
from PIL import Image
from sklearn.base import clone
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
    TensorDataset,
)
from torchvision import transforms
from torchvision.models import ResNet18_Weights, ViT_B_16_Weights

import reactood._networks._forward
from reactood import ReActDetector, TorchFeatureExtractor
from reactood._images._pixels import as_rgb, read_image
from reactood._images._preparation import Preparation
from reactood._utils._tensors import to_device
from reactood.cache import FeatureCache

SIZE = 16


@pytest.fixture
def X(rng):
    return rng.normal(size=(20, 3, 9, 9)).astype(np.float32)


def small(image):
    return transforms.functional.to_tensor(image.resize((9, 9)))


class Resized:
    """Known steps alone, so that threads share the work."""

    def __new__(cls):
        return transforms.Compose(
            [
                transforms.Resize((9, 9)),
                transforms.ToTensor(),
                transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]),
            ]
        )


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """Paths of 1,000 small JPEG files, of which row 731 is cut short."""
    folder = tmp_path_factory.mktemp("thousand")
    rng = np.random.default_rng(0)
    paths = []
    for row in range(1000):
        path = folder / f"{row:04d}.jpg"
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    whole = paths[731].read_bytes()
    paths[731].write_bytes(whole[: len(whole) // 2])
    return paths


# --- images that cannot be read ------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_a_truncated_file_at_row_731(thousand, num_workers, cache, tmp_path):
    extractor = TorchFeatureExtractor(
        conv_net,
        preprocess=Resized(),
        num_workers=num_workers,
        cache=tmp_path if cache else None,
    ).fit(thousand)
    with pytest.raises(ValueError, match=r"Image 731: .*0731\.jpg.*cannot be read"):
        extractor.transform(thousand)
    good = [path for path in thousand if path != thousand[731]]
    expected = extractor.transform(good)
    extractor.set_params(on_error="nan")
    with pytest.warns(UserWarning, match=r"1 images could not be read.*rows 731 \(I"):
        features = extractor.transform(thousand)
    assert np.isnan(features[731]).all()
    np.testing.assert_array_equal(np.delete(features, 731, axis=0), expected)
    detector = ReActDetector(extractor.head_).fit(expected)
    with pytest.raises(ValueError, match=r"in 1 of 1000 rows, .*\(731\)"):
        detector.score_samples(features)
    if cache:
        assert len(FeatureCache(tmp_path)) == 999


def test_many_bad_images_are_one_warning(photos):
    for path in photos[:2]:
        path.write_bytes(b"no image")
    paths = [*photos, "nowhere.png", photos[0]] + [f"{i}.jpg" for i in range(20)]
    extractor = TorchFeatureExtractor(conv_net, preprocess=small, on_error="nan")
    with pytest.warns(UserWarning, match="24 images could not be read") as caught:
        features = extractor.fit_transform(paths)
    assert len(caught) == 1 and "'nowhere.png' does not exist" in str(caught[0].message)
    bad = [0, 1, 6, 7, *range(8, 28)]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(features).all(1)), bad)
    assert np.isfinite(np.delete(features, bad, axis=0)).all()


@pytest.mark.parametrize("on_error", ["raise", "nan"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_of_images_by_row(photos, tmp_path, on_error, num_workers):
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=small, on_error=on_error, num_workers=num_workers
    ).fit(photos)
    photos[3].write_bytes(b"no image")
    paths = [*photos, "nowhere.png", photos[3]]
    # Without a warning, which would be an error here.
    features, errors = extractor.transform_with_errors(paths)
    assert list(errors) == [3, 6, 7]
    assert [type(error) for error in errors.values()] == [
        ValueError,
        FileNotFoundError,
        ValueError,
    ]
    for row, error in errors.items():
        with pytest.raises(type(error)) as raised:
            extractor.set_params(on_error="raise").transform([photos[0], paths[row]])
        reason = str(error).removeprefix(f"Image {row}: ")
        hint = " To leave such images out: on_error='nan'."
        assert str(raised.value).endswith(reason + hint)
    assert np.isnan(features).all(axis=1).tolist() == [
        row in errors for row in range(8)
    ]
    good = [row for row in range(8) if row not in errors]
    np.testing.assert_array_equal(
        features[good], extractor.transform([paths[row] for row in good])
    )


def small_maker():
    return small


@pytest.mark.parametrize("on_error", ["raise", "nan"])
@pytest.mark.parametrize(
    "preprocess, message",
    [
        ("auto", "preprocess='auto' knows the transform of models given by name"),
        (
            small_maker,
            r"it seems to make the transform: .*preprocess=small_maker\(\)",
        ),
    ],
)
def test_a_wrong_preprocess_is_told_before_a_bad_file(
    photos, on_error, preprocess, message
):
    photos[0].write_bytes(b"")
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=preprocess, on_error=on_error
    )
    with pytest.raises((TypeError, ValueError), match=message):
        extractor.fit(photos)
    extractor.set_params(preprocess=small)
    if on_error == "nan":
        extractor.fit(photos)
    else:
        with pytest.raises(ValueError, match=r"it is empty.*on_error='nan'\.$"):
            extractor.fit(photos)
    extractor.set_params(on_error="raise").fit(photos[1:])
    with pytest.raises(FileNotFoundError, match=r"does not exist.*on_error='nan'\.$"):
        extractor.transform([photos[1], "gone.jpg"])


def test_errors_with_a_cache_an_output_and_dataframes(photos, tmp_path):
    pytest.importorskip("pandas")
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=small, cache=tmp_path / "cache"
    ).fit(photos)
    extractor.set_output(transform="pandas")
    whole, errors = extractor.transform_with_errors(photos)
    assert errors == {} and isinstance(whole, np.ndarray)
    photos[0].write_bytes(b"no image")
    twins = [photos[1], photos[0], photos[0]]
    out = tmp_path / "features.npy"
    _, errors = extractor.transform_with_errors(twins, out=out)
    assert list(errors) == [1, 2]
    np.testing.assert_array_equal(np.load(out)[0], whole[1])
    assert extractor.transform_with_errors(photos[:1])[1].keys() == {0}


def test_twins_of_a_bad_image_are_bad_too(photos, tmp_path):
    photos[0].write_bytes(b"no image")
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=small, on_error="nan", cache=tmp_path
    )
    paths = [photos[1], photos[0], photos[0], photos[1]]
    with pytest.warns(UserWarning, match="2 images could not be read"):
        features = extractor.fit_transform(paths)
    assert np.isnan(features).all(axis=1).tolist() == [False, True, True, False]


def test_nothing_but_bad_images(photos):
    for path in photos:
        path.write_bytes(b"no image")
    extractor = TorchFeatureExtractor(conv_net, preprocess=small, on_error="nan")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        extractor.fit(photos)


@pytest.mark.parametrize("kind", ["array", "list", "dataset", "loader"])
def test_nan_pixels_are_bad_images(X, kind):
    bad = X.copy()
    bad[3, 0, 0, 0] = np.nan
    bad[5, 1, 1, 1] = np.inf
    dataset = TensorDataset(torch.from_numpy(bad))
    images = {
        "array": bad,
        "list": list(bad),
        "dataset": dataset,
        "loader": DataLoader(dataset, batch_size=4),
    }[kind]
    extractor = TorchFeatureExtractor(conv_net, on_error="nan", batch_size=4).fit(X)
    with pytest.warns(UserWarning, match=r"2 images .*rows 3 \(.*; 5 \("):
        features = extractor.transform(images)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(features).all(1)), [3, 5])
    rows = np.setdiff1d(np.arange(20), [3, 5])
    expected = extractor.transform(X)
    np.testing.assert_allclose(features[rows], expected[rows], rtol=1e-5, atol=1e-7)


def test_a_pool_survives_a_bad_file(photos):
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=small, num_workers=2, on_error="nan", batch_size=1
    ).fit(photos)
    expected = extractor.transform(photos)
    photos[2].write_bytes(b"no image")
    with pytest.warns(UserWarning, match="1 images"):
        features = extractor.transform(photos)
    rows = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(features[rows], expected[rows])


# --- workers that die ----------------------------------------------------------------


# A worker that dies while it hands over a tensor leaves its end of a socket open.
HALF_A_CONNECTION = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning"
)


class Deadly(Dataset):
    """Kills the process that asks for item 7, as often as ``lives`` says."""

    def __init__(self, X, path, lives):
        self.X, self.path, self.lives = X, Path(path), lives

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        if index == 7 and torch.utils.data.get_worker_info() is not None:
            deaths = len(self.path.read_bytes()) if self.path.exists() else 0
            if deaths < self.lives:
                self.path.write_bytes(b"." * (deaths + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.from_numpy(self.X[index])


@HALF_A_CONNECTION
@pytest.mark.parametrize("cache", [False, True])
def test_a_worker_killed_once(X, tmp_path, cache):
    extractor = TorchFeatureExtractor(
        conv_net,
        num_workers=2,
        batch_size=2,
        cache=tmp_path / "cache" if cache else None,
    ).fit(X)
    with pytest.warns(UserWarning, match="reads images died .*Starting it again"):
        features = extractor.transform(Deadly(X, tmp_path / "deaths", 1))
    np.testing.assert_array_equal(features, extractor.transform(X))


@HALF_A_CONNECTION
def test_a_worker_that_always_dies(X, tmp_path):
    extractor = TorchFeatureExtractor(conv_net, num_workers=1, batch_size=2).fit(X)
    with (
        pytest.warns(UserWarning, match="Starting it again"),
        pytest.raises(
            RuntimeError, match=r"died twice at the same place, .*rows \[.*\b7\b"
        ),
    ):
        extractor.transform(Deadly(X, tmp_path / "deaths", 99))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_nobody_stays_behind(photos, error, monkeypatch):
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=small, num_workers=2, batch_size=1
    ).fit(photos)

    def interrupted(*args):
        raise error

    monkeypatch.setattr("reactood.extractor._sink.Rows.write", interrupted)
    before = set(multiprocessing.active_children())  # of other tests
    with pytest.raises(error):
        extractor.transform(photos * 20)
    deadline = time.monotonic() + 10
    while set(multiprocessing.active_children()) - before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # else inherited
import sys
sys.path[:0] = {tests!r}
from test_faults import small
from conftest import conv_net
from reactood import TorchFeatureExtractor
paths = {paths!r}
extractor = TorchFeatureExtractor(
    conv_net, preprocess=small, num_workers=2, batch_size=1, cache={folder!r}
).fit(paths)
extractor.transform(paths)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_leaves_no_process_and_a_whole_cache(thousand, tmp_path):
    code = INTERRUPTED.format(
        tests=[*map(str, Path(__file__).parents[:2])],
        paths=[str(path) for path in thousand if path != thousand[731]],
        folder=str(tmp_path / "cache"),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, start_new_session=True
    )
    while process.poll() is None and len(FeatureCache(tmp_path / "cache")) < 20:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert 20 <= len(FeatureCache(tmp_path / "cache")) < 999


# --- memory --------------------------------------------------------------------------


class Limited(torch.nn.Module):
    """Runs out of memory from the third batch on, with more than two images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.calls = conv_net(), 0

    def forward(self, x):
        self.calls += len(x) == 8
        if self.calls > 2 and len(x) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.net(x)


@pytest.mark.parametrize("cache", [False, True])
def test_memory_that_ends_in_the_middle(rng, tmp_path, cache, monkeypatch):
    monkeypatch.setitem(reactood._networks._forward.BATCH_SIZES, "cpu", 8)
    X = rng.normal(size=(50, 3, 9, 9)).astype(np.float32)
    extractor = TorchFeatureExtractor(Limited, cache=tmp_path if cache else None)
    features = extractor.fit(X).transform(X)
    torch.manual_seed(0)
    expected = TorchFeatureExtractor(conv_net()).fit_transform(X)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_less_memory_is_asked_of_a_compiled_model(rng, monkeypatch):
    """It fills up small batches to the size that it was compiled for."""
    sizes = []

    class Compiled:
        def __init__(self, name, backbone, device, precision, batch_size):
            self.backbone, self.batch_size = backbone, batch_size

        def __call__(self, batch):
            sizes.append(self.batch_size)
            if self.batch_size > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            with torch.inference_mode():
                return self.backbone(batch)

    monkeypatch.setitem(reactood._networks._forward.BATCH_SIZES, "cpu", 8)
    monkeypatch.setattr("reactood._networks._frozen.make_engine", Compiled)
    X = rng.normal(size=(5, 3, 9, 9)).astype(np.float32)
    extractor = TorchFeatureExtractor(conv_net, engine="compile").fit(X)
    expected = clone(extractor).set_params(engine="eager").fit(X).model_
    features = extractor.transform(X)
    assert sizes == [8, 2, 2, 2]
    np.testing.assert_allclose(features, expected(torch.from_numpy(X)), rtol=1e-5)


# --- features go to a file -----------------------------------------------------------


def test_features_in_a_file(X, tmp_path):
    extractor = TorchFeatureExtractor(conv_net, batch_size=3)
    expected = extractor.fit_transform(X)
    path = tmp_path / "features.npy"
    mapped = extractor.transform(X, out=path)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, expected)
    np.testing.assert_array_equal(np.load(path), expected)
    np.testing.assert_array_equal(extractor.fit_transform(X, out=str(path)), expected)
    out = np.empty((20, 8), np.float32)
    assert extractor.transform(X, out=out) is out
    np.testing.assert_array_equal(out, expected)
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=6)
    np.testing.assert_array_equal(extractor.transform(loader, out=path), expected)
    assert sorted(os.listdir(tmp_path)) == ["features.npy"]
    ReActDetector(extractor.head_).fit(mapped)


def test_a_file_appears_when_it_is_complete(X, tmp_path):
    path = tmp_path / "features.npy"
    extractor = TorchFeatureExtractor(conv_net, batch_size=3).fit(X)
    extractor.transform(X[:5], out=path)
    before = path.read_bytes()
    X[17] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        extractor.transform(X, out=path)
    assert os.listdir(tmp_path) == ["features.npy"] and path.read_bytes() == before


def test_bad_places_for_features(X, tmp_path):
    extractor = TorchFeatureExtractor(conv_net).fit(X)
    for out, sentence in (
        (np.empty((20, 8)), r"float64 array of shape \(20, 8\), expected a writable"),
        (np.empty((3, 8), np.float32), r"expected .* of shape \(20, 8\)"),
        (np.broadcast_to(np.float32(0), (20, 8)), "read-only float32"),
        (tmp_path / "features.csv", r"name ends in \.npy"),
    ):
        with pytest.raises(ValueError, match=sentence):
            extractor.transform(X, out=out)


class Endless(IterableDataset):
    """Says that it is longer than it is."""

    def __init__(self, X):
        self.X = X

    def __iter__(self):
        return iter(self.X)

    def __len__(self):
        return 99


class EverySecond(Sampler):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter([[row] for row in range(0, self.n, 2)])

    def __len__(self):
        return self.n // 2


def test_out_wants_to_know_the_number_of_rows(X, tmp_path):
    extractor = TorchFeatureExtractor(conv_net).fit(X)
    images = torch.from_numpy(X)
    dataset = TensorDataset(images)
    dropping = BatchSampler(SequentialSampler(dataset), 6, drop_last=True)
    for loader in (
        DataLoader(dataset, shuffle=True),
        DataLoader(dataset, batch_size=6, drop_last=True),
        DataLoader(dataset, batch_sampler=dropping),
        DataLoader(dataset, batch_sampler=EverySecond(20)),
        DataLoader(dataset, batch_sampler=[[3], [4, 5]]),
    ):
        n_rows = sum(len(batch) for (batch,) in loader)
        with pytest.warns(UserWarning, match="shuffles, samples or drops"):
            assert len(extractor.transform(loader)) == n_rows
        with (
            pytest.warns(UserWarning, match="shuffles"),
            pytest.raises(ValueError, match="out= needs the number of rows"),
        ):
            extractor.transform(loader, out=tmp_path / "features.npy")
    loader = DataLoader(Endless(images), batch_size=4)
    assert len(extractor.transform(loader)) == 20
    with pytest.raises(ValueError, match="out= needs the number of rows"):
        extractor.transform(loader, out=tmp_path / "features.npy")
    assert os.listdir(tmp_path) == []


def test_a_loader_of_batches_that_differ(rng):
    """Each batch has one shape; that is for the model to take or not."""
    images = [rng.normal(size=(3, n, n)).astype(np.float32) for n in (9, 9, 12)]
    extractor = TorchFeatureExtractor(conv_net)
    features = extractor.fit_transform(DataLoader(images, batch_size=1))
    for image, row in zip(images, features, strict=True):
        np.testing.assert_allclose(extractor.transform(image[None])[0], row, rtol=1e-5)


def test_stacked_sequences_are_not_a_list_of_images(rng):
    tokens = torch.from_numpy(rng.normal(size=(8, 5, 4)).astype(np.float32))
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3))
    extractor = TorchFeatureExtractor(model).fit(tokens)
    loader = DataLoader(TensorDataset(tokens, 0 * tokens), batch_size=4)
    expected = extractor.transform(tokens)
    np.testing.assert_allclose(extractor.transform(loader), expected, rtol=1e-6)


def test_the_odd_one_out_is_the_bad_one(rng):
    images = [rng.normal(size=(3, 9, 9)).astype(np.float32) for _ in range(6)]
    extractor = TorchFeatureExtractor(conv_net, on_error="nan").fit(images)
    expected = extractor.transform(images)
    images[0] = images[0][:, :5]
    with pytest.warns(UserWarning, match=r"rows 0 \(.*image 1 is \(3, 9, 9\), image 0"):
        features = extractor.transform(images)
    assert np.isnan(features[0]).all()
    np.testing.assert_allclose(features[1:], expected[1:], rtol=1e-5)


def test_an_image_that_pillow_gives_up_on(photos, tmp_path):
    """An open file cut short shows only when its pixels are asked for."""
    cut = tmp_path / "cut.png"
    Image.new("RGB", (300, 300), "red").save(cut)
    cut.write_bytes(cut.read_bytes()[:-100])
    extractor = TorchFeatureExtractor(conv_net, preprocess=small, cache=tmp_path)
    extractor.fit(photos)
    with (
        Image.open(photos[1]) as whole,
        Image.open(cut) as half,
        pytest.raises(ValueError, match="Image 1: "),
    ):
        extractor.transform([whole, half])


class _Catalogue:
    """Looks like a list of images, and opens each when it is asked for."""

    def __init__(self, images):
        self.images, self.asked = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        self.asked += 1
        return Image.fromarray(self.images[row])


def test_a_catalogue_is_asked_once_for_each_image(rng, tmp_path):
    images = rng.integers(0, 256, (20, 9, 9, 3), dtype=np.uint8)
    extractor = TorchFeatureExtractor(conv_net, preprocess=small, cache=tmp_path)
    extractor.fit(images)
    expected = extractor.transform(images)
    catalogue = _Catalogue(images)
    for _ in range(2):
        features = extractor.transform(catalogue)
        np.testing.assert_allclose(features, expected, rtol=1e-5)
    assert catalogue.asked <= 2 * (20 + 2)  # two looks tell what kind of images


# --- pixels until the device ---------------------------------------------------------


@pytest.mark.parametrize(
    "transform",
    [
        None,
        ResNet18_Weights.DEFAULT.transforms(),
        ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms(),
        Resized(),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]),
    ],
    ids=["none", "resnet18", "vit_swag", "compose", "scalar"],
)
def test_batches_of_pixels_become_the_transforms_own_floats(transform, photos):
    prepare = Preparation(transform, rgb=True)
    assert prepare.thread_safe
    for path in photos:
        image = read_image(path)
        expected = (transform or transforms.functional.to_tensor)(image)
        pixels = prepare(path)
        assert pixels.dtype == torch.uint8
        floats = prepare.finish(torch.stack([pixels, pixels]))
        assert torch.equal(floats[1], expected)


def test_timm_transforms_too(photos):
    timm_data = pytest.importorskip("timm.data")
    transform = timm_data.create_transform(input_size=32, is_training=False)
    prepare = Preparation(transform, rgb=True)
    for path in photos:
        pixels = prepare(path)
        assert pixels.dtype == torch.uint8
        expected = transform(read_image(path))
        assert torch.equal(prepare.finish(pixels[None])[0], expected)


class Halved(transforms.ToTensor):
    """The user's own step, whatever it descends from."""

    def __call__(self, pic):
        return super().__call__(pic) / 2


@pytest.mark.parametrize(
    "transform",
    [
        small,
        transforms.Compose([small]),
        transforms.Compose([transforms.ToTensor()]),
        transforms.Compose([transforms.RandomCrop(8), *Resized().transforms]),
        transforms.Compose([*Resized().transforms, transforms.RandomErasing()]),
        transforms.Compose([Halved(), transforms.Normalize(0.5, 0.5)]),
    ],
)
def test_other_transforms_run_whole_and_in_one_thread(transform, photos):
    prepare = Preparation(transform, rgb=True)
    assert not prepare.thread_safe
    assert prepare(photos[0]).is_floating_point()


def test_a_transform_of_another_number_of_channels(rng):
    grey = Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8))
    two = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(*[[0.5] * 2] * 2)]
    )
    extractor = TorchFeatureExtractor(conv_net, preprocess=two)
    with pytest.raises(ValueError, match=r"Image 0: .*broadcast"):
        extractor.fit([grey])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA", "I;16"])
def test_known_steps_that_take_nothing_but_rgb_get_it(mode, rng, tmp_path):
    """Without a step of the user's own, any other mode would be an error."""
    pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(257 * pixels[..., 0].astype(np.uint16))
    else:
        image = image.convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    prepare, expected = Preparation(Resized(), rgb=False), as_rgb(image)
    for item in (image, path):
        pixels = prepare(item)
        assert torch.equal(prepare.finish(pixels[None])[0], Resized()(expected))


def test_threads_keep_the_order(thousand):
    paths = [path for path in thousand if path != thousand[731]]
    extractor = TorchFeatureExtractor(conv_net, preprocess=Resized()).fit(paths)
    features = extractor.transform(paths)
    for row in (0, 1, 31, 32, 500, 998):
        np.testing.assert_allclose(
            extractor.transform([paths[row]])[0], features[row], rtol=1e-5, atol=1e-7
        )
    workers = clone(extractor).set_params(num_workers=2).fit_transform(paths)
    np.testing.assert_array_equal(workers, features)


def test_pixels_and_floats_do_not_mix(X, rng):
    pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    extractor = TorchFeatureExtractor(conv_net, preprocess=None).fit(X)
    with pytest.raises(TypeError, match="expected one kind"):
        extractor.transform([X[0], pixels])


def test_a_factory_is_called_once_per_fit(X):
    calls = []

    def build():
        calls.append(1)
        return conv_net()

    TorchFeatureExtractor(functools.partial(build)).fit_transform(X)
    assert len(calls) == 1


class OnHost:
    """Stands in for a tensor on a machine without CUDA, and notes what is asked."""

    device = torch.device("cpu")

    def __init__(self, pinned, asked):
        self.pinned, self.asked = pinned, asked

    def is_pinned(self):
        return self.pinned

    def clone(self):
        self.asked.append("clone")
        return OnHost(False, self.asked)  # clones are in ordinary memory

    def pin_memory(self):
        if not self.pinned:
            self.asked.append("pin")  # a copy; of pinned memory it would be itself
        return OnHost(True, self.asked)

    def to(self, device, non_blocking=False):
        self.asked.append(("to", device.type, non_blocking))
        return self


@pytest.mark.parametrize("pinned", [False, True])
def test_a_copy_in_flight_reads_memory_of_its_own(pinned):
    asked = []
    to_device(OnHost(pinned, asked), torch.device("cuda"))
    assert asked == ["clone"] * pinned + ["pin", ("to", "cuda", True)]
    asked.clear()
    to_device(OnHost(pinned, asked), torch.device("cpu"))
    assert asked == [("to", "cpu", False)]
