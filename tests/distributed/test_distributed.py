"""Ray Data gives the rows of a single process, also where actors and jobs die.

One test that needs a cluster runs by default: each process that shares the tests would
otherwise start a cluster of its own.
"""

import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from conftest import conv_net, write_pictures
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from torchvision import transforms

from reactood import ReActDetector, make_react_pipeline
from reactood.conformal import ConformalDetector
from reactood.datasets import digits_classifier, list_images, load_digits_ood
from reactood.distributed import fit, score
from reactood.distributed._columns import Column, check_names, find_column
from reactood.distributed._parcel import Parcel
from reactood.distributed._pool import Pool
from reactood.distributed._row_scorer import NO_VALUE, RowScorer
from reactood.persistence import load, save

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray.data")

ROOT = Path(__file__).parents[2]
BATCH = 16  # of the network
N = 100  # images


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine for this file alone.

    It counts four cores: an actor, reading and the filter of a checkpoint take one
    each.
    """
    with warnings.catch_warnings():
        # Ray sets its own deprecated settings, and what it starts is closed at exit.
        warnings.simplefilter("ignore")
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=256 * 2**20,
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
    # Actors cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray.get_runtime_context().gcs_address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.shutdown()
        gc.collect()  # some versions of Ray leave the end of processes to this


@pytest.fixture
def one_thread():
    """Actors have one thread each, and the last bits of sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    """Images, one of which cannot be read."""
    images = load_digits_ood().X_train[:N].copy()
    images[7] = np.nan
    return images


@pytest.fixture(scope="module")
def pipeline():
    """A calibrated pipeline."""
    digits = load_digits_ood()
    fitted = make_react_pipeline(digits_classifier, batch_size=BATCH)
    fitted.fit(digits.X_test[:200])
    conformal = ConformalDetector(FrozenEstimator(fitted), alpha=0.1)
    return conformal.fit(digits.X_test[200:400])


def dataset_of(images, rows=2 * BATCH):
    """Return a dataset of some blocks, with an id that is no image."""
    from ray.data.extensions import ArrowTensorArray

    ids = [f"no. {i}" for i in range(len(images))]
    blocks = [
        pa.table({"id": ids[some], "image": ArrowTensorArray.from_numpy(images[some])})
        for some in (slice(i, i + rows) for i in range(0, len(images), rows))
    ]
    return ray.data.from_arrow(blocks)


def preprocess():
    return transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])


def rows_here(estimator, images):
    """Return the rows that this process makes."""
    columns = RowScorer(estimator).of_images(images)
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def test_rows_and_what_is_learned_are_those_of_one_process(
    cluster, one_thread, pipeline, data
):
    check_rows(pipeline, data)
    check_fit()


def check_rows(pipeline, data):
    scores = score(pipeline, dataset_of(data), workers=1, preserve_order=True)
    rows = scores.take_all()
    assert list(rows[0]) == [
        *("id", "score", "decision", "p_value", "class", "error"),
    ]
    assert [row.pop("id") for row in rows] == [f"no. {i}" for i in range(N)]
    assert rows == rows_here(pipeline, data)  # every bit
    assert rows[7]["error"].startswith("Input X contains NaN") and not rows[7]["score"]
    assert {row["decision"] for row in rows} == {"id", "ood", None}


def check_fit():
    images = load_digits_ood().X_train[:400].copy()
    images[7] = np.nan
    # Fewer rows are kept than each actor sees.
    pipeline = make_react_pipeline(
        digits_classifier, on_error="nan", batch_size=BATCH, sample_size=50
    )
    extractor = clone(pipeline[0]).fit(images)
    features, _ = extractor.transform_with_errors(images)
    labels = np.where(np.arange(400) % 9 == 0, -1, 1)
    expected = clone(pipeline[1]).partial_fit(features, labels)
    dataset = dataset_of(images, rows=4 * BATCH)
    dataset = dataset.add_column("label", label_of, batch_format="pyarrow")
    with pytest.warns(
        UserWarning, match="1 of 400 images could not be read and .* NaN"
    ):
        fitted = fit(
            pipeline, dataset, column="image", y="label", workers=(2, 2), batch_size=32
        )
    assert_same(fitted[1], expected)
    assert not hasattr(pipeline[1], "offset_")
    scores = fitted.score_samples(images[:7])
    np.testing.assert_array_equal(scores, expected.score_samples(features[:7]))


