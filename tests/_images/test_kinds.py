"""What may stand for images, and what is said to anything else."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import conv_net
from PIL import Image
from scipy.sparse import csr_array, csr_matrix
from torch.utils.data import DataLoader
from torchvision import transforms

from reactood import TorchFeatureExtractor
from reactood._images._kinds import image_items
from reactood.cache import FeatureCache


def to_small_tensor(image):
    return transforms.functional.to_tensor(image.convert("RGB").resize((9, 9)))


@pytest.fixture
def extractor():
    return TorchFeatureExtractor(conv_net, preprocess=to_small_tensor)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)


# --- pixels are not floats -----------------------------------------------------------


@pytest.mark.parametrize("n_axes", [3, 4])
def test_an_object_array_of_pixels_is_an_error(extractor, pixels, n_axes):
    X = np.array(list(pixels), dtype=object)
    X = X if n_axes == 4 else X[..., 0]
    with pytest.raises(TypeError, match=r"dtype object and shape .*numpy\.stack"):
        extractor.fit(X)
    with pytest.raises(TypeError, match="Image 0: Got an array of dtype object"):
        extractor.fit([pixels[0].astype(object)])


@pytest.mark.parametrize("grey", [False, True])
def test_nested_lists_of_integers_are_an_error(extractor, pixels, grey):
    X = pixels[..., 0] if grey else pixels
    for nested in (X.tolist(), tuple(X.tolist())):
        with pytest.raises(
            TypeError, match=r"nested lists of integers of shape \(5, 9"
        ):
            extractor.fit(nested)


def test_nested_lists_of_floats_are_preprocessed(extractor, rng):
    X = rng.normal(size=(3, 3, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        extractor.fit_transform(X.tolist()), extractor.transform(X)
    )


def test_integers_of_five_axes_are_an_error(extractor, pixels):
    with pytest.raises(ValueError, match=r"shape \(1, 5, 9, 9, 3\) and dtype uint8"):
        extractor.fit(pixels[None])
    with pytest.raises(TypeError, match="dtype int32; expected uint8"):
        extractor.fit(pixels[None].astype(np.int32))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_three_axes_of_uint8_say_how_they_were_read(rng, channels, kind):
    X = kind(rng.integers(0, 256, (channels, 20, 30), dtype=np.uint8))
    extractor = TorchFeatureExtractor(lambda: conv_net(1), preprocess=None)
    sentence = rf"read as {channels} grey images of 20 x 30 .*X\[None\].*X\[:, None\]"
    with pytest.warns(UserWarning, match=sentence) as caught:
        features = extractor.fit_transform(X)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(extractor.transform(X[:, None]), features)
    assert len(image_items(X[None])) == 1
    assert len(image_items(X[:2])) == 2  # grey images, and nothing else


@pytest.mark.parametrize("shape", [(28, 28, 1), (28, 28, 3), (28, 28, 4)])
def test_one_image_is_not_many(extractor, shape):
    for X in (np.zeros(shape, np.uint8), torch.zeros(shape, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"one image of shape \(28, 28, .*X\[None"):
            extractor.fit(X)


def test_two_axes_of_uint8_say_how_they_were_read(rng):
    X = rng.integers(0, 256, (6, 7), dtype=np.uint8)
    with pytest.warns(UserWarning, match="read as 6 rows of 7 numbers"):
        assert image_items(X) is None


def test_masks_are_not_lost(extractor, rng):
    X = np.ma.masked_greater(rng.normal(size=(4, 3, 9, 9)), 1)
    for masked in (X, list(X), X.reshape(4, -1)):
        with pytest.raises(TypeError, match=r"masked array.*X\.filled\(value\)"):
            extractor.fit(masked)
    assert extractor.fit_transform(np.ma.array(X.data)).shape == (4, 8)


# --- more kinds of images ------------------------------------------------------------


def like(module, **attributes):
    """Return a class that looks as if it came from a library."""
    return type("Stand", (), {"__module__": module, **attributes})


class Dtype:
    def is_numeric(self):
        return False


class Series(like("polars.series.series")):
    """Stands in for polars where that is not installed."""

    dtype = Dtype()

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]

    def to_list(self):
        return list(self.items)

    def to_numpy(self):
        raise AssertionError("lists keep what is in them")


class Frame(like("polars.dataframe.frame")):
    def __init__(self, items):
        self.items, self.columns, self.shape = items, ["path"], (len(items), 1)

    def __len__(self):
        return len(self.items)

    def to_series(self, index):
        return Series(self.items)

    to_numpy = None


class Table(like("datasets.arrow_dataset")):
    """Stands in for a data set of Hugging Face's."""

    def __init__(self, rows, column="image"):
        self.rows, self.column_names, self.shape = rows, [column], (len(rows), 1)
        self.column = column

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return {self.column: self.rows[row], "label": 3}


