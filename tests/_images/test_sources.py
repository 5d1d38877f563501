"""Batches: one shape over a whole pass, and streams that are read once."""

import numpy as np
import pytest
import torch
from conftest import conv_net
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from reactood import TorchFeatureExtractor, make_react_pipeline
from reactood.baselines import ODINFeatureExtractor


@pytest.fixture
def pictures(rng, tmp_path):
    """Ten paths; the image in row 7 is of another size."""
    paths = []
    for row in range(10):
        paths.append(tmp_path / f"{row}.png")
        shape = (8, 9, 3) if row == 7 else (9, 9, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    return paths


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


# --- one shape -----------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 10])
@pytest.mark.parametrize("kind", ["paths", "arrays", "floats", "dataset"])
def test_sizes_are_compared_over_the_whole_pass(
    pictures, batch_size, num_workers, kind
):
    arrays = [np.asarray(Image.open(path)) for path in pictures]
    floats = [np.moveaxis(a, -1, 0) / np.float32(255) for a in arrays]
    X = {
        "paths": pictures,
        "arrays": arrays,
        "floats": floats,
        "dataset": Items(arrays),
    }[kind]
    if num_workers and (batch_size != 1 or kind in ("arrays", "floats")):
        return  # takes long and says no more
    extractor = TorchFeatureExtractor(
        conv_net, preprocess=None, batch_size=batch_size, num_workers=num_workers
    )
    sentence = r"image 0 is \(3, 9, 9\), image 7 is \(3, 8, 9\)"
    extractor.fit(X)  # looks at the first four
    for use in (extractor.transform, extractor.fit_transform):
        with pytest.raises(ValueError, match=sentence):
            use(X)
    extractor.set_params(on_error="nan")
    with pytest.warns(UserWarning, match=r"1 images .*rows 7 \("):
        features = extractor.fit_transform(X)
    assert np.flatnonzero(np.isnan(features).any(axis=1)).tolist() == [7]


def test_the_shape_is_that_of_the_first_batch_not_of_each(rng):
    """A later batch in which another shape is more frequent changes nothing."""
    sizes = [9, 9, 9, 12, 12, 9, 12, 9]
    images = [rng.normal(size=(3, n, n)).astype(np.float32) for n in sizes]
    extractor = TorchFeatureExtractor(conv_net, on_error="nan", batch_size=3)
    with pytest.warns(UserWarning, match="3 images"):
        features = extractor.fit_transform(images)
    bad = np.flatnonzero(np.isnan(features).any(axis=1)).tolist()
    assert bad == [3, 4, 6]


def test_pixels_and_floats_do_not_mix_over_the_whole_pass(rng):
    pixels = list(rng.integers(0, 256, (6, 9, 9, 3), dtype=np.uint8))
    pixels[5] = np.moveaxis(pixels[5], -1, 0).astype(np.float32)
    extractor = TorchFeatureExtractor(conv_net, preprocess=None, batch_size=2)
    with pytest.raises(TypeError, match="others floats that already are"):
        extractor.fit_transform(pixels)


def test_the_first_images_are_compared_where_some_cannot_be_read(pictures):
    for row in (0, 1, 2):
        pictures[row].write_bytes(b"no image")
    extractor = TorchFeatureExtractor(conv_net, preprocess=None, on_error="nan")
    with pytest.warns(UserWarning, match=r"4 images .*; 7 \(.*image 3 is"):
        features = extractor.fit_transform(pictures)
    assert np.isfinite(features[[3, 4, 5, 6, 8, 9]]).all()


def test_two_passes_may_be_of_two_shapes(rng):
    extractor = TorchFeatureExtractor(conv_net, preprocess=None)
    small, large = (rng.integers(0, 256, (4, n, n, 3), dtype=np.uint8) for n in (9, 12))
    extractor.fit(list(small))
    assert extractor.transform(list(large)).shape == (4, 8)
    assert extractor.transform(list(small)).shape == (4, 8)


# --- streams that are read once ------------------------------------------------------


class Stream(IterableDataset):
    """Goes on where it was left."""

    def __init__(self, items):
        self.items = iter(items)

    def __iter__(self):
        return self.items


class Pulling(Stream):
    """The same, through a function that nobody can tell from one that starts anew."""

    def __iter__(self):
        yield from self.items


class Anew(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.fixture
def X(rng):
    return torch.from_numpy(rng.normal(size=(100, 3, 9, 9)).astype(np.float32))


@pytest.mark.parametrize("kind", [Stream, Pulling, Anew])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 200])
def test_fit_transform_gives_every_row_of_a_stream(kind, batch_size, X):
    extractor = TorchFeatureExtractor(conv_net)
    expected = extractor.fit_transform(X)
    features = extractor.fit_transform(DataLoader(kind(X), batch_size=batch_size))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_a_stream_of_pixels_and_a_pipeline(rng):
    pixels = list(rng.integers(0, 256, (30, 9, 9, 3), dtype=np.uint8))
    loader = DataLoader(Stream(map(torch.from_numpy, pixels)), batch_size=4)
    pipeline = make_react_pipeline(conv_net, preprocess=None, percentile=90)
    expected = pipeline.fit(pixels).score_samples(pixels)
    pipeline.fit(loader)
    np.testing.assert_allclose(pipeline.score_samples(pixels), expected, rtol=1e-5)


