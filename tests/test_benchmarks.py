"""The benchmarks run; what they measure is not for tests."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "script",
    [
        "scoring.py",
        "extraction.py",
        "search.py",
        "selection.py",
        "streams.py",
        pytest.param("export.py", marks=pytest.mark.slow),
        pytest.param("distributed.py", marks=pytest.mark.slow),
        pytest.param("memory_map.py", marks=pytest.mark.slow),
    ],
)
def test_smoke(script):
    assert "| ratio " in run(script, "--smoke")


def test_smoke_of_the_monitor():
    out = run("monitoring.py", "--smoke")
    assert "| median " in out and "| false alarms " in out and "| batch " in out


@pytest.mark.parametrize(
    "script", ["imagenet_sample.py", "surrogates.py", "selection_without_ood.py"]
)
def test_real_images_are_skipped_with_a_reason_where_there_are_none(tmp_path, script):
    assert run(script, "--data", tmp_path).startswith("Skipped: ")