def kinds_of(photos):
    paths = [str(path) for path in photos]
    contents = [path.read_bytes() for path in photos]
    images = [Image.open(path) for path in photos]
    for image in images:
        image.load()
    packed = [{"bytes": content, "path": None} for content in contents]
    return {
        "bytes paths": [path.encode() for path in paths],
        "array of bytes paths": np.array([path.encode() for path in paths]),
        "mixed paths": [paths[0].encode(), *photos[1:]],
        "contents": contents,
        "bytearrays": list(map(bytearray, contents)),
        "BytesIO": list(map(io.BytesIO, contents)),
        "folder as bytes": str(photos[0].parents[1]).encode(),
        "dicts of images": [{"image": image, "label": 0} for image in images],
        "dicts of paths": [{"img": path} for path in paths],
        "Hugging Face's dicts": packed,
        "its dicts of paths": [{"bytes": None, "path": path} for path in paths],
        "dicts of its dicts": [{"label": 1, "image": image} for image in packed],
        "a name of its own": [{"photo": image, "label": 0} for image in images],
        "column of contents": pd.Series(contents),
        "column of images": pd.DataFrame({"image": images}),
        "column of dicts": pd.Series(packed),
        "polars series of paths": Series(paths),
        "polars series of contents": Series(contents),
        "polars frame of paths": Frame(paths),
        "Hugging Face's table": Table(images),
        "table that is not decoded": Table(packed),
        "table with a name of its own": Table(images, "photo"),
        "loader of lists of images": DataLoader(images, batch_size=4, collate_fn=list),
    }


