"""The command line."""

import re
import subprocess
import sys

import pytest

from reactood.__main__ import main


def test_demo_prints_the_table_and_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "demo.png"
    main(["demo", "--out", str(picture)])
    text = capsys.readouterr().out
    rows = {
        line.split()[0]: [float(v) for v in line.split()[-6:]]
        for line in text.splitlines()
        if re.match(r"^(held_out|photo_|letters|symbols|mean)", line)
    }
    assert len(rows) == 6
    for column in range(6):
        values = [row[column] for name, row in rows.items() if name != "mean"]
        assert rows["mean"][column] == pytest.approx(sum(values) / 5, abs=0.11)
    (_, _, _, energy, _, react) = rows["mean"]
    assert react > energy
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in text


def test_demo_without_matplotlib(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    main(["demo"])
    assert "pip install 'reactood[plot]'" in capsys.readouterr().out


def test_help_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "reactood", "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert "demo" in result.stdout


def test_unknown_command(capsys):
    with pytest.raises(SystemExit):
        main(["dmo"])
    assert "invalid choice" in capsys.readouterr().err
