"""Files that are incomplete, changed, foreign or made with bad intent."""

import copy
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import saved_kinds as kinds
import torch
from safetensors.torch import save_file

from reactood import ReActDetector, make_react_pipeline
from reactood.persistence import ReactoodFileError, load, read_metadata, save
from reactood.persistence._file import read_file, write_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return paths by name, with the data to score and the arguments of load."""
    folder = tmp_path_factory.mktemp("saved")
    pipeline = make_react_pipeline(kinds.small_net, check_score=False)
    images, code = kinds.IMAGES[:4], {"model": kinds.small_net}
    detector = ReActDetector(kinds.HEAD, per_unit=True).fit(kinds.X)
    some = {
        "images": (pipeline.fit(kinds.IMAGES), images, code),
        "react": (detector, kinds.X, {}),
    }
    pipeline = make_react_pipeline(kinds.text_net, check_score=False)
    texts = {name: values[:4] for name, values in kinds.TEXTS.items()}
    some["texts"] = pipeline.fit(kinds.TEXTS), texts, {"model": kinds.text_net}
    of_features = kinds.on_features()
    for name in (
        "pipeline",
        "cv",
        "knn",
        "conformal",
        "mahalanobis",
        "vim",
        "gen",
        "stream",
        "monitor",
    ):
        some[name] = *of_features[name][:1], kinds.X, {}
    for name, (estimator, _, _) in some.items():
        save(estimator, folder / name)
    return {name: (folder / name, X, code) for name, (_, X, code) in some.items()}


def test_incomplete_files(saved, tmp_path):
    path, _, _ = saved["react"]
    data, part = path.read_bytes(), tmp_path / "part"
    for n_bytes in {0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1}:
        part.write_bytes(data[:n_bytes])
        for read in load, read_metadata:
            with pytest.raises(ReactoodFileError, match="incomplete"):
                read(part)
    part.write_bytes(data + b"\0")
    with pytest.raises(ReactoodFileError, match="damaged"):
        load(part)


def test_every_byte_counts(saved, tmp_path):
    """A changed byte is noticed, wherever it is."""
    path, _, _ = saved["react"]
    data = path.read_bytes()
    for place in range(8, len(data), 41):
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(ReactoodFileError):
            load(tmp_path / "changed")


def test_a_newer_version(saved, tmp_path):
    path, _, _ = saved["react"]
    before, after = b'"format_version":"1"', b'"format_version":"7"'
    data = path.read_bytes()
    assert data.count(before) == 1
    (tmp_path / "newer").write_bytes(data.replace(before, after))
    for read in load, read_metadata:
        with pytest.raises(ReactoodFileError, match=r"version 7.*pip install -U"):
            read(tmp_path / "newer")


def test_other_files(tmp_path):
    path = tmp_path / "other"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(ReactoodFileError, match="zip archive"):
        load(path)
    path.write_bytes(pickle.dumps(ReActDetector(kinds.HEAD)))
    with pytest.raises(ReactoodFileError, match=r"pickle, which can run code"):
        load(path)
    np.save(tmp_path / "other.npy", kinds.X)
    with pytest.raises(ReactoodFileError, match="array of NumPy"):
        load(tmp_path / "other.npy")
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ReactoodFileError, match="not one of reactood"):
        load(path)
    path.write_text("weights" * 100)
    with pytest.raises(ReactoodFileError, match="no file of reactood"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_nothing_is_imported_because_a_file_says_so(saved, tmp_path, monkeypatch):
    path, _, _ = saved["images"]
    content, tensors = read_file(path)
    content["network"]["hint"] = "trap:build"
    write_file(tmp_path / "trap", content, tensors)
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"trap:build.*load\(path, model=\.\.\.\)"):
        load(tmp_path / "trap")
    load(tmp_path / "trap", model=kinds.small_net)


def test_a_file_names_no_place_on_this_machine(saved, tmp_path):
    """A cache would be a folder that the file has made, or features that it brings."""
    content, tensors = read_file(saved["images"][0])
    _, extractor = content["estimator"]["steps"][0]
    assert extractor["params"]["cache"] is None
    extractor["params"]["cache"] = str(tmp_path / "new")
    with pytest.raises(ReactoodFileError, match="with a cache, which no file names"):
        load(written(tmp_path, content, tensors), model=kinds.small_net)
    assert not (tmp_path / "new").exists()


def test_arguments_of_load(saved):
    path, _, _ = saved["react"]
    with pytest.raises(ValueError, match="model= is given"):
        load(path, model=kinds.small_net)
    with pytest.raises(ValueError, match="preprocess= is given"):
        load(path, preprocess=abs)


def test_another_network(saved):
    """Other layers are noticed by the weights, and other code by the probe."""
    path, _, _ = saved["images"]
    with pytest.raises(ReactoodFileError, match=r"does not fit|no attribute"):
        load(path, model=kinds.small_head)

    class Wider(kinds.SmallNet):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(8, 5)

    with pytest.raises(ReactoodFileError, match=r"'fc\.bias'|'fc\.weight'"):
        load(path, model=Wider)

    class Nested(kinds.SmallNet):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Sequential(self.conv)

    with pytest.raises(
        ReactoodFileError,
        match=r"it does not fit what model= builds, Nested: this has no convolution "
        r"'conv' with a normalisation 'norm'; it was saved with 'saved_kinds:small_",
    ):
        load(path, model=Nested)

    class OtherCode(kinds.SmallNet):
        def forward(self, x):
            return self.fc(self.norm(self.conv(x)).sigmoid().mean(dim=(2, 3)))

    with pytest.raises(ReactoodFileError, match="other features of the probe"):
        load(path, model=OtherCode)


def test_what_fields_may_be(saved, tmp_path):
    """Each is refused although the checksum is right, without much memory."""
    path, _, code = saved["texts"]
    content, tensors = read_file(path)
    described = [node[key] for node, key in places(content) if key == "fields"]
    assert [field[:2] for field in described[0]] == [
        ["age", "float32"],
        ["attention_mask", "bool"],
        ["input_ids", "int64"],
    ]

    def refused(match, change):
        changed = copy.deepcopy(content)
        for node, key in places(changed):
            if key == "fields":
                change(node[key])
        with pytest.raises(ReactoodFileError, match=match):
            load(written(tmp_path, changed, tensors), **code)

    def put(row, column, value):
        def change(fields):
            fields[row][column] = value

        return change

    refused("unknown kind", put(0, 0, 3))
    refused("unknown kind", put(0, 1, "float64"))
    refused("do not fit each other", put(0, 0, "input_ids"))
    refused("do not fit each other", put(0, 2, None))
    refused(None, put(0, 2, [-1]))
    refused(None, put(0, 2, [2**40]))
    refused(None, put(0, 2, [2**30, 2**30]))
    refused(None, put(0, 2, 3))
    refused(None, put(0, 0, "years"))
    refused(None, lambda fields: fields.pop())
    refused(None, lambda fields: fields.append(["more", "int64", [2]]))
    refused(None, lambda fields: fields.append(["more"]))


def written(tmp_path, content, tensors):
    write_file(tmp_path / "mutant", content, tensors)
    return tmp_path / "mutant"


def test_what_values_may_be(saved, tmp_path):
    """Each is refused although the checksum is right."""
    content, tensors = read_file(saved["react"][0])

    def refused(match, **changes):
        changed = copy.deepcopy(content)
        changed["estimator"]["learned"].update(changes)
        with pytest.raises(ReactoodFileError, match=match):
            load(written(tmp_path, changed, tensors))

    refused("offset_ that is 'x'", offset_="x")
    refused("offset_ that is nan", offset_={"float": "nan"})
    refused("clipped_share_", clipped_share_=2)
    refused("features", n_features_in_=9)
    refused("classes_ that is None, expected an array of labels", classes_=None)
    refused("not known", surprise=1)
    refused("19 digits", n_samples_seen_=2**63)
    half = copy.deepcopy(content)
    del half["estimator"]["learned"]["intercept_"]
    with pytest.raises(ReactoodFileError, match="half a linear head"):
        load(written(tmp_path, half, tensors))
    for value in (np.nan, np.inf):
        changed = {name: tensor.clone() for name, tensor in tensors.items()}
        name = content["estimator"]["learned"]["coef_"]["array"]
        changed[name][0, 0] = value
        with pytest.raises(ReactoodFileError, match="NaN or inf"):
            load(written(tmp_path, content, changed))


def test_counts_of_batches_agree_with_each_other(saved, tmp_path):
    """Each change is refused although the checksum is right."""
    content, tensors = read_file(saved["stream"][0])

    def refused(match, *place, change=None, **changes):
        made, arrays = copy.deepcopy(content), dict(tensors)
        stream = made["estimator"]["learned"]["_stream"]["stream"]["dict"]
        node = stream
        for name in place:
            node = node[name]["dict"]
        node |= changes
        if change is not None:
            name = node.pop("changed")
            array = tensors[node[name]["array"]].clone()
            arrays["changed"] = change(array)
            node[name] = {"array": "changed"}
        with pytest.raises(ReactoodFileError, match=match):
            load(written(tmp_path, made, arrays))

    def edit(match, place, name, change):
        refused(match, place, change=change, changed=name)

    refused("has a histogram that is none", histogram=3)
    refused("another per_unit|has counts of the shape", per_unit=True)
    refused("not one of the rows that were", sample_size=10**12)
    refused("sample that is too large", sample_size=3)
    refused("expected the counts of batches", more=1)
    edit("no array of int64", "histogram", "counts", lambda a: a.double())
    edit("counts that are none", "histogram", "counts", lambda a: -a)
    edit("whole rows", "histogram", "counts", lambda a: a + torch.eye(*a.shape).long())
    edit("counts of the shape", "histogram", "counts", lambda a: a[:, 1:])
    edit("numbers that are none", "histogram", "used", lambda a: a.flip(0))
    edit("numbers that are none", "histogram", "used", lambda a: a + 2**15)
    edit("has a maximum that is not in its", "histogram", "maximum", lambda a: a * 3)
    edit("has a minimum that is none", "histogram", "minimum", lambda a: a.double())
    edit("other rows than its hashes say", "sample", "rows", lambda a: a + 1)
    edit("NaN or inf", "sample", "rows", lambda a: a * torch.nan)
    edit("another n_features|other rows", "sample", "rows", lambda a: a[:, :3].clone())
    edit("not in order", "sample", "keys", lambda a: a.flip(0))
    edit("not one of the rows that were", "sample", "counts", lambda a: a * 100)
    edit("counts that are none", "sample", "counts", lambda a: a * 0)
    edit("no array of float64", "exact", "q", lambda a: a.float())
    for q, value in ([90.0], []), ([900.0], [1.0]), ([90.0], [1e9]):
        made, arrays = copy.deepcopy(content), dict(tensors)
        stream = made["estimator"]["learned"]["_stream"]["stream"]["dict"]
        for name, numbers in ("q", q), ("percentile", value):
            stream["exact"]["dict"][name] = {"array": name}
            arrays[name] = torch.tensor(numbers, dtype=torch.float64)
        with pytest.raises(ReactoodFileError, match=r"exact percentile|of the shape"):
            load(written(tmp_path, made, arrays))


def test_what_a_monitor_may_be(saved, tmp_path):
    content, tensors = read_file(saved["monitor"][0])

    def refused(match, values=None, **changes):
        changed, arrays = copy.deepcopy(content), dict(tensors)
        changed["estimator"]["learned"].update(changes)
        for name, value in (values or {}).items():
            changed["estimator"]["learned"][name] = {"array": "other"}
            arrays["other"] = torch.tensor(np.array(value, dtype=float))
        with pytest.raises(ReactoodFileError, match=match):
            load(written(tmp_path, changed, arrays))

    states = tensors[content["estimator"]["learned"]["_states"]["array"]].numpy()
    refused("more or fewer scores", n_seen_=3)
    refused("more or fewer scores", n_nan_=2**40)
    refused("more or fewer scores", {"_recent": [0.0]})
    refused("_seed that is -1", _seed=-1)
    refused("alarm_ that is 1", alarm_=1)
    refused("half an alarm", alarm_=True, n_alarm_=None)
    refused("change_ that is 'x'", change_="x")
    refused("_recent that is not ascending", {"_recent": [1.0, 0.0]})
    refused("bettors of shape", {"_states": states[1:]})
    refused("bettors of shape", {"_states": states[:, 1:]})
    refused("bettors of shape", {"jump_rates_": []})
    refused("no bettor can own", {"jump_rates_": [0.1, 0.1, 2]})
    refused("no bettor can own", {"_states": -states})
    refused("no bettor can own", {"_states": 0 * states})
    refused("no bettor can own", {"_states": states + 0.5})
    unfitted = copy.deepcopy(content)
    unfitted["estimator"]["params"]["detector"]["params"]["estimator"]["learned"] = {}
    with pytest.raises(ReactoodFileError, match="ConformalDetector without estimator_"):
        load(written(tmp_path, unfitted, tensors))


def junk(rng, other):
    """Return a value that may be anything."""
    values = None, True, -1, 0, 3, 2**40, 10**30, 0.5, -1e300, "", "x", "cuda:7", [], {}
    values = *values, [1, 2], {"float": "nan"}, {"float": "inf"}, {"dict": {}}
    values = *values, {"array": "t0"}, {"array": "t1"}, {"tuple": [1]}, {"score": "gen"}
    return copy.deepcopy(rng.choice([*values, other]))


def places(node, found=()):
    """Return all containers in a tree with their keys."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    pairs = [(node, key) for key in keys]
    for key in keys:
        if isinstance(node[key], dict | list):
            pairs += places(node[key])
    return pairs