def test_every_kind_of_image_gives_the_same_features(extractor, photos):
    expected = extractor.fit_transform(photos)
    for name, X in kinds_of(photos).items():
        for use in (extractor.fit_transform, extractor.transform):
            np.testing.assert_allclose(
                use(X), expected, rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_every_kind_of_image_in_processes(extractor, photos):
    expected = extractor.fit_transform(photos)
    extractor.set_params(num_workers=1)
    kinds = kinds_of(photos)
    for name in ("contents", "BytesIO", "Hugging Face's dicts"):
        np.testing.assert_array_equal(extractor.transform(kinds[name]), expected, name)


def test_the_real_libraries(extractor, photos):
    polars = pytest.importorskip("polars")
    expected = extractor.fit_transform(photos)
    paths = [str(path) for path in photos]
    contents = [path.read_bytes() for path in photos]
    for X in (
        polars.Series(paths),
        polars.DataFrame({"path": paths}),
        polars.Series(contents),
    ):
        np.testing.assert_array_equal(extractor.transform(X), expected)
    floats = np.random.default_rng(0).normal(size=(4, 5))
    assert image_items(polars.DataFrame(floats)) is None


def test_the_real_table(extractor, photos):
    datasets = pytest.importorskip("datasets")
    expected = extractor.fit_transform(photos)
    table = datasets.Dataset.from_dict({"image": [str(path) for path in photos]})
    packed = table.cast_column("image", datasets.Image(decode=False))
    decoded = table.cast_column("image", datasets.Image())
    for X in (decoded, packed, decoded["image"], packed["image"]):
        np.testing.assert_array_equal(extractor.transform(X), expected)
    with pytest.raises(TypeError, match=r"keys \['train'\].*pass one: X\[key\]"):
        extractor.transform(datasets.DatasetDict(train=table))
    with pytest.raises(TypeError, match="no length and no items"):
        extractor.transform(table.to_iterable_dataset())


def test_contents_and_dicts_are_kept_in_a_cache(extractor, photos, tmp_path):
    extractor.set_params(cache=tmp_path / "cache").fit(photos)
    kinds = kinds_of(photos)
    extractor.transform(kinds["contents"])
    assert len(FeatureCache(tmp_path / "cache")) == len(photos)
    for name in ("BytesIO", "Hugging Face's dicts", "bytearrays"):
        extractor.transform(kinds[name])  # the same contents
    assert len(FeatureCache(tmp_path / "cache")) == len(photos)


# --- what is no image ----------------------------------------------------------------

CONTENT = b"\xff\xd8\xff\xe0\0" + 50_000 * b"\x91"
FLOATS = torch.zeros(2, 3, 9, 9)


@pytest.mark.parametrize(
    ("X", "error", "sentence"),
    [
        (CONTENT, TypeError, r"Got one bytes, expected a list.*\[content\]"),
        (io.BytesIO(CONTENT), TypeError, r"Got one BytesIO, expected a list"),
        ([None], TypeError, "Image 0: An image is None; expected a path"),
        (["a.png", None], TypeError, "Image 1 is None, the first one a path"),
        ([object()], TypeError, "Image 0: An image is a object; expected a path"),
        (pd.Series([None, None]), TypeError, "Image 0: An image is None"),
        ([io.StringIO("x")], TypeError, r"a StringIO, an open file; expected its path"),
        (
            [CONTENT],
            ValueError,
            "Image 0: The image with the content .* cannot be read",
        ),
        ([b""], ValueError, r"Image 0: .*it is empty \(0 bytes\)"),
        ({"train": ["a.png"]}, TypeError, r"dict with the keys \['train'\]"),
        ({"a.png"}, TypeError, "Got a set, whose items have no places"),
        (
            {"a": "a.png"}.values(),
            TypeError,
            "a dict_values, whose items have no places",
        ),
        (
            [{"a": 1}],
            TypeError,
            "Image 0: The dataset yields dicts with keys a; expected",
        ),
        (
            [("a.png", 3)],
            TypeError,
            "tuples, each a path and more; expected paths alone",
        ),
        (pd.DataFrame({"p": ["a.png"], "y": [1]}), TypeError, "column 0 .*'a.png'"),
        (b"no/such/folder", FileNotFoundError, "'no/such/folder' does not exist"),
        (FLOATS.to("meta"), TypeError, "on the device 'meta', without values"),
        ([FLOATS[0].to("meta")], TypeError, "on the device 'meta', without values"),
        (FLOATS.to_sparse(), TypeError, "of layout sparse_coo; expected a plain one"),
        (Table([3]), TypeError, "Image 0: An image is a int"),
        ("x" * 50_000, FileNotFoundError, "xx' does not exist"),
        (["x" * 50_000], FileNotFoundError, "Image 0: .*xx' does not exist"),
        ([{"x" * 50_000: 1}], TypeError, "dicts with keys xxx"),
    ],
    ids=range(23),
)
def test_what_is_no_image_is_told_in_a_few_words(extractor, X, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        extractor.fit(X)
    assert len(str(caught.value)) < 700
    assert "Reshape" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_no_images(extractor):
    X = torch.nested.nested_tensor([FLOATS[0], FLOATS[0, :, :5]])
    with pytest.raises(TypeError, match="that is nested; expected a plain one"):
        extractor.fit(X)


def test_a_table_of_numbers_stays_one(rng):
    for X in (
        pd.DataFrame(rng.normal(size=(4, 3))),
        pd.DataFrame({"a": ["1.5", "2"], "b": [1, 2]}),
        rng.normal(size=(4, 3)).tolist(),
        rng.normal(size=(4, 3)).astype(object),
        [np.ones(3), np.zeros(3)],
    ):
        items = image_items(X)
        assert items is None or items is X


@pytest.mark.parametrize("kind", ["csr", "dok", "lil"])
def test_sparse_matrices_are_refused_as_such(kind):
    for X in (csr_array(np.eye(4)), csr_matrix(np.eye(4))):
        with pytest.raises(TypeError, match=r"[Ss]parse data"):
            TorchFeatureExtractor(conv_net).fit(X.asformat(kind))