def label_of(table):
    """Return the column of labels: each ninth image is out-of-distribution."""
    numbers = [int(name.split()[1]) for name in table["id"].to_pylist()]
    return pa.array([-1 if number % 9 == 0 else 1 for number in numbers])


def assert_same(detector, expected):
    """Compare what was learned, and the state, bit for bit."""
    for name in ("activation_threshold_", "offset_", "clipped_share_"):
        assert getattr(detector, name) == getattr(expected, name)
    assert detector.n_samples_seen_ == expected.n_samples_seen_
    own, others = (one._stream.arrays() for one in (detector, expected))
    for part in ("histogram", "sample"):
        for name, array in own[part].items():
            np.testing.assert_array_equal(array, others[part][name])


# --- what is given, without a cluster -------------------------------------------------


class Names:
    """A dataset as far as its columns are asked for."""

    def __init__(self, *names):
        self.names = names

    def schema(self, fetch_if_missing):
        return self


@pytest.mark.parametrize(
    "names, column, found",
    [
        (("anything",), None, "anything"),
        (("path", "bytes", "id"), None, "bytes"),
        (("features", "path"), None, "features"),
        (("path", "bytes"), "path", "path"),
        (("id", "photo"), "photo", "photo"),
    ],
)
def test_the_column_is_found(names, column, found):
    assert find_column(Names(*names), column) == found


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match=r"column='photos'.*'id', 'photo'.*mean 'ph"):
        find_column(Names("id", "photo"), "photos")
    with pytest.raises(
        ValueError, match=r"has 'id', 'photo'; expected one of .*column="
    ):
        find_column(Names("id", "photo"))


def test_columns_that_the_result_has_too():
    with pytest.raises(ValueError, match=r"too: 'score'\. Rename them: .*'my_score'"):
        check_names(["path", "score"], ("score", "error"), "path")
    check_names(["score"], ("score",), "score")
    check_names(["features", "error"], ("score", "error"), "features")


def test_columns_of_all_kinds():
    table = pa.table(
        {
            "path": [b"a\xff", None],
            "bytes": [None, b"content"],
            "text": ["a", "b"],
            "list": [[1.0, 2.0], [3.0, 4.0]],
            "large": pa.array(["a", "b"], pa.large_string()),
        }
    )
    found = {name: Column(table, name) for name in table.column_names}
    assert found["path"].values == [os.fsdecode(b"a\xff")]
    assert found["path"].missing == [1] and found["path"].are_paths
    (content,) = found["bytes"].values
    assert content.getvalue() == b"content" and not found["bytes"].are_paths
    assert found["text"].are_paths and found["large"].are_paths
    np.testing.assert_array_equal(found["list"].values, [[1, 2], [3, 4]])


@pytest.mark.parametrize("workers", [0, -1, 1.5, (2, 1), (1, 2, 3), "all"])
def test_a_number_of_actors_that_is_none(workers):
    with pytest.raises(ValueError, match=r"workers=.*expected the most actors"):
        Pool(None, workers=workers, num_cpus=1, num_gpus=0, batch_size=1)


def test_a_batch_size_that_is_none():
    with pytest.raises(ValueError, match="batch_size=0: expected a whole number"):
        Pool(None, workers=1, num_cpus=1, num_gpus=0, batch_size=0)


def test_modules_do_not_travel(net, rng):
    images = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    fitted = make_react_pipeline(net).fit(images)
    with pytest.raises(ValueError, match=r"The estimator was made with a network of y"):
        Parcel(fitted).open()
    with pytest.raises(TypeError, match=r"model= is a Sequential, a module; expected"):
        Parcel(fitted, model=net)
    parcel = Parcel(fitted, model=conv_net)
    size = sum(weight.numel() for weight in net.state_dict().values()) * 4
    assert parcel.content.nbytes > size > len(ray.cloudpickle.dumps(parcel.model))
    expected = fitted.score_samples(images)
    np.testing.assert_array_equal(parcel.open().score_samples(images), expected)


def test_a_file_travels_as_it_is(pipeline, data, tmp_path):
    save(pipeline, tmp_path / "a.safetensors")
    parcel = Parcel(tmp_path / "a.safetensors", model=digits_classifier)
    assert parcel.content.tobytes() == (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match=r"digits_classifier.*Pass it: model=\.\.\., a f"
    ):
        Parcel(tmp_path / "a.safetensors").open()


