"""Tables that are gone on with after a cut, and files that are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reactood._cli import _table as tables
from reactood._cli._table import Table

COLUMNS = "path", "score", "class", "error"
PATHS = [f"{i}.png" for i in range(10)]


def rows_of(paths):
    values = {"score": 1 / 3, "class": 2, "error": None}
    return [{"path": path} | values for path in paths]


def table(path, paths=PATHS, *, detector="d", settings=None, force=False):
    return Table(
        path,
        COLUMNS,
        paths,
        detector=detector,
        settings={"batch size": 2} | (settings or {}),
        force=force,
    )


def begin(path, n_rows=4):
    """Write some rows, and leave as if the process were killed."""
    with table(path) as begun:
        begun.append(rows_of(PATHS[:n_rows]))


def complete(path, **settings):
    with table(path, **settings) as rest:
        rest.append(rows_of(PATHS[rest.n_done :]))
        rest.finish()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("torn", [b"", b"4.png,0.3", b'"4.png\nx', b"4.png,0.3,2,\n5"])
def test_a_torn_end_is_dropped(tmp_path, suffix, torn):
    complete(tmp_path / f"whole.{suffix}")
    out = tmp_path / f"scores.{suffix}"
    begin(out)
    with open(out, "ab") as stream:
        stream.write(torn)
    with table(out) as rest:
        assert rest.n_done == 4
    complete(out)
    assert out.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert not tables.Path(f"{out}.state.json").exists()


@pytest.mark.parametrize("missing", [False, True])
def test_a_cut_before_the_first_row(tmp_path, missing):
    complete(tmp_path / "whole.csv")
    out = tmp_path / "scores.csv"
    with table(out):
        pass
    state = json.loads((tmp_path / "scores.csv.state.json").read_text())
    if missing:  # the state is written first
        out.unlink()
        state["bytes"] = 0
        (tmp_path / "scores.csv.state.json").write_text(json.dumps(state))
    complete(out)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_cut_after_the_last_row(tmp_path):
    out = tmp_path / "scores.csv"
    begin(out, n_rows=10)
    with table(out) as rest:
        assert rest.n_done == 10
        rest.finish()
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_an_error_while_writing_leaves_complete_rows(tmp_path, monkeypatch):
    out = tmp_path / "scores.csv"
    begin(out)
    before = out.read_bytes()
    with pytest.raises(OSError, match="full"), table(out) as rest:
        monkeypatch.setattr(tables.os, "fsync", fail)
        rest.append(rows_of(PATHS[4:6]))
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("n_bytes", [0, 10, 400, 700])
def test_a_full_disk_is_named_and_gone_on_after(tmp_path, full_disk, suffix, n_bytes):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    paths = [f"{i}.png" for i in range(100)]
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"t.{suffix}"
    with table(whole, paths=paths) as other:
        other.append(rows_of(paths))
        other.finish()
    with full_disk(n_bytes), pytest.raises(OSError, match="too large") as raised:
        with table(out, paths=paths) as cut:
            while cut.n_done < 100:
                cut.append(rows_of(paths[cut.n_done : cut.n_done + 4]))
    assert Path(raised.value.filename).name.startswith(out.name)
    assert not list(tmp_path.glob("*.state.json.part"))
    with table(out, paths=paths) as rest:
        rest.append(rows_of(paths[rest.n_done :]))
        rest.finish()
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([out.name, whole.name])


def test_a_full_disk_at_the_end_of_parquet(tmp_path, full_disk):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "t.parquet"
    with full_disk(1000), pytest.raises(OSError, match="too large"):
        complete(out)
    assert not out.exists() and not list(tmp_path.glob("*.part"))
    complete(out)
    assert parquet.read_table(out).to_pylist() == rows_of(PATHS)


def fail(*arguments):
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"detector": "e"}, "begun with another detector, 'd', and this is 'e'"),
        ({"settings": {"batch size": 3}}, "begun with another batch size, 2, and"),
        ({"paths": PATHS[::-1]}, "4 rows are not the first 4 of the 10 images"),
        ({"paths": PATHS[:3]}, "4 rows are not the first 4 of the 3 images"),
    ],
)
def test_another_run_is_refused(tmp_path, change, text):
    out = tmp_path / "scores.csv"
    begin(out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=text) as raised, table(out, **change):
        pass
    assert "--force" in str(raised.value)
    assert out.read_bytes() == before
    with table(out, **change, force=True) as again:
        assert again.n_done == 0


def test_images_that_were_added_at_the_end_are_scored_too(tmp_path):
    out = tmp_path / "scores.csv"
    begin(out)
    with table(out, paths=[*PATHS, "10.png"]) as rest:
        assert rest.n_done == 4


def test_what_is_there_is_not_replaced(tmp_path):
    out = tmp_path / "scores.csv"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"), table(out):
        pass
    assert out.read_text() == "mine"
    complete(out, force=True)
    assert out.read_text().startswith("path,score")


def test_a_table_or_a_state_that_was_changed(tmp_path):
    out = tmp_path / "scores.csv"
    begin(out)
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(ValueError, match="it was changed"), table(out):
        pass
    (tmp_path / "scores.csv.state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state\.json' cannot be read"), table(out):
        pass


def test_two_processes_at_once(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "scores.csv"
    begin(out)
    with open(out, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="Another process is writing"), table(out):
            pass
    complete(out)


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
def test_force_does_not_take_a_table_from_a_running_process(tmp_path):
    path = tmp_path / "t.csv"
    with table(path) as first:
        first.append(rows_of(PATHS[:4]))
        with pytest.raises(ValueError, match="Another process is writing"):
            table(path, force=True).__enter__()
        first.append(rows_of(PATHS[4:]))
        first.finish()
    assert len(path.read_text().splitlines()) == 1 + len(PATHS)


def test_parquet_goes_on_too(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    complete(tmp_path / "whole.parquet")
    out = tmp_path / "scores.parquet"
    begin(out)
    assert not out.exists()
    complete(out)
    expected = rows_of(PATHS)
    for file in (out, tmp_path / "whole.parquet"):
        assert parquet.read_table(file).to_pylist() == expected
    assert sorted(os.listdir(tmp_path)) == ["scores.parquet", "whole.parquet"]


def test_parquet_of_class_names_and_odd_paths(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "scores.parquet"
    rows = rows_of(["a.png", "\udcff.png"])
    rows[0] |= {"class": None, "score": None, "error": "bad"}
    rows[1] |= {"class": "cat"}
    with table(out, paths=["a.png", "\udcff.png"]) as whole:
        whole.append(rows)
        assert whole.n_errors == 1
        whole.finish()
    rows[1]["path"] = r"\udcff.png"
    assert parquet.read_table(out).to_pylist() == rows


SLOW = """
import time
from torchvision import transforms