def mutated(rng, content, tensors):
    """Return a changed copy of a file's content and tensors."""
    content, tensors = copy.deepcopy(content), dict(tensors)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if rng.random() < 0.25:
            name = rng.choice(list(tensors))
            tensor = tensors[name]
            change = rng.randrange(6)
            if change == 0:
                del tensors[name]
            elif change == 1:
                tensors[name] = tensor[:1].clone()
            elif change == 2:
                tensors[name] = torch.full_like(tensor.float(), rng.choice(EXTREME))
            elif change == 3:
                tensors[name] = tensor.double().clone()
            elif change == 4:
                tensors[name] = tensor.reshape(-1)[:0].clone()
            else:
                tensors[name] = tensor[None].clone()
            if not tensors:
                tensors["t0"] = torch.zeros(1)
            continue
        if not content:
            break
        node, key = rng.choice(places(content))
        _, other_key = other = rng.choice(places(content))
        change = rng.random()
        if change < 0.2:
            del node[key]
        elif change < 0.3 and isinstance(node, dict):
            node[f"{key}_"] = node.pop(key)
        else:
            node[key] = junk(rng, copy.deepcopy(other[0][other_key]))
    return content, tensors


EXTREME = float("nan"), float("inf"), -1e38, 1e38, 0.0, -1.0


