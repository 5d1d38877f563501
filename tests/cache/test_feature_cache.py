"""Every image through the backbone once, whatever happens to the cache."""

import contextlib
import functools
import importlib
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import conv_net
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms

from reactood import TorchFeatureExtractor, make_react_pipeline
from reactood._images._digest import image_digest
from reactood._images._preparation import Preparation
from reactood._utils._fingerprint._walk import identity
from reactood.cache import FeatureCache
from reactood.cache._store import FILE, Store
from reactood.datasets import ImageDataset


@pytest.fixture
def X(rng):
    return rng.normal(size=(40, 3, 9, 9)).astype(np.float32)


class Counted(nn.Module):
    """Appends a byte to a file for every image that passes, in whatever process."""

    def __init__(self, path, width=8):
        super().__init__()
        self.path = str(path)
        torch.manual_seed(0)
        self.net = conv_net(width=width)

    def forward(self, x):
        with open(self.path, "ab") as file:
            file.write(b"." * len(x))
        return self.net(x)


class Count:
    def __init__(self, path):
        self.path = Path(path)
        self.path.touch()

    def __call__(self):
        """Return how many images passed since the last call."""
        n = self.path.stat().st_size
        self.path.write_bytes(b"")
        return n


@pytest.fixture
def count(tmp_path):
    return Count(tmp_path / "count")


@pytest.fixture
def extractor(tmp_path, count):
    model = functools.partial(Counted, count.path)
    return TorchFeatureExtractor(model, cache=tmp_path / "cache", batch_size=8)


def to_tensor(image):
    return transforms.functional.to_tensor(image)


# --- what is found again ------------------------------------------------------------


def test_any_subset_and_order_costs_nothing(extractor, X, count, rng):
    plain = clone(extractor).set_params(cache=None).fit_transform(X)
    extractor.fit(X)
    count()
    np.testing.assert_array_equal(extractor.transform(X), plain)
    assert count() == 40
    rows = rng.permutation(40)[:25]
    for images, expected in [
        (X, plain),
        (X[rows], plain[rows]),
        (torch.from_numpy(X[rows]), plain[rows]),
        (np.asfortranarray(X), plain),
        (X[::-2], plain[::-2]),
    ]:
        np.testing.assert_array_equal(extractor.transform(images), expected)
    assert count() == 0
    again = clone(extractor).fit(X[:3])
    count()
    np.testing.assert_array_equal(again.transform(X), plain)
    assert count() == 0


def test_only_new_images_are_computed(extractor, X, count):
    extractor.fit(X).transform(X[:10])
    count()
    features = extractor.transform(X)
    assert count() == 30
    plain = clone(extractor).set_params(cache=None).fit_transform(X)
    np.testing.assert_array_equal(features, plain)


def test_the_same_image_twice_is_computed_once(extractor, X, count):
    extractor.fit(X)
    count()
    features = extractor.transform(np.concatenate([X[:9], X[:9], X[:1]]))
    assert count() == 9
    np.testing.assert_array_equal(features[:9], features[9:18])
    np.testing.assert_array_equal(features[0], features[18])


def test_all_kinds_of_images(extractor, photos, X, count):
    extractor.set_params(
        preprocess=transforms.Compose(
            [
                transforms.Resize((9, 9)),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.2] * 3),
            ]
        )
    )
    pil = [Image.open(path).convert("RGB") for path in photos]
    pixels = np.stack([np.asarray(image.resize((9, 9))) for image in pil])
    dataset = TensorDataset(torch.from_numpy(X))
    for images in (
        photos,
        [str(path) for path in photos],
        pd.Series([str(path) for path in photos]),
        photos[0].parents[1],
        pil,
        pixels,
        list(pixels),
        X,
        dataset,
        ImageDataset(dataset),
        DataLoader(dataset, batch_size=3),
    ):
        extractor.fit(images)
        first = extractor.transform(images)
        count()
        np.testing.assert_array_equal(extractor.transform(images), first)
        assert count() == 0, type(images)


