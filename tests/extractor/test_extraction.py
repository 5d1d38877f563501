"""Every row gets its own image's features, whatever happens on the way."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reactood._images._collate import Batch
from reactood._images._digest import image_digest
from reactood.extractor import _extraction, _sharing
from reactood.extractor._extraction import fill
from reactood.extractor._sink import Rows

WIDTH = 2
DEATHS = (
    RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."),
    ConnectionResetError(),
    EOFError(),
)


def features_of(image):
    return np.float32([image, image + 0.5])


class Source:
    """Images are numbers, equal ones have one key; some are broken, processes die."""

    def __init__(self, images, rng, *, keyed, broken, unnamed, deaths, changing):
        self.images, self.rng, self.keyed = images, rng, keyed
        self.broken, self.unnamed, self.deaths = broken, unnamed, deaths
        self.changing = changing
        self.n_rows = len(images)

    def keys(self, rows):
        return [None if r in self.unnamed else self._key(r) for r in rows]

    def _key(self, row):
        return f"{self.images[row]}{'!' if row in self.broken else ''}".encode()

    def still(self, row, key):
        return row not in self.changing

    def finish(self, batch):
        return batch

    def batches(self, order):
        ahead = []
        for rows in order:  # asked for before the first of them are given out
            ahead.append(rows)
            if len(ahead) > 2:
                yield self._batch(ahead.pop(0))
        while ahead:
            yield self._batch(ahead.pop(0))

    def _batch(self, rows):
        if self.deaths and self.rng.random() < 0.3:
            self.deaths -= 1
            raise self.rng.choice(DEATHS)
        errors = {r: ValueError(f"row {r}") for r in rows if r in self.broken}
        good = [r for r in rows if r not in errors]
        images = torch.tensor([float(self.images[r]) for r in good])
        return Batch(good, images if good else None, errors)


class Store:
    """A dict, beside a process that announces rows and may not deliver them."""

    def __init__(self, rng, known, theirs):
        self.rng, self.rows, self.theirs = rng, dict(known), theirs

    def get(self, keys):
        for key in list(self.theirs):
            if self.rng.random() < 0.2:
                self.theirs.discard(key)
                if self.rng.random() < 0.5 and b"!" not in key:
                    self.rows[key] = features_of(float(key))
        return {key: self.rows[key] for key in keys if key in self.rows}

    def claim(self, keys, *, force=False):
        found = self.get(keys)
        others = set() if force else {k for k in keys if k in self.theirs}
        return found, others - found.keys()

    def put(self, keys, features):
        for key, row in zip(keys, features, strict=True):
            if key is not None:
                self.rows[key] = row


def forward(rng):
    def run(batches, finish):
        waiting = []
        for rows, images in batches:
            waiting += zip(rows, finish(images).tolist(), strict=True)
            if rng.random() < 0.6:  # as on an accelerator: several batches at once
                yield _gathered(waiting)
                waiting = []
        if waiting:
            yield _gathered(waiting)

    return run


def _gathered(waiting):
    rows, images = zip(*waiting, strict=True)
    return list(rows), np.stack([features_of(image) for image in images])


ROWS = st.sets(st.integers(0, 39), max_size=8)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_sharing, "LEAST_PATIENCE_S", 0.002)
    monkeypatch.setattr(_sharing, "MOST_PATIENCE_S", 0.002)
    monkeypatch.setattr(_sharing, "POLL_S", 0.0005)
    monkeypatch.setattr(_extraction, "LOOKUP_ROWS", 7)


@settings(max_examples=150)
@given(
    images=st.lists(st.integers(0, 25), min_size=1, max_size=40),
    batch_size=st.integers(1, 6),
    broken=ROWS,
    unnamed=ROWS,
    changing=ROWS,
    known=st.sets(st.integers(0, 25), max_size=8),
    theirs=st.sets(st.integers(0, 25), max_size=8),
    deaths=st.integers(0, 2),
    keyed=st.booleans(),
    with_store=st.booleans(),
    seed=st.integers(0, 99),
)
@pytest.mark.filterwarnings("ignore:A process that reads", "ignore:.*could not be read")
def test_every_row_gets_its_own_features(
    images,
    batch_size,
    broken,
    unnamed,
    changing,
    known,
    theirs,
    deaths,
    keyed,
    with_store,
    seed,
):
    rng = random.Random(seed)
    source = Source(
        images,
        rng,
        keyed=keyed,
        broken=broken & set(range(len(images))),
        unnamed=unnamed,
        deaths=deaths,
        changing=changing,
    )
    store = None
    if with_store:
        as_key = lambda image: str(image).encode() if keyed else _digest(image)
        store = Store(
            rng,
            {as_key(image): features_of(image) for image in known},
            {as_key(image) for image in theirs - known} if keyed else set(),
        )
    sink = Rows(len(images), WIDTH)
    sink.array[:] = -7  # no row may be left as it was
    try:
        errors = fill(
            sink,
            source,
            forward(rng),
            store,
            batch_size=batch_size,
            on_error="nan",
            verbose=False,
        )
    except RuntimeError as error:
        assert "died twice" in str(error) and source.deaths < deaths
        return
    expected = np.stack([features_of(image) for image in images])
    expected[sorted(source.broken)] = np.nan
    np.testing.assert_array_equal(sink.finish(), expected)
    assert sorted(errors) == sorted(source.broken)
    for key, row in store.rows.items() if store and keyed else ():
        np.testing.assert_array_equal(row, features_of(float(key)))


def _digest(image):
    return image_digest(torch.tensor(float(image)), prepared=True)