def test_what_cannot_learn_from_parts(pipeline):
    with pytest.raises(
        TypeError, match="ConformalDetector cannot learn from parts; ex"
    ):
        fit(pipeline, Names("path"))
    steps = make_pipeline(Normalizer(), ReActDetector())
    with pytest.raises(
        TypeError, match=r"has the steps \['Normalizer', 'ReActDetector"
    ):
        fit(steps, Names("path"))
    with pytest.raises(ValueError, match=r"y='label' is none of the dataset's columns"):
        fit(ReActDetector(), Names("features"), y="label")
    with pytest.raises(
        ValueError, match="features= keeps features of images; leave it"
    ):
        fit(ReActDetector(), Names("features"), features="folder")


def test_options_that_do_not_go_together(detector, run, capsys):
    arguments = "score", detector, "new", "--ray", "local"
    for option in (("--cache", "folder"), ("--workers", 2)):
        assert run(*arguments, *option) == 2
        assert "do not go together with --ray" in capsys.readouterr().err


def test_the_command_without_ray(detector, digits, run, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = "score", detector, digits / "new", "--ray", "local"
    model = "--model", "reactood.datasets:digits_classifier"
    assert run(*arguments, *model, "-o", tmp_path / "scores.csv") == 1
    assert "--ray needs Ray: pip install 'reactood[ray]'" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_what_is_no_detector():
    with pytest.raises(TypeError, match=r"IsolationForest.*It holds estimators of"):
        Parcel(IsolationForest(n_estimators=2).fit(np.eye(3)))


# --- what takes longer ----------------------------------------------------------------


@pytest.mark.slow
def test_files_contents_and_missing_values(cluster, one_thread, tmp_path):
    digits = load_digits_ood()
    write_pictures(tmp_path / "photos", digits.X_train[:40])
    (tmp_path / "photos/007.png").write_bytes(b"no image")
    paths = [str(path) for path in list_images(tmp_path / "photos")]
    fitted = make_react_pipeline(
        digits_classifier, preprocess=preprocess(), batch_size=BATCH
    ).fit(digits.X_test[:200])
    expected = rows_here(fitted, paths)
    assert "cannot be read as an image" in expected[7]["error"]
    given = pa.table({"path": [*paths, None], "n": range(41)})
    dataset = ray.data.from_arrow([given])
    rows = score(fitted, dataset, workers=1, preserve_order=True).take_all()
    assert [row.pop("path") for row in rows] == [*paths, None]
    assert [row.pop("n") for row in rows] == list(range(41))
    assert rows.pop()["error"] == NO_VALUE
    assert rows == expected
    dataset = ray.data.read_binary_files(paths, include_paths=True)
    rows = score(fitted, dataset, workers=1).take_all()
    rows.sort(key=lambda row: row["path"])
    assert list(rows[0])[:2] == ["path", "score"]
    assert [row.pop("path") for row in rows] == paths
    assert "cannot be read as an image: it is no image" in rows.pop(7)["error"]
    expected.pop(7)
    for row, same in zip(rows, expected, strict=True):
        assert row == same | {"score": pytest.approx(same["score"], rel=1e-6)}


@pytest.mark.slow
def test_features_are_kept_and_used_again(cluster, one_thread, data, tmp_path):
    pipeline = make_react_pipeline(digits_classifier, batch_size=BATCH)
    with pytest.raises(ValueError, match=r"contains NaN.*set on_error='nan' of the ex"):
        fit(pipeline, dataset_of(data), workers=1)
    pipeline.set_params(extractor__on_error="nan", detector__on_nan="reject")
    folder = str(tmp_path / "features")
    with pytest.warns(UserWarning, match="1 of 100 images"):
        fitted = fit(pipeline, dataset_of(data), workers=1, features=folder)
    expected, _ = fitted[0].transform_with_errors(data)
    kept = parquet.read_table(folder).to_pylist()
    kept = {row["id"]: row for row in kept}
    assert len(kept) == N and set(kept["no. 0"]) == {"id", "features", "error"}
    assert kept["no. 7"]["features"] is None and "NaN" in kept["no. 7"]["error"]
    for i in (0, 50, 99):
        assert kept[f"no. {i}"]["features"] == expected[i].tolist()
    dataset = ray.data.read_parquet(folder)
    with pytest.warns(UserWarning, match="1 of 100 images"):
        assert_same(fit(fitted, dataset, workers=1)[1], fitted[1])
    with pytest.raises(ValueError, match="extractor is not fitted; expected the one"):
        fit(pipeline, dataset, workers=1)
    with pytest.raises(FileExistsError, match=r"features='.*' exists already. Give an"):
        fit(pipeline, dataset_of(data), workers=1, features=folder)
    rows = {row.pop("id"): row for row in score(fitted, dataset).iter_rows()}
    assert rows["no. 7"]["error"] == kept["no. 7"]["error"]
    here = RowScorer(fitted).of_features(expected)
    assert [rows[f"no. {i}"]["score"] for i in range(N)] == here["score"]


@pytest.mark.slow
def test_features(cluster, one_thread, rng):
    X = rng.gamma(2.0, size=(200, 8)).astype(np.float32)
    X[3] = np.inf
    head = np.eye(3, 8), np.zeros(3)
    detector = ReActDetector(head).fit(np.delete(X, 3, axis=0))
    dataset = ray.data.from_numpy(X)
    rows = score(detector, dataset, workers=1, preserve_order=True).take_all()
    assert list(rows[0]) == ["score", "decision", "class", "error"]
    assert rows.pop(3)["error"].endswith("is not finite")
    expected = detector.score_samples(np.delete(X, 3, axis=0))
    assert [row["score"] for row in rows] == expected.tolist()
    assert {row["error"] for row in rows} == {None}


class Deadly:
    """Kills its actor once, in the middle of the rows."""

    def __init__(self, mark):
        self.mark = Path(mark)

    def __call__(self, table):
        if "no. 40" in table["id"].to_pylist() and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return table


@pytest.mark.slow
def test_a_killed_actor_changes_nothing(cluster, one_thread, pipeline, data, tmp_path):
    dataset = dataset_of(data).map_batches(
        Deadly,
        fn_constructor_args=[str(tmp_path / "killed")],
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_format="pyarrow",
    )
    # The two steps are one actor: the model dies, too.
    scores = score(pipeline, dataset, workers=2, preserve_order=True)
    rows = scores.take_all()
    assert (tmp_path / "killed").exists()
    assert [row.pop("id") for row in rows] == [f"no. {i}" for i in range(N)]
    assert rows == rows_here(pipeline, data)


JOB = """
import os, sys, time
import ray
from ray.data.checkpoint import CheckpointConfig
from torchvision import transforms
from reactood import make_react_pipeline
from reactood.datasets import digits_classifier
from reactood.distributed import fit, score
from reactood.persistence import save

address, folder, task, seen = sys.argv[1:]
ray.init(address, log_to_driver=False, logging_level="ERROR")
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
context.checkpoint_config = CheckpointConfig("path", f"{folder}/checkpoint")

def note(table):
    time.sleep(0.5)
    for path in table["path"].to_pylist():
        open(f"{folder}/{seen}/{os.path.basename(path)}", "w").close()
    return table

images = ray.data.read_parquet(f"{folder}/list")
images = images.repartition(target_num_rows_per_block=5)
images = images.map_batches(note, batch_size=None, batch_format="pyarrow")
options = {"column": "path", "workers": 1, "batch_size": 5}
if task == "score":
    detector = f"{folder}/detector.safetensors"
    scores = score(detector, images, model=digits_classifier, **options)
    scores.write_parquet(f"{folder}/result")
else:
    preprocess = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    pipeline = make_react_pipeline(digits_classifier, preprocess=preprocess)
    fitted = fit(pipeline, images, features=f"{folder}/result", **options)
    save(fitted, f"{folder}/fitted.safetensors")
"""


@pytest.fixture
def killed_job(cluster, one_thread, tmp_path):
    """Return what runs a job that is killed, and what runs it to its end."""
    digits = load_digits_ood()
    write_pictures(tmp_path / "photos", digits.X_train[:60])
    paths = [str(path) for path in list_images(tmp_path / "photos")]
    (tmp_path / "list").mkdir()
    for i in range(0, 60, 5):
        table = pa.table({"path": paths[i : i + 5]})
        parquet.write_table(table, tmp_path / f"list/{i:02}.parquet")
    for seen in ("first", "second", "third"):
        (tmp_path / seen).mkdir()

    def command(task, seen):
        return [sys.executable, "-c", JOB, cluster, str(tmp_path), task, seen]

    def kill(task):
        """Kill a job, and return the paths that its checkpoint holds."""
        job = subprocess.Popen(command(task, "first"), cwd=ROOT)
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("result/*.parquet"))) < 3:
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        job.kill()
        job.wait()
        done = {
            path
            for file in tmp_path.glob("checkpoint/*.parquet")
            for path in parquet.read_table(file)["path"].to_pylist()
        }
        assert 0 < len(done) < 60
        return done

    def run_again(task, seen="second"):
        return subprocess.run(
            command(task, seen), cwd=ROOT, capture_output=True, text=True
        )

    return paths, kill, run_again