def test_a_changed_file_is_another_image(extractor, photos, count):
    extractor.set_params(preprocess=None)
    path = photos[0]
    Image.new("RGB", (9, 9), "red").save(path)
    red = extractor.fit([path]).transform([path])
    Image.new("RGB", (9, 9), "blue").save(path)
    os.utime(path, ns=(1, 1))
    blue = extractor.transform([path])
    assert not np.array_equal(red, blue)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_replaced_while_it_is_read_is_not_kept(tmp_path, count, num_workers):
    """Not under the key of the file that was there when the cache was asked."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.new("RGB", (9, 9), "red").save(path)
    blue = tmp_path / "blue.png"

    def replacing(image):
        if blue.exists() and image.getpixel((0, 0)) == (255, 0, 0):
            os.replace(blue, paths[1])
        return to_tensor(image)

    model = functools.partial(Counted, count.path)
    extractor = TorchFeatureExtractor(
        model, preprocess=replacing, cache=tmp_path / "cache", num_workers=num_workers
    ).fit(paths)
    Image.new("RGB", (9, 9), "blue").save(blue)
    mixed = extractor.transform(paths)
    assert not blue.exists()
    assert len(FeatureCache(tmp_path / "cache")) == 2
    plain = clone(extractor).set_params(cache=None).fit(paths).transform(paths)
    np.testing.assert_allclose(mixed[[0, 2]], plain[[0, 2]], rtol=1e-5)
    again = extractor.transform(paths)  # another batch, so other last digits
    np.testing.assert_allclose(again, plain, rtol=1e-5)


def test_settings_never_share_rows(extractor, X, photos, count):
    extractor.fit(X).transform(X)
    count()
    half = transforms.Compose([transforms.Resize((4, 4)), transforms.ToTensor()])
    whole = transforms.Compose([transforms.Resize((9, 9)), transforms.ToTensor()])
    for parameters, images in (
        ({"model": functools.partial(Counted, count.path, width=4)}, X),
        ({"layer": "net.2"}, X),
        ({"precision": "bfloat16"}, X),
        ({"preprocess": half}, photos),
        ({"preprocess": whole}, photos),
    ):
        other = clone(extractor).set_params(**parameters)
        expected = clone(other).set_params(cache=None).fit_transform(images)
        other.fit(images)
        count()
        np.testing.assert_array_equal(other.transform(images), expected)
        assert count() == len(images), parameters
        other.transform(images)
        assert count() == 0
    assert len(FeatureCache(extractor.cache).info()) == 6


def test_rows_belong_to_what_was_fitted(extractor, X, count):
    """Not to what the parameters say by now."""
    extractor.fit(X).transform(X)
    count()
    extractor.set_params(layer="net.0")
    features = extractor.transform(X)
    assert count() == 0
    other = clone(extractor).fit(X)
    count()
    assert other.transform(X).shape == features.shape
    assert not np.array_equal(other.transform(X), features)
    assert count() == 40
    (_, first), (_, second) = (
        (s["id"], s["layer"]) for s in FeatureCache(extractor.cache).info()
    )
    assert (first, second) == (None, "net.0")


def test_pixels_cut_to_size_are_another_image(extractor, rng):
    """Not the one that they would be cut out of once more."""
    images = [Image.fromarray(p) for p in rng.integers(0, 256, (4, 12, 12, 3), "u1")]
    steps = transforms.CenterCrop(6), transforms.Resize(9), transforms.ToTensor()
    crop = transforms.Compose([*steps, transforms.Normalize(0.5, 0.5)])
    extractor.set_params(preprocess=crop).fit(images)
    of_dataset = extractor.transform(ImageDataset([(i, 0) for i in images]))
    cut = torch.stack([Preparation(crop, rgb=False)(image) for image in images])
    assert cut.dtype == torch.uint8
    features = extractor.transform(cut)
    expected = clone(extractor).set_params(cache=None).fit(cut).transform(cut)
    np.testing.assert_array_equal(features, expected)
    assert not np.array_equal(features, of_dataset)


def test_the_weights_of_a_file_are_what_counts(tmp_path, X, count):
    path = tmp_path / "weights.pt"

    def load():
        model = Counted(count.path)
        model.load_state_dict(torch.load(path))
        return model

    torch.save(Counted(count.path).state_dict(), path)
    extractor = TorchFeatureExtractor(load, cache=tmp_path / "cache").fit(X)
    before = extractor.transform(X)
    weights = torch.load(path)
    weights["net.0.weight"][0, 0, 0, 0] += 0.5
    torch.save(weights, path)
    extractor.fit(X)
    count()
    after = extractor.transform(X)
    assert count() == 40
    assert not np.array_equal(before, after)


def test_named_models_are_not_even_built(tmp_path, rng, monkeypatch):
    X = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    extractor = TorchFeatureExtractor("resnet18", weights=None, cache=tmp_path)
    features = extractor.fit_transform(X)
    monkeypatch.setattr("reactood._networks._build.build_network", None)
    np.testing.assert_array_equal(clone(extractor).fit_transform(X), features)


def test_an_unmarked_preprocess_cannot_be_cached(extractor, photos):
    with threading.Lock() as _:
        lock = threading.Lock()
    extractor.set_params(preprocess=lambda image: (lock, to_tensor(image))[1])
    sized = [photos[2]]
    with pytest.raises(
        ValueError, match=r"cache= needs an identity of preprocess=.* lock"
    ):
        extractor.fit_transform(sized)


# --- identities ---------------------------------------------------------------------


def test_identities_see_what_matters():
    def scaled(factor):
        return lambda image: to_tensor(image) * factor

    class Add:
        def __init__(self, value):
            self.value = value

        def __call__(self, image):
            return to_tensor(image) + self.value

    class Subtract(Add):
        def __call__(self, image):
            return to_tensor(image) - self.value

    things = [
        scaled(1),
        scaled(2),
        Add(1),
        Add(2),
        Subtract(1),
        functools.partial(to_tensor),
        functools.partial(to_tensor, image=None),
        transforms.Resize(9),
        transforms.Resize(9, transforms.InterpolationMode.NEAREST),
        np.arange(3),
        np.arange(3.0),
        torch.arange(3),
        nn.Linear(2, 2),
        nn.Sequential(nn.ReLU()),
        nn.Sequential(nn.GELU()),
        [1, 2],
        {1: 2},
        {1, 2},
        "a",
        b"a",
        None,
    ]
    seen = [identity(thing) for thing in things]
    assert len(set(seen)) == len(seen)
    assert identity(scaled(1)) == seen[0]
    assert identity(Add(1)) == seen[2]


def test_identities_survive_the_process():
    code = textwrap.dedent(
        """
        import torch, functools
        from torchvision import transforms
        from reactood._utils._fingerprint._walk import identity
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        net[0].register_forward_hook(print)
        names = {"b", "a", "c"}
        resize = lambda image, size=9: transforms.functional.resize(image, size)
        print(identity((net, names, resize, transforms.Compose([resize]))))
        """
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(outputs) == 1


HELPER = """
import functools
import numpy as np
MEAN = {mean}
def scale(image, by={by}):
    return np.asarray(image) * by