def test_a_stream_whose_beginning_fit_has_read_is_refused(X):
    extractor = TorchFeatureExtractor(conv_net)
    loader = DataLoader(Stream(X), batch_size=7)
    extractor.fit(loader)
    with pytest.raises(ValueError, match=r"read only once, .*Use fit_transform"):
        extractor.transform(loader)
    odin = ODINFeatureExtractor(conv_net, percentile=90)  # reads everything twice
    with pytest.raises(ValueError, match=r"read only once"):
        odin.fit_transform(DataLoader(Stream(X), batch_size=7))
    # Another stream, and one that starts from the beginning, are welcome.
    assert extractor.transform(DataLoader(Stream(X), batch_size=7)).shape == (100, 8)
    loader = DataLoader(Anew(X), batch_size=7)
    for _ in range(2):
        assert extractor.fit(loader).transform(loader).shape == (100, 8)


def test_a_stream_that_was_read_to_its_end(X):
    extractor = TorchFeatureExtractor(conv_net)
    loader = DataLoader(Stream(X))
    extractor.fit_transform(loader)
    with pytest.raises(ValueError, match=r"read only once"):
        extractor.transform(loader)
    other = TorchFeatureExtractor(conv_net)
    with pytest.raises(ValueError, match=r"is empty, .* Was its IterableDataset read"):
        other.fit(loader)


def test_a_stream_that_hides_that_it_goes_on_warns(X):
    loader = DataLoader(Pulling(X), batch_size=7)
    extractor = TorchFeatureExtractor(conv_net).fit(loader)
    with pytest.warns(UserWarning, match="begins with another image than when fit"):
        assert extractor.transform(loader).shape == (93, 8)
    loader = DataLoader(Pulling(X), batch_size=7)
    with pytest.warns(UserWarning, match="begins with another image"):
        ODINFeatureExtractor(conv_net).fit(loader).transform(loader)


@pytest.mark.parametrize("kind", [Stream, Pulling])
def test_odin_reads_a_stream_once(kind, X):
    odin = ODINFeatureExtractor(conv_net, threshold=0.5)
    expected = odin.fit_transform(X)
    features = odin.fit_transform(DataLoader(kind(X), batch_size=7))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loader",
    [
        lambda X: DataLoader(list(X), batch_size=4, num_workers=2, in_order=False),
        lambda X: DataLoader(Anew(X), batch_size=4, num_workers=2),
    ],
    ids=["out of order", "workers of a stream"],
)
def test_workers_that_change_the_order_warn(X, loader):
    try:
        loader = loader(X[:12])
    except TypeError:
        pytest.skip("this torch always keeps the order")
    with pytest.warns(UserWarning, match="or its workers give them out of order"):
        TorchFeatureExtractor(conv_net).fit_transform(loader, y=np.arange(12))


def test_a_tuple_of_images_is_not_taken_for_a_batch(X):
    pairs = [(x, 0 * x) for x in X[:8]]
    extractor = TorchFeatureExtractor(conv_net)
    for loader in (
        DataLoader(pairs, batch_size=None),
        DataLoader(pairs, batch_size=1, collate_fn=lambda items: items[0]),
    ):
        with pytest.raises(TypeError, match="a tuple of 2 images, which may be one"):
            extractor.fit(loader)
    first = lambda items: [image for image, _ in items]
    loader = DataLoader(pairs, batch_size=4, collate_fn=first)
    assert extractor.fit_transform(loader).shape == (8, 8)
