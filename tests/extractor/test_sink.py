"""Features in memory, in an array of the user's or in a file: whole, or not there."""

import errno
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import conv_net
from torch.utils.data import DataLoader, TensorDataset

import reactood._utils._new_file
from reactood import TorchFeatureExtractor
from reactood.extractor._sink import Rows

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs locks, links or signals")


def filled(rows, n=4):
    rows.write(list(range(n)), np.ones((n, rows.width), np.float32))
    return rows


def full_disk(descriptor, offset, n_bytes):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- the space on the disk -------------------------------------------------------


def test_a_full_disk_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full_disk, raising=False)
    sentence = (
        r"No space left on device: out='.*features\.npy' takes 16128 bytes for 4 "
    )
    with pytest.raises(OSError, match=sentence) as caught:
        Rows(4, 1000, tmp_path / "features.npy")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


@POSIX
def test_a_real_limit_is_an_error_and_no_signal(tmp_path):
    code = (
        "import resource, signal, sys; from reactood.extractor._sink import Rows;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
        "Rows(4, 1000, sys.argv[1])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "features.npy"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and "takes 16128 bytes" in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="has no such function")
def test_the_space_is_reserved(tmp_path):
    rows = Rows(1000, 1000, tmp_path / "features.npy")
    status = os.stat(rows.part.file.name)
    assert status.st_size == 128 + 4_000_000
    assert 512 * status.st_blocks >= 4_000_000
    rows.abandon()


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_that_cannot_reserve_space(tmp_path, monkeypatch, error):
    def cannot(*args):
        raise OSError(error, "cannot")

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    rows = filled(Rows(4, 3, tmp_path / "features.npy"))
    np.testing.assert_array_equal(rows.finish(), np.ones((4, 3)))


# --- where it goes -------------------------------------------------------------------


def test_a_folder_is_refused_at_once(tmp_path):
    (tmp_path / "features.npy").mkdir()
    with pytest.raises(
        ValueError, match=r"features\.npy' is a folder; expected a file"
    ):
        Rows(4, 3, tmp_path / "features.npy")
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere'"):
        Rows(4, 3, tmp_path / "nowhere" / "features.npy")
    with pytest.raises(ValueError, match=r"name ends in \.npy"):
        Rows(4, 3, tmp_path)
    assert os.listdir(tmp_path) == ["features.npy"]


def test_the_file_is_numpys_own(tmp_path):
    rows = filled(Rows(4, 3, str(tmp_path / "features.npy")))
    assert isinstance(rows.finish(), np.memmap)
    loaded = np.load(tmp_path / "features.npy")
    assert loaded.dtype == np.float32 and loaded.shape == (4, 3)
    np.save(tmp_path / "saved.npy", loaded)
    saved, ours = (tmp_path / f"{n}.npy" for n in ("saved", "features"))
    assert saved.read_bytes() == ours.read_bytes()
    assert filled(Rows(4, 3, os.fsencode(tmp_path / "features.npy"))).finish().all()


@POSIX
def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    filled(Rows(4, 3, tmp_path / "features.npy")).finish()
    modes = [os.stat(tmp_path / name).st_mode for name in ("other", "features.npy")]
    assert stat.S_IMODE(modes[0]) == stat.S_IMODE(modes[1])


@POSIX
def test_nobody_can_put_a_link_in_the_way(tmp_path, monkeypatch):
    """Even with the name guessed, what it points at is left alone."""
    tokens = iter(["guessed", "other"])
    monkeypatch.setattr(
        reactood._utils._new_file.secrets, "token_hex", lambda n: next(tokens)
    )
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    name = f"{reactood._utils._new_file._prefix()}{os.getpid()}-guessed.part"
    (tmp_path / name).symlink_to(victim)
    monkeypatch.setattr(
        reactood._utils._new_file, "_remove_litter", lambda folder: None
    )
    with pytest.raises(FileExistsError):
        Rows(4, 3, tmp_path / "features.npy")
    assert victim.read_bytes() == b"precious"


# --- nothing stays behind ------------------------------------------------------------


def test_a_short_source_leaves_no_file(tmp_path):
    rows = filled(Rows(5, 3, tmp_path / "features.npy"))
    with pytest.raises(RuntimeError, match="Got 4 images, and 5 were announced"):
        rows.finish()
    assert os.listdir(tmp_path) == []


def test_a_place_that_turns_into_a_folder_leaves_no_file(tmp_path):
    rows = filled(Rows(4, 3, tmp_path / "features.npy"))
    (tmp_path / "features.npy").mkdir()
    with pytest.raises(OSError):
        rows.finish()
    assert os.listdir(tmp_path) == ["features.npy"]


KILLED = """
import os, sys, time
from reactood.extractor._sink import Rows
rows = Rows(4, 3, sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


@POSIX
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_the_files_of_killed_processes_are_removed_at_the_next_use(tmp_path, how):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path / f"{i}.npy"],
            stdout=subprocess.PIPE,
        )
        for i in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
    assert len(os.listdir(tmp_path)) == 2
    processes[0].send_signal(getattr(signal, how))
    processes[0].wait()
    filled(Rows(4, 3, tmp_path / "mine.npy")).finish()
    left = sorted(os.listdir(tmp_path))
    assert len(left) == 2 and f"-{processes[1].pid}-" in left[0]  # it is alive
    processes[1].kill()
    processes[1].wait()
    filled(Rows(4, 3, tmp_path / "mine.npy")).finish()
    assert os.listdir(tmp_path) == ["mine.npy"]


@POSIX
def test_a_process_id_that_is_used_again(tmp_path):
    """The file of a dead process whose number is now another's: not locked, so gone."""
    litter = tmp_path / f"{reactood._utils._new_file._prefix()}{os.getpid()}-abcd.part"
    litter.write_bytes(b"litter")
    rows = Rows(4, 3, tmp_path / "mine.npy")
    assert not litter.exists()
    two = Rows(4, 3, tmp_path / "mine.npy")  # of the same process, and at work
    assert rows.part.file.name.exists()
    filled(two).finish()
    filled(rows).finish()
    assert os.listdir(tmp_path) == ["mine.npy"]


def test_files_of_others_stay(tmp_path):
    others = (
        ".features.npy.part",
        f".reactood-00000000-{os.getpid()}-abcd.part",  # of another machine
        f"{reactood._utils._new_file._prefix()}what-abcd.part",
    )
    for name in others:
        (tmp_path / name).touch()
    if os.name == "posix":
        os.mkfifo(tmp_path / f"{reactood._utils._new_file._prefix()}1-abcd.part")
    filled(Rows(4, 3, tmp_path / "mine.npy")).finish()
    assert set(others) <= set(os.listdir(tmp_path))


@POSIX
def test_without_locks_the_process_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(reactood._utils._new_file, "fcntl", None)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f"{reactood._utils._new_file._prefix()}{pid}-abcd.part").touch()
    filled(Rows(4, 3, tmp_path / "mine.npy")).finish()
    left = f"{reactood._utils._new_file._prefix()}{os.getpid()}-abcd.part"
    assert sorted(os.listdir(tmp_path)) == [left, "mine.npy"]