@functools.lru_cache
def table():
    return {table}
class Prepare:
    offset = {offset}
    @functools.cached_property
    def shift(self):
        return {shift}
    def __call__(self, image):
        return scale(image) - MEAN[0] + self.offset[0] + self.shift + table()
"""
DEFAULTS = {"mean": [1], "by": 1, "table": 1, "offset": (1,), "shift": 1}


CHANGES = {"mean": [2], "by": 2, "table": 2, "offset": (2,), "shift": 2}


@pytest.mark.parametrize("change", [{}, *({k: v} for k, v in CHANGES.items())])
@pytest.mark.parametrize("name", ["helper_of_mine", "antigravity"])
@pytest.mark.parametrize("use", ["Prepare", "call", "package"])
def test_identities_see_what_a_function_uses(tmp_path, monkeypatch, change, name, use):
    """Also where a script of the user's has the name of one of Python's modules."""
    monkeypatch.syspath_prepend(tmp_path)

    def look(**values):
        (tmp_path / f"{name}.py").write_text(HELPER.format_map(DEFAULTS | values))
        for module in name, "package_of_mine":
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        module = types.ModuleType("package_of_mine")
        module.helper = importlib.import_module(name)
        module.helper.parent = module  # modules may hold each other
        names = {"helper": module.helper, "outer": module, "__name__": "__main__"}
        exec("def call(image):\n return helper.Prepare()(image)", names)
        exec("def package(image):\n return outer.helper.Prepare()(image)", names)
        return identity(names.get(use) or module.helper.Prepare())

    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        assert (look() == look(**change)) == (not change)
    finally:
        sys.dont_write_bytecode = before
        sys.modules.pop(name)


def test_what_a_function_uses_must_have_an_identity():
    names = {"lock": threading.Lock()}
    exec("def locked(x):\n with lock: return x.lock", names)
    with pytest.raises(TypeError, match="'lock', which locked uses"):
        identity(names["locked"])
    exec("def free(x): return x.lock", names)  # an attribute, not the global
    identity(names["free"])


def test_digests_of_images(rng):
    pixels = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    different = [
        pixels,
        pixels.reshape(4, 6, 3),
        pixels.astype(np.float32),
        pixels + 1,
        image,
        image.convert("L"),
        image.resize((3, 3)),
    ]
    assert len({image_digest(item) for item in different}) == len(different)
    same = [pixels, torch.from_numpy(pixels), np.asfortranarray(pixels)]
    assert len({image_digest(item) for item in same}) == 1
    assert image_digest("/nowhere.jpg") is None


# --- the store ----------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 9)), max_size=30))
def test_a_store_is_a_dict(tmp_path_factory, items):
    expected = {}
    folder = tmp_path_factory.mktemp("store")
    with Store(folder, "a", {}, 2) as store, Store(folder, "b", {}, 2) as other:
        for key, value in items:
            row = np.full((1, 2), value, np.float32)
            store.put([key], row)
            other.put([key], row + 100)
            expected[key] = row[0].tolist()
        found = store.get([*expected, b"more", None])
    assert {key: row.tolist() for key, row in found.items()} == expected


def test_a_damaged_row_is_not_served(tmp_path):
    with Store(tmp_path, "a", {}, 2) as store:
        store.put([b"1", b"2", b"3"], np.ones((3, 2), np.float32))
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("UPDATE rows SET features = ? WHERE image = ?", (b"1234", b"1"))
    connection.execute("UPDATE rows SET features = ? WHERE image = ?", (b"8" * 8, b"2"))
    connection.commit()
    connection.close()
    with Store(tmp_path, "a", {}, 2) as store:
        assert list(store.get([b"1", b"2", b"3"])) == [b"3"]
        store.put([b"1"], np.zeros((1, 2), np.float32))
        assert sorted(store.get([b"1", b"2"])) == [b"1"]


def test_claims_are_hints(tmp_path):
    one, two = (Store(tmp_path, "a", {}, 2) for _ in range(2))
    with two:
        with one:
            assert one.claim([b"1", b"2", None]) == ({}, set())
            assert two.claim([b"1", b"3"]) == ({}, {b"1"})
            assert two.claim([b"1"], force=True) == ({}, set())
            assert one.claim([b"1", b"3"]) == ({}, {b"3"})
            one.put([b"1"], np.ones((1, 2), np.float32))
            found, others = two.claim([b"1", b"2"])
            assert list(found) == [b"1"] and others == {b"2"}
        assert two.claim([b"2"]) == ({}, set())  # the other is gone


def test_more_claims_than_a_query_takes(tmp_path):
    keys = [b"%d" % i for i in range(40_000)]  # more than one query takes
    with Store(tmp_path, "a", {}, 2) as one, Store(tmp_path, "a", {}, 2) as two:
        assert one.claim(keys) == ({}, set())
        assert two.claim(keys) == ({}, set(keys))


def test_rows_put_after_somebody_cleared_the_cache(tmp_path):
    row = np.ones((1, 2), np.float32)
    with Store(tmp_path, "a", {}, 2) as one:
        one.put([b"1"], row)
        FeatureCache(tmp_path).clear()
        with Store(tmp_path, "a", {}, 2) as two:  # the setting has a new number
            one.put([b"2"], row)
            assert list(two.get([b"1", b"2"])) == [b"2"]
    assert len(FeatureCache(tmp_path)) == 1


def test_many_open_a_new_cache_at_once(tmp_path):
    """SQLite reports a lock, without waiting, while another sets up its log."""

    def open_it(folder, barrier):
        barrier.wait()
        with Store(folder, "a", {}, 2) as store:
            worked.append(store.writable)

    worked = []
    for i in range(80):
        barrier = threading.Barrier(4)
        arguments = tmp_path / str(i), barrier
        threads = [threading.Thread(target=open_it, args=arguments) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert worked == [True] * 80 * 4


def test_the_size_is_bounded_and_the_oldest_go(tmp_path, rng):
    limit = 600_000
    rows = rng.normal(size=(1000, 500)).astype(np.float32)  # 2 MB
    with Store(tmp_path, "a", {}, 500, max_bytes=limit) as store:
        for i in range(0, 1000, 20):
            store.put([b"%d" % j for j in range(i, i + 20)], rows[i : i + 20])
            store.get([b"0"])  # in use all the time
    cache = FeatureCache(tmp_path, max_bytes=limit)
    assert 0.5 * limit < cache.n_bytes <= limit
    assert (tmp_path / FILE).stat().st_size <= 1.5 * limit
    with Store(tmp_path, "a", {}, 500, max_bytes=limit) as store:
        found = store.get([b"%d" % j for j in range(1000)])
    assert b"0" in found and b"999" in found and b"1" not in found
    np.testing.assert_array_equal(found[b"999"], rows[999])


def test_inspecting_and_clearing(extractor, X, tmp_path):
    cache = FeatureCache(extractor.cache)
    assert cache.info() == [] and len(cache) == cache.n_bytes == cache.clear() == 0
    assert not Path(cache.folder).exists()
    extractor.set_params(cache=cache).fit(X).transform(X)
    clone(extractor).set_params(layer="net.2").fit(X).transform(X[:5])
    first, second = cache.info()
    assert (first["n_rows"], second["n_rows"], len(cache)) == (40, 5, 45)
    assert (first["model"], first["layer"], second["layer"]) == (
        "Counted",
        None,
        "net.2",
    )
    assert abs(first["last_used"] - time.time()) < 600
    with pytest.raises(ValueError, match="setting=99 is not in the cache"):
        cache.clear(99)
    assert cache.clear(second["id"]) == 5 and len(cache) == 40
    assert cache.clear() == 40 and cache.info() == []


def test_bad_caches(net, X):
    with pytest.raises(TypeError, match="folder is a int"):
        FeatureCache(3)
    with pytest.raises(TypeError, match="folder is a bytes"):
        FeatureCache(b"folder")
    with pytest.raises(ValueError, match="max_bytes=0"):
        FeatureCache("folder", max_bytes=0)
    with pytest.raises(TypeError, match="max_bytes='1 GB' is a str"):
        FeatureCache("folder", max_bytes="1 GB")
    with pytest.raises(ValueError, match="'cache' parameter"):
        TorchFeatureExtractor(net, cache=3).fit(X)
    assert repr(FeatureCache("f", max_bytes=9)) == "FeatureCache('f', max_bytes=9)"


@pytest.mark.parametrize("folder", ["", " "])
def test_an_empty_name_is_no_place_for_a_cache(net, X, folder, tmp_path, monkeypatch):
    """It would be the working directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"is empty, expected the path of a folder"):
        FeatureCache(folder)
    extractor = TorchFeatureExtractor(net, cache=folder)
    with pytest.raises(ValueError, match=r"is empty, expected the path of a folder"):
        extractor.fit(X)
    extractor.set_params(cache=None).fit(X).set_params(cache=folder)
    with pytest.raises(ValueError, match=r"is empty, expected the path of a folder"):
        extractor.transform(X)
    assert not list(tmp_path.iterdir())