@pytest.mark.slow
def test_a_killed_job_goes_on(killed_job, tmp_path):
    fitted = make_react_pipeline(digits_classifier, preprocess=preprocess())
    fitted.fit(load_digits_ood().X_test[:200])
    save(fitted, tmp_path / "detector.safetensors")
    paths, kill, run_again = killed_job
    done = kill("score")
    ended = run_again("score")
    assert ended.returncode == 0, ended.stderr
    again = {
        str(tmp_path / "photos" / name) for name in os.listdir(tmp_path / "second")
    }
    assert again == set(paths) - done
    rows = parquet.read_table(tmp_path / "result").sort_by("path").to_pylist()
    assert [row.pop("path") for row in rows] == paths
    columns = RowScorer(fitted).of_images(paths)
    np.testing.assert_allclose([row["score"] for row in rows], columns["score"], 1e-6)
    assert [row["class"] for row in rows] == columns["class"]


@pytest.mark.slow
def test_a_killed_fit_goes_on_and_counts_each_image_once(killed_job, tmp_path):
    paths, kill, run_again = killed_job
    done = kill("fit")
    first = {file: file.stat().st_mtime_ns for file in tmp_path.glob("result/*")}
    ended = run_again("fit")
    assert ended.returncode == 0, ended.stderr
    kept = [file for file in first if file.exists()]
    assert all(file.stat().st_mtime_ns == first[file] for file in kept)
    rows = [parquet.read_table(file, columns=["path"])["path"] for file in kept]
    assert {str(path) for column in rows for path in column.to_pylist()} == done
    table = parquet.read_table(tmp_path / "result")
    assert sorted(table["path"].to_pylist()) == paths
    fitted = load(tmp_path / "fitted.safetensors", model=digits_classifier)
    alone = make_react_pipeline(
        digits_classifier, preprocess=preprocess(), batch_size=5
    )
    alone = alone.fit_stream([paths])
    assert fitted[-1].n_samples_seen_ == alone[-1].n_samples_seen_ == 60
    for name in "activation_threshold_", "offset_":
        np.testing.assert_allclose(getattr(fitted[-1], name), getattr(alone[-1], name))
    # Once more: all is there, and the checkpoint has gone.
    ended = run_again("fit", "third")
    assert ended.returncode == 1
    assert "FileExistsError" in ended.stderr
    assert parquet.read_table(tmp_path / "result").num_rows == 60


