"""What is replaced by a new file, and what is not."""

import os
import stat

import pytest

from reactood._utils._new_file import NewFile, write_whole

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX files")


def written(path):
    file = NewFile(path)
    file.stream.write(b"new")
    file.publish()


def test_what_is_no_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="something that is no file"):
            NewFile(tmp_path / name)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_a_private_file_stays_private(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    written(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("size", [2000, 100_000])  # less, and more, than a buffer
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, full_disk, size):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with full_disk(1000), pytest.raises(OSError, match="too large") as raised:
        write_whole(path, b"x" * size)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