def test_a_cache_stays_where_it_was_when_the_working_directory_changes(
    extractor, X, count, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    cache = FeatureCache("relative")
    extractor.set_params(cache=cache).fit(X).transform(X)
    count()
    monkeypatch.chdir(tmp_path / "elsewhere")
    extractor.transform(X)
    assert count() == 0 and len(cache) == 40
    assert len(pickle.loads(pickle.dumps(cache))) == 40
    assert (tmp_path / "relative" / FILE).exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_is_no_folder_to_inspect(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    for ask in FeatureCache(path).info, FeatureCache(path).clear:
        with pytest.raises(OSError, match="is a file, expected a folder"):
            ask()


def test_a_pipe_in_the_place_of_the_file_is_left_alone(extractor, X, expected):
    Path(extractor.cache).mkdir()
    os.mkfifo(Path(extractor.cache, FILE))
    with pytest.warns(UserWarning, match="is no file"):
        np.testing.assert_array_equal(extractor.fit_transform(X), expected)


def test_a_folder_that_cannot_be_made_costs_the_cache_alone(extractor, X, expected):
    for folder in "/proc/no/such/place", "/dev/null/cache":
        extractor.set_params(cache=folder)
        with pytest.warns(UserWarning, match="cannot be used"):
            np.testing.assert_array_equal(extractor.fit_transform(X), expected)


# --- searches -----------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_search_is_one_pass(tmp_path, X, count, n_jobs):
    y = np.where(np.arange(40) % 4, 1, -1)
    pipeline = make_react_pipeline(
        functools.partial(Counted, count.path), cache=tmp_path / "cache", batch_size=4
    )
    search = GridSearchCV(
        pipeline,
        {"detector__percentile": [70, 75, 80, 85, 90, 95, 99]},
        scoring="roc_auc",
        cv=5,
        n_jobs=n_jobs,
    ).fit(X, y)
    n = count()
    # Each process proves the head on a few images, a few times over, once.
    assert n <= 40 + n_jobs * 60, n
    plain = clone(search).set_params(estimator__extractor__cache=None, n_jobs=1)
    scores = plain.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], scores)