@pytest.mark.slow
def test_the_command_gives_the_same_rows(digits, detector, run, tmp_path, cluster):
    model = "--model", "reactood.datasets:digits_classifier", "--batch-size", 4
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    assert run("score", detector, digits / "new", *model, "-o", here) == 3
    arguments = "score", detector, digits / "new", *model, "-o", there, "--ray"
    command = [sys.executable, "-m", "reactood", *map(str, arguments), cluster]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=settings, stderr=subprocess.PIPE)
    assert result.returncode == 3, result.stderr
    assert b"33 images, 1 could not be read. Written: " in result.stderr
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.slow
def test_a_search_on_a_cluster_finds_the_same(cluster, rng):
    from ray.util.joblib import register_ray

    X = np.r_[rng.gamma(2.0, size=(200, 8)), rng.gamma(2.0, 1.5, size=(60, 8))]
    y = np.r_[np.ones(200), -np.ones(60)]
    detector = ReActDetector((np.eye(3, 8), np.zeros(3)), check_score=False)
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    grid = {"percentile": [80, 90, 95]}
    search = GridSearchCV(detector, grid, scoring="roc_auc", cv=cv)
    here = search.fit(X, y).cv_results_["mean_test_score"]
    register_ray()
    with joblib.parallel_config("ray", n_jobs=2):
        there = search.fit(X, y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(here, there)
