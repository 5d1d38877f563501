"""Images that are named by folders, files, patterns, and lists on stdin."""

import io
import os
import sys

import pytest

from reactood._cli._inputs import draw, list_inputs
from reactood.datasets import list_images


@pytest.fixture
def stdin(monkeypatch):
    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def test_folders_files_and_patterns(photos, tmp_path):
    folder = tmp_path / "photos"
    everything = [str(path) for path in list_images(folder)]
    assert list_inputs([str(folder)]) == everything
    assert list_inputs([str(photos[2]), str(photos[0])]) == [
        str(photos[2]),
        str(photos[0]),
    ]
    assert list_inputs([f"{folder}/**/*.jpg"]) == [
        path for path in everything if path.endswith(".jpg")
    ]
    assert list_inputs([f"{folder}/class*"]) == everything
    odd = tmp_path / "a[1].png"
    odd.write_bytes(photos[0].read_bytes())
    assert list_inputs([str(odd)]) == [str(odd)]


def test_lists_on_stdin(stdin, photos):
    stdin(b"a.png\r\n\nb c.png\n")
    assert list_inputs(["-"]) == ["a.png", "b c.png"]
    stdin(b"a\nb.png\0c.png\0")
    assert list_inputs([], null=True) == ["a\nb.png", "c.png"]
    stdin(b"x.png")
    assert list_inputs([str(photos[0]), "-"]) == [str(photos[0]), "x.png"]
    stdin(b"\xff.png\n")
    (path,) = list_inputs(["-"])
    assert os.fsencode(path) == b"\xff.png"


def test_no_images(stdin, tmp_path):
    stdin(b"\n")
    with pytest.raises(ValueError, match="list on stdin is empty"):
        list_inputs(["-"])
    for name in ("nowhere", "nowhere/*.png"):
        with pytest.raises(FileNotFoundError, match=r"no file or folder 'nowhere"):
            list_inputs([name])
    with pytest.raises(ValueError, match="holds no image files"):
        list_inputs([str(tmp_path)])


def test_a_draw_is_repeatable_and_in_order():
    paths = [f"{i:03}.png" for i in range(100)]
    some = draw(paths, 10, 0)
    assert len(set(some)) == 10 and some == sorted(some)
    assert some == draw(paths, 10, 0) != draw(paths, 10, 1)
    assert draw(paths, None, 0) == draw(paths, 100, 0) == paths