def test_a_search_over_layers_and_precisions(tmp_path, X, count):
    y = np.where(np.arange(40) % 4, 1, -1)
    pipeline = make_react_pipeline(
        functools.partial(Counted, count.path),
        cache=tmp_path / "cache",
        head=(np.eye(3, 8, dtype=np.float32), np.zeros(3, np.float32)),
    )
    grid = {
        "extractor__layer": [None, "net.2"],
        "extractor__precision": ["float32", "bfloat16"],
        "detector__percentile": [80, 90],
    }
    search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert [s["n_rows"] for s in FeatureCache(tmp_path / "cache").info()] == [40] * 4
    count()
    clone(search).fit(X, y)
    assert count() == 0


def test_progress_is_over_images_that_are_computed(extractor, X, capsys):
    extractor.set_params(verbose=True).fit(X).transform(X[:10])
    assert "10/10" in capsys.readouterr().err
    extractor.transform(X)
    assert "30/30" in capsys.readouterr().err
    extractor.transform(X)
    assert capsys.readouterr().err == ""


# --- several processes --------------------------------------------------------------


def _extract(model, folder, X, queue):
    extractor = TorchFeatureExtractor(model, cache=folder, batch_size=4)
    queue.put(extractor.fit(X).transform(X))


def test_processes_share_the_work(tmp_path, rng, count):
    X = rng.normal(size=(120, 3, 9, 9)).astype(np.float32)
    model = functools.partial(Counted, count.path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_extract, args=(model, tmp_path / "cache", X, queue))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    expected = TorchFeatureExtractor(model).fit_transform(X)
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert len(FeatureCache(tmp_path / "cache")) == 120