def fuzz_content(saved, tmp_path, n, seed):
    rng = random.Random(seed)
    files = {name: read_file(path) for name, (path, _, _) in saved.items()}
    n_loaded = 0
    for i in range(n):
        # Networks take longest.
        networks = [name for name in files if name in ("images", "texts")]
        others = [name for name in files if name not in networks]
        name = rng.choice(networks if i % 10 == 0 else others)
        _, X, code = saved[name]
        content, tensors = mutated(rng, *files[name])
        path = written(tmp_path, content, tensors)
        try:
            loaded = load(path, **code)
        except ReactoodFileError:
            continue
        except ValueError as error:  # the arguments do not go with the file
            assert "is given, but" in str(error) or "Pass it" in str(error)
            continue
        n_loaded += 1
        try:
            kinds.outputs(loaded, X)
        except ValueError:
            pass
    return n_loaded


def fuzz_bytes(saved, tmp_path, n, seed):
    rng = random.Random(seed)
    expected = {}
    for name, (path, X, code) in saved.items():
        expected[name] = kinds.outputs(load(path, **code), X)
    contents = {name: path.read_bytes() for name, (path, _, _) in saved.items()}
    for _ in range(n):
        name = rng.choice(list(contents))
        data = bytearray(contents[name])
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = (
                rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(900)
            )
            place = min(place, len(data) - 1)
            change = rng.randrange(4)
            if change == 0:
                data[place] = rng.randrange(256)
            elif change == 1:
                del data[place : place + rng.randrange(1, 20)]
            elif change == 2:
                data[place:place] = rng.randbytes(rng.randrange(1, 20))
            else:
                data[place] ^= 1 << rng.randrange(8)
            if not data:
                break
        (tmp_path / "mutant").write_bytes(data)
        _, X, code = saved[name]
        try:
            loaded = load(tmp_path / "mutant", **code)
        except ReactoodFileError:
            continue
        for key, values in kinds.outputs(loaded, X).items():
            np.testing.assert_array_equal(values, expected[name][key])