def transform():
    return transforms.Compose([transforms.Grayscale(), wait, transforms.ToTensor()])

def wait(image):
    time.sleep(0.1)
    return image
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "suffix"),
    [
        (signal.SIGKILL, "csv"),
        (signal.SIGKILL, "jsonl"),
        (signal.SIGKILL, "parquet"),
        (signal.SIGINT, "csv"),
    ],
)
@pytest.mark.filterwarnings("ignore:preprocess= is not the function that was saved")
def test_a_killed_run_goes_on(digits, model, run, tmp_path, capsys, sign, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"scores.{suffix}"
    (tmp_path / "slow.py").write_text(SLOW)
    slow = *model[:2], "--preprocess", f"{tmp_path / 'slow.py'}:transform"
    file = tmp_path / "slow.safetensors"
    run("fit", *slow, "--id", digits / "train/0", "--limit", 8, "-o", file)
    arguments = "score", file, digits / "new", *slow, "--batch-size", 2
    assert run(*arguments, "-o", whole) == 3
    state = tmp_path / f"scores.{suffix}.state.json"
    command = [sys.executable, "-m", "reactood", *map(str, arguments), "-o", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (
            state.exists() and json.loads(state.read_text())["rows"]
        ):
            time.sleep(0.02)
        process.send_signal(sign)
        errors = process.stderr.read()
    n_rows = json.loads(state.read_text())["rows"]
    assert 0 < n_rows < 33 and b"Traceback" not in errors
    assert process.returncode == (130 if sign == signal.SIGINT else -sign)
    # Other images, another detector and other preprocessing are refused.
    args = *arguments[:2], digits / "train/1", *arguments[3:]
    assert run(*args, "-o", out) == 1
    assert "was begun with other images" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    run("fit", *slow, "--id", digits / "train/1", "--limit", 8, "-o", other)
    assert run("score", other, *arguments[2:], "-o", out) == 1
    assert "was begun with another detector" in capsys.readouterr().err
    inverted = SLOW.replace("wait, ", "transforms.RandomInvert(1), ")
    (tmp_path / "inverted.py").write_text(inverted)
    changed = *model[:2], "--preprocess", f"{tmp_path / 'inverted.py'}:transform"
    args = *arguments[:3], *changed, "--batch-size", 2
    assert run(*args, "-o", out) == 1
    assert "was begun with another preprocessing" in capsys.readouterr().err
    assert run(*arguments, "-o", out) == 3
    assert out.read_bytes() == whole.read_bytes()
    assert not state.exists()