KILLED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # else inherited
import sys, functools
import numpy as np
sys.path[:0] = {tests!r}
from test_feature_cache import Counted
from reactood import TorchFeatureExtractor
X = np.load({X!r})
extractor = TorchFeatureExtractor(
    functools.partial(Counted, {count!r}), cache={folder!r}, batch_size=1,
    preprocess=None,
).fit(X)
print("ready", flush=True)
extractor.transform(X)
print("done", flush=True)
"""


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_leaves_the_cache_whole(tmp_path, rng, count, signal_):
    X = rng.normal(size=(2000, 3, 9, 9)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    folder = tmp_path / "cache"
    code = KILLED.format(
        tests=[*map(str, Path(__file__).parents[:2])],
        X=str(tmp_path / "X.npy"),
        count=str(count.path),
        folder=str(folder),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.readline() == b"ready\n"
    while not (folder / FILE).exists() or len(FeatureCache(folder)) < 20:
        time.sleep(0.01)
    process.send_signal(signal_)
    out, err = process.communicate(timeout=60)
    assert b"done" not in out
    assert (signal_ == signal.SIGKILL) or b"KeyboardInterrupt" in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left
    extractor = TorchFeatureExtractor(
        functools.partial(Counted, count.path),
        cache=folder,
        batch_size=1,
        preprocess=None,
    ).fit(X)
    n_rows = len(FeatureCache(folder))
    assert 20 <= n_rows < 2000
    count()
    features = extractor.transform(X)
    assert count() == 2000 - n_rows
    np.testing.assert_array_equal(
        features, clone(extractor).set_params(cache=None).fit(X).transform(X)
    )


# --- what may go wrong with the file ------------------------------------------------


@pytest.fixture
def expected(extractor, X):
    return clone(extractor).set_params(cache=None).fit_transform(X)


def test_no_cache_at_all_if_the_file_is_damaged(extractor, X, expected):
    Path(extractor.cache).mkdir()
    Path(extractor.cache, FILE).write_bytes(b"no database" * 1000)
    with pytest.warns(UserWarning, match="cannot be used .*If the file is damaged"):
        features = extractor.fit_transform(X)
    np.testing.assert_array_equal(features, expected)


def test_a_cache_of_another_version(extractor, X, expected):
    extractor.fit_transform(X)
    connection = sqlite3.connect(Path(extractor.cache, FILE))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.warns(UserWarning, match="written in format 99, expected 2"):
        np.testing.assert_array_equal(extractor.transform(X), expected)


def test_files_of_older_versions_are_left_alone(extractor, X, expected):
    Path(extractor.cache).mkdir()
    old = Path(extractor.cache, "features-v1.sqlite")
    old.write_bytes(b"whatever an older version wrote")
    np.testing.assert_array_equal(extractor.fit_transform(X), expected)
    assert old.read_bytes() == b"whatever an older version wrote"
    assert len(FeatureCache(extractor.cache)) == 40


def test_a_full_disk_costs_the_cache_alone(extractor, X, expected, monkeypatch):
    real = Store._transaction

    def full(self):
        if self.setting is not None:
            n = self.connection.execute("PRAGMA page_count").fetchone()[0]
            self.connection.execute(f"PRAGMA max_page_count = {n}")
        return real(self)

    monkeypatch.setattr(Store, "_transaction", full)
    monkeypatch.setattr(Store, "claim", lambda self, keys, force: ({}, set()))
    wide = TorchFeatureExtractor(
        functools.partial(conv_net, width=3000), cache=extractor.cache, batch_size=8
    )
    plain = clone(wide).set_params(cache=None).fit_transform(X)
    with pytest.warns(UserWarning, match="cannot be written .*full") as caught:
        features = wide.fit_transform(X)
    assert len(caught) == 1
    np.testing.assert_array_equal(features, plain)


READ_ONLY = """
import os, sys, warnings
import numpy as np
sys.path[:0] = {tests!r}
from conftest import conv_net
from reactood import TorchFeatureExtractor
extractor = TorchFeatureExtractor(conv_net, cache={folder!r})
X = np.random.default_rng(0).normal(size=(40, 3, 9, 9)).astype(np.float32)
first = extractor.fit(X).transform(X[:30])
os.setuid(65534)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    again = extractor.transform(X)
assert np.array_equal(again[:30], first), again
[warning] = caught
print(warning.message)
"""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can give up its rights",
)
def test_a_read_only_folder():
    with tempfile.TemporaryDirectory() as parent:  # tmp_path is closed to others
        os.chmod(parent, 0o755)
        folder = os.path.join(parent, "cache")
        code = READ_ONLY.format(
            tests=[*map(str, Path(__file__).parents[:2])], folder=folder
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True)
        assert b"is read-only; new rows are lost" in done.stdout, done.stderr
        assert len(FeatureCache(folder)) == 30


def test_a_folder_without_write_access(extractor, X, expected, monkeypatch, count):
    extractor.fit(X).transform(X[:30])
    monkeypatch.setattr(os, "access", lambda *args: False)
    count()
    with pytest.warns(UserWarning, match="is read-only; new rows are lost"):
        np.testing.assert_array_equal(extractor.transform(X), expected)
    assert count() == 10


def test_a_cache_whose_place_is_taken_by_a_file(extractor, X, expected):
    Path(extractor.cache).write_text("a file")
    with pytest.warns(UserWarning, match="cannot be used"):
        np.testing.assert_array_equal(extractor.fit_transform(X), expected)


# --- damage: every outcome is the right features, or a warning beside them ------------

WIDTH = 3
KEYS = [bytes([i]) * 16 for i in range(12)]
ROWS = np.random.default_rng(0).normal(size=(12, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """The bytes of a file with rows of two settings, keys alike, features not."""
    folder = tmp_path_factory.mktemp("healthy")
    for digest, rows in ("a" * 32, ROWS), ("b" * 32, -ROWS):
        with Store(folder, digest, {"model": digest}, WIDTH, 10**9) as store:
            store.put(KEYS[:10], rows[:10])
            store.claim(KEYS[10:])
    return (folder / FILE).read_bytes()


def _survives(folder, content):
    """Use a damaged file in all ways; return whether there was a warning."""
    path = folder / FILE
    for other in folder.iterdir():
        other.unlink()
    path.write_bytes(content)
    right = dict(zip(KEYS, ROWS, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with Store(folder, "a" * 32, {}, WIDTH, 10**9) as store:
                found = store.get(KEYS)
                found |= store.claim(KEYS)[0]
                store.put(KEYS[::2], ROWS[::2])
                found |= store.get([*KEYS, None])
            for key, row in found.items():
                np.testing.assert_array_equal(row, right[key])
        with contextlib.suppress(OSError):
            FeatureCache(folder).info()
    assert all(w.category is UserWarning for w in caught), caught
    return bool(caught)


def _flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_no_flipped_bit_serves_another_rows_features(tmp_path, healthy, rng):
    assert not _survives(tmp_path, healthy)
    used = [i for i, byte in enumerate(healthy) if byte]
    bits = 8 * rng.choice(used, 250) + rng.integers(0, 8, 250)
    bits = [*bits.tolist(), *rng.integers(0, 8 * len(healthy), 30).tolist()]
    warned = [_survives(tmp_path, _flipped(healthy, bit)) for bit in bits]
    assert 0 < sum(warned) < len(warned)


@pytest.mark.slow
def test_no_flipped_bit_of_all_serves_another_rows_features(tmp_path, healthy):
    for place in (i for i, byte in enumerate(healthy) if byte):
        for bit in range(8):
            _survives(tmp_path, _flipped(healthy, 8 * place + bit))


@pytest.mark.slow
def test_no_overwritten_part_serves_another_rows_features(tmp_path, healthy, rng):
    for _ in range(3000):
        damaged = bytearray(healthy)
        for _ in range(rng.integers(1, 4)):
            start, length = rng.integers(0, len(healthy)), rng.integers(1, 3000)
            source = rng.integers(0, len(healthy))  # pages copied over others, too
            damaged[start : start + length] = healthy[source : source + length]
        _survives(tmp_path, bytes(damaged[: rng.integers(1, len(damaged) + 1)]))


def _changed(healthy, folder, *statements):
    path = folder / "changed.sqlite"
    path.write_bytes(healthy)
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    return path.read_bytes()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
TABLE = "setting, image, used, checksum, features"
HOSTILE = {
    "an endless view": (
        "DROP TABLE rows",
        f"CREATE VIEW rows AS {ENDLESS} "
        "SELECT 1 AS setting, x'00' AS image, 0.0 AS used, 0 AS checksum, "
        "x'00' AS features FROM n",
    ),
    "an endless view of settings": (
        "DROP TABLE settings",
        f"CREATE VIEW settings AS {ENDLESS} "
        "SELECT i AS id, 'x' AS digest, '{}' AS about FROM n",
    ),
    "an endless trigger": (
        "CREATE TRIGGER t AFTER INSERT ON claims BEGIN INSERT INTO rows SELECT * FROM "
        f"({ENDLESS} SELECT i, x'00', 0.0, 0, x'00' FROM n); END",
    ),
    "other columns": (
        "DROP TABLE rows",
        f"CREATE TABLE rows ({TABLE})",
    ),
    "no tables": ("DROP TABLE rows", "DROP TABLE claims"),
    "a name that is no text": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = CAST(x'fffe80' AS TEXT) WHERE name = 'rows'",
    ),
    "a table named in no text": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET name = CAST(x'fffe80' AS TEXT) WHERE name = 'rows'",
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_file_with_other_tables_costs_the_cache_alone(tmp_path, healthy, how):
    folder = tmp_path / "cache"
    folder.mkdir()
    assert _survives(folder, _changed(healthy, tmp_path, *HOSTILE[how]))


WRONG = {
    "an integer": "rows SET features = 7",
    "text": "rows SET features = 'twelve bytes'",
    "no text": "rows SET features = CAST(x'fffe80fffe80fffe80fffe80' AS TEXT)",
    "a long one": "rows SET features = zeroblob(900000)",
    "another row's": "rows SET features = (SELECT min(features) FROM rows)",
    "text for a checksum": "rows SET checksum = 'a'",
    "another checksum": "rows SET checksum = checksum + 1",
    "text for the image": "rows SET image = 'a' || hex(image)",
    "a date that is none": "rows SET used = 'yesterday'",
    "another setting": "rows SET setting = setting + 1",
    "other settings": "settings SET id = 100 - id",
    "a setting that is no text": "settings SET digest = x'fffe' || digest",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_value_in_a_row_is_never_served(tmp_path, healthy, how):
    folder = tmp_path / "cache"
    folder.mkdir()
    _survives(folder, _changed(healthy, tmp_path, f"UPDATE {WRONG[how]}"))


def test_rows_of_another_setting_are_never_served(tmp_path):
    """Also where the file says that they are this setting's."""
    one = np.ones((1, 2), np.float32)
    with Store(tmp_path, "a", {}, 2) as a, Store(tmp_path, "b", {}, 2) as b:
        a.put([b"1"], one)
        b.put([b"2"], one)
        assert [*a.get([b"1"]), *b.get([b"2"])] == [b"1", b"2"]
        a.connection.execute(
            "UPDATE rows SET setting = (SELECT sum(id) FROM settings) - setting"
        )
        assert a.get([b"1", b"2"]) == b.get([b"1", b"2"]) == {}