@pytest.mark.parametrize(
    "n", [1000, pytest.param(10_000, marks=pytest.mark.slow)], ids=str
)
def test_raw_mutants(saved, tmp_path, n):
    """They are refused, or score as before."""
    fuzz_bytes(saved, tmp_path, n, seed=n)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "n", [1000, pytest.param(10_000, marks=pytest.mark.slow)], ids=str
)
def test_mutants_with_a_right_checksum(saved, tmp_path, monkeypatch, n):
    """Only our error at load; what loads scores, or raises ValueError."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it takes most time
    n_loaded = fuzz_content(saved, tmp_path, n, seed=n)
    assert n / 20 < n_loaded < n


KILLED = """
import sys
import saved_kinds as kinds
from reactood import ReActDetector
from reactood.persistence import save
detectors = [ReActDetector(kinds.HEAD, percentile=p).fit(kinds.X) for p in (80, 90)]
print("ready", flush=True)
while True:
    for detector in detectors:
        save(detector, sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("n", [1, pytest.param(50, marks=pytest.mark.slow)], ids=str)
def test_killed_while_saving(tmp_path, n):
    """The file is the old one or the new one, and the next save leaves no litter."""
    path, rng = tmp_path / "file", random.Random(0)
    for _ in range(n):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent,
        )
        assert process.stdout.readline() == b"ready\n"
        while not path.exists():
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert load(path).percentile in (80, 90)
    save(ReActDetector(kinds.HEAD).fit(kinds.X), path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    save(ReActDetector(kinds.HEAD, percentile=80).fit(kinds.X), path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(ReActDetector(kinds.HEAD).fit(kinds.X), path)
    assert load(path).percentile == 80
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_loading_leaves_nothing_open(saved, tmp_path):
    path, _, _ = saved["react"]
    (tmp_path / "copy").write_bytes(path.read_bytes())
    loaded = load(tmp_path / "copy")
    (tmp_path / "copy").write_bytes(b"")  # a mapped file would be gone now
    assert np.isfinite(loaded.score_samples(kinds.X)).all()


def test_metadata_is_json(saved):
    metadata = read_metadata(saved["images"][0])
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["provenance"]["n_samples"] == len(kinds.IMAGES)
    assert metadata["provenance"]["name"] == "images"
    assert len(metadata["sha256"]) == 64


@pytest.mark.slow
def test_soak(saved):
    """Half an hour of loading and scoring: memory, files and threads do not grow."""
    psutil = pytest.importorskip("psutil")
    process, n_rounds, usage = psutil.Process(), 0, []
    end = time.monotonic() + 60 * float(os.environ.get("REACTOOD_SOAK_MINUTES", 30))
    while time.monotonic() < end:
        for path, X, code in saved.values():
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                kinds.outputs(load(path, **code), X)
        n_rounds += 1
        memory = process.memory_info().rss
        usage.append((memory, process.num_fds(), process.num_threads()))
    memory, files, threads = np.array(usage[len(usage) // 4 :]).T
    half = len(memory) // 2
    assert np.median(memory[half:]) < 1.02 * np.median(memory[:half])
    assert files.max() == files.min() and threads.max() == threads.min()