# --- memory --------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 255, 256, 257, 1000, 5000])
def test_rows_of_unknown_number_take_no_more_memory_than_they_need(n_rows):
    rows = Rows(None, 3)
    for start in range(0, n_rows, 7):
        some = list(range(start, min(start + 7, n_rows)))
        rows.write(some, np.array(some, np.float32)[:, None])
    array = rows.finish()
    assert array.shape == (n_rows, 3)
    np.testing.assert_array_equal(array, np.arange(n_rows)[:, None] * np.ones(3))
    assert array.base is None or array.base.nbytes == array.nbytes


PEAK = """
import resource, sys
import numpy as np
from reactood.extractor._sink import Rows
block, rows = np.ones((1000, 1000), np.float32), Rows(None, 1000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, 60_000, 1000):
    rows.write(list(range(start, start + 1000)), block)
array = rows.finish()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
print(array.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory moves without a copy there")
def test_the_peak_is_below_two_copies():
    result = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True
    )
    peak, n_bytes = map(int, result.stdout.split())
    assert peak < 1.7 * n_bytes


def test_features_of_a_loader_own_their_memory(rng):
    X = torch.from_numpy(rng.normal(size=(300, 3, 5, 5)).astype(np.float32))
    extractor = TorchFeatureExtractor(conv_net)
    features = extractor.fit_transform(DataLoader(TensorDataset(X), batch_size=50))
    assert features.base is None and features.shape == (300, 8)