def test_an_index_that_names_another_row_serves_nothing(tmp_path):
    """Features, key and checksum are whole, but not of one row."""
    with Store(tmp_path, "a", {}, 2) as store:
        store.put([b"1", b"2"], np.arange(4, dtype=np.float32).reshape(2, 2))
        swap = (
            "UPDATE rows SET {0} = (SELECT {0} FROM rows AS o WHERE o.image = x'{1}')"
        )
        for column in "features", "checksum":
            store.connection.execute(swap.format(column, b"1".hex()))
        assert list(store.get([b"1", b"2"])) == [b"1"]


def test_a_damaged_cache_cannot_be_inspected_and_says_so(tmp_path):
    with Store(tmp_path, "a", {}, 2) as store:
        store.put([b"1"], np.ones((1, 2), np.float32))
        store.connection.execute("UPDATE settings SET about = x'ff'")
    cache = FeatureCache(tmp_path)
    with pytest.raises(OSError, match=r"cannot be used .*description is damaged"):
        cache.info()
    (tmp_path / FILE).write_bytes(b"nothing" * 1000)
    for ask in cache.info, cache.clear, lambda: cache.n_bytes:
        with pytest.raises(OSError, match="is damaged, delete it"):
            ask()


def test_a_statement_without_end_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("reactood.cache._store.LEAST_STEPS", 10**6)
    with Store(tmp_path, "a", {}, 2) as store:
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            store.connection.execute(f"{ENDLESS} SELECT sum(i) FROM n").fetchall()
        for _ in range(200):  # each may take as many steps anew
            store.connection.execute(f"{ENDLESS} SELECT i FROM n LIMIT 1000").fetchall()


def test_rows_that_are_not_finite_are_not_kept(tmp_path):
    rows = np.ones((3, 2), np.float32)
    rows[0, 1], rows[2, 0] = np.nan, np.inf
    with Store(tmp_path, "a", {}, 2) as store, Store(tmp_path, "a", {}, 2) as other:
        keys = [b"1", b"2", b"3"]
        store.claim(keys)
        store.put(keys, rows)
        assert list(store.get(keys)) == [b"2"]
        assert other.claim(keys)[1] == set()  # nobody waits for them


def test_features_that_are_not_finite_come_out_and_are_not_kept(tmp_path, X):
    """An overflow in half precision, say."""

    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = conv_net()

        def forward(self, x):
            return self.net(torch.where(x > 1e6, torch.inf, x))

    X[3, 0, 0, 0] = 1e7
    model = Overflowing()
    extractor = TorchFeatureExtractor(model, cache=tmp_path / "cache").fit(X[:2])
    features = extractor.transform(X)
    assert not np.isfinite(features[3]).all() and np.isfinite(features[4:]).all()
    assert len(FeatureCache(tmp_path / "cache")) == 39
    again = extractor.transform(X)  # in a batch of its own, so other last digits
    np.testing.assert_allclose(again, features, rtol=1e-5)


def test_a_store_without_xxhash():
    code = (
        "import sys; sys.modules['xxhash'] = None\n"
        "from reactood._images._digest import image_digest\n"
        "from reactood._utils._fingerprint._hashing import HASH\n"
        "from reactood._utils._fingerprint._walk import identity\n"
        "import numpy as np\n"
        "print(HASH, len(image_digest(np.ones(3))), len(identity([1])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"blake2b", b"16", b"32"]
